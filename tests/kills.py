"""Kill a training run with SIGKILL at random moments and at every system call of a save; go on; compare bit for bit.

python tests/kills.py FOLDER KILLS SEED. Prints one JSON object: what was killed, and whether anything differed.
A process of its own, because it forks: children inherit the imported torch and start in milliseconds.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import llmkit.training.checkpoint as checkpoint
from llmkit.data.sampler import Sampler, Windows
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.training.checkpoint import checkpoints, load_checkpoint
from llmkit.training.optim import AdamW, decay_groups
from llmkit.training.runlog import read_log
from llmkit.training.settings import Settings
from llmkit.training.trainer import Trainer

N_STEPS, SAVE_EVERY = 100, 2
torch.set_num_threads(1)


def trainer(folder):
    torch.manual_seed(0)
    model = gpt2(GPT2Config(vocab_size=19, max_len=16, d_model=16, n_layers=2, n_heads=2, dropout=0.1))
    rows = Windows([(i * i + i // 7) % 19 for i in range(600)], 12)
    settings = Settings(N_STEPS, ema=0.9, save_every=SAVE_EVERY, log_every=1, accumulate=2)
    return Trainer(model, AdamW(decay_groups(model), 1e-2), Sampler(rows, 4), lambda step: 1e-2 / (1 + step), settings,
                   folder, progress=False)  # fmt: skip


def life(folder, kill_at_call=None, until_next_save=False):
    """In a child: resume and train, to the end or for one more save, or until a file operation of a save kills it."""
    pid = os.fork()
    if pid:
        return pid
    try:
        t = trainer(folder)
        t.resume()
        if kill_at_call is not None:
            die_at(kill_at_call, Path(folder))
        t.fit(until=t.step + SAVE_EVERY if until_next_save else None)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def die_at(k, folder):
    """SIGKILL before the k-th operation on files that saving does; after the last one, when a save is through."""
    calls = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            if calls == k:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return function(*args, **kwargs)

        return call

    checkpoint.write_tensors = counted(checkpoint.write_tensors)
    checkpoint.os = type("os", (), {name: getattr(os, name) for name in dir(os) if not name.startswith("__")})
    for name in ("fsync", "rename"):
        setattr(checkpoint.os, name, staticmethod(counted(getattr(os, name))))
    checkpoint.shutil = type("shutil", (), {"rmtree": staticmethod(counted(shutil.rmtree))})


def wait(pid):
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def outcome(folder):
    """Everything a finished run leaves behind that is not a time."""
    tensors, state = load_checkpoint(checkpoints(folder / "checkpoints")[-1])
    lines = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_log(folder / "metrics.jsonl")]
    return tensors, {k: v for k, v in state.items() if k != "files"}, lines


def same(first, second):
    tensors = all(
        first[0][g].keys() == second[0][g].keys()
        and all(torch.equal(t, second[0][g][n]) for n, t in first[0][g].items())
        for g in first[0]
    )
    return tensors and first[1:] == second[1:]


def main(folder, n_kills, seed):
    rng, folder = random.Random(seed), Path(folder)
    begin = time.perf_counter()
    assert wait(life(folder / "reference")) == 0
    whole_life = time.perf_counter() - begin
    reference = outcome(folder / "reference")
    report = {"kills": 0, "in_a_save": 0, "runs": 0, "different": 0, "failed": 0, "killed_at_a_call": 0}
    while report["kills"] < n_kills:
        run = folder / f"run-{report['runs']}"
        while True:
            pid = life(run)
            time.sleep(rng.uniform(0.0, 0.35 * whole_life) if report["kills"] < n_kills else 0)
            if report["kills"] < n_kills:
                os.kill(pid, signal.SIGKILL)
            code = wait(pid)
            if code == 0:
                break
            report["failed"] += code != -signal.SIGKILL
            report["kills"] += code == -signal.SIGKILL
            left = [*run.glob("checkpoints/*.partial"), *run.glob("checkpoints/*.removed")]
            report["in_a_save"] += bool(left)
        report["runs"] += 1
        report["different"] += not same(reference, outcome(run))
    run = folder / "calls"
    while True:  # killed at the first call of a save, at the second call of a later one, … until no call is left
        code = wait(life(run, report["killed_at_a_call"]))
        if code == 0:
            break
        report["failed"] += code != -signal.SIGKILL
        report["killed_at_a_call"] += 1
        report["failed"] += wait(life(run, until_next_save=True)) != 0
    report["different"] += not same(reference, outcome(run))
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
