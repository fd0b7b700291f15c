"""Several processes give what one gives: DDP and FSDP2 over gloo, other numbers of ranks, ranks that die."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from test_trainer import trainer

from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.training import distributed
from llmkit.training.checkpoint import load_newest
from llmkit.training.runlog import read_log

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

RUN = """
import sys
sys.path.insert(0, {tests!r})
from test_trainer import *
from test_training_distributed import experts
from llmkit.training import distributed

folder = sys.argv[1]
with distributed.process_group(torch.device("cpu"), timeout_s=60):
    for kind, optimizer, start, until in {stages!r}:
        model = {build}()
        forward = distributed.parallelize(model, kind)
        t = trainer(f"{{folder}}/{{kind}}-{{optimizer}}-{{start}}", optimizer, model, n_steps=8, batch_size=6,
                    accumulate=2, ema=0.8, save_every=4, evaluate_every=4)
        t.forward = forward
        if optimizer == "adamw":
            t.optimizer.eps = 1e-5
        t.resume()
{before}
        t.fit(until)
"""


def experts():
    """So many that some are idle in every step, and others on one rank only."""
    torch.manual_seed(0)
    return mixtral(MixtralConfig(19, 16, 2, 2, 2, d_ff=24, n_experts=24, top_k=1))


def run(tmp_path, stages, before="", options=(), code=0, build="build"):
    tmp_path.mkdir(exist_ok=True)
    script = tmp_path / "script.py"
    before = textwrap.indent(before, " " * 8)
    script.write_text(RUN.format(tests=os.path.dirname(__file__), stages=stages, before=before, build=build))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
    done = subprocess.run([*TORCHRUN, *options, str(script), str(tmp_path)], capture_output=True, text=True,
                          timeout=300, env=environment)  # fmt: skip
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


def alone(folder, optimizer, until=None, accumulate=2, model=None):
    from test_trainer import build

    t = trainer(folder, optimizer, model or build(), n_steps=8, batch_size=6, accumulate=accumulate, ema=0.8,
                save_every=4, evaluate_every=4)  # fmt: skip
    if optimizer == "adamw":
        t.optimizer.eps = 1e-5
    t.resume()
    t.fit(until)
    return t


# Sums in another order differ in the last bit, and eight steps carry that on. Muon makes its steps in bfloat16, where
# a last bit is 1 in 256.
TOLERANCE = {"adamw": 2e-5, "muon": 5e-3}


def close(first, second, optimizer):
    for group, tensors in first.items():
        assert tensors.keys() == second[group].keys()
        for name, tensor in tensors.items():
            assert (tensor.double() - second[group][name].double()).abs().max() < TOLERANCE[optimizer], (group, name)


def test_two_processes_are_one(tmp_path):
    stages = [(kind, optimizer, "new", 8) for kind in ("ddp", "fsdp") for optimizer in ("adamw", "muon")]
    stages += [("fsdp", "adamw", "from2to1", 4)]
    for optimizer in ("adamw", "muon"):
        t = alone(tmp_path / f"one-{optimizer}", optimizer)
        expected, _ = load_newest(tmp_path / f"one-{optimizer}/checkpoints")
        if optimizer == "adamw":
            alone(tmp_path / "fsdp-adamw-from1to2", optimizer, until=4)
            run(tmp_path, [*stages, ("fsdp", "adamw", "from1to2", 8)])
            alone(tmp_path / "fsdp-adamw-from2to1", optimizer)
        for kind in ("ddp", "fsdp"):
            folder = tmp_path / f"{kind}-{optimizer}-new"
            close(expected, load_newest(folder / "checkpoints")[0], optimizer)
            lines, ours = read_log(folder / "metrics.jsonl"), t.log.lines
            assert len(lines) == len(ours) == 10
            for line, one in zip(lines, ours, strict=True):
                for name in line.keys() - {"tokens_per_second"}:
                    assert line[name] == pytest.approx(one[name], rel=1e-3 if optimizer == "adamw" else 2e-2), name
        if optimizer == "adamw":
            for name in ("from1to2", "from2to1"):
                tensors, state = load_newest(tmp_path / f"fsdp-adamw-{name}/checkpoints")
                assert state["step"] == 8 and state["batches"]["batch"] == 8
                close(expected, tensors, "adamw")


STOP = """
if start == "stopped" and distributed.rank() == 1:
    honest = t.train_step
    def step():
        if t.step == 2:
            t.stop()
        return honest()
    t.train_step = step
"""


def test_experts_may_be_idle_and_one_rank_may_stop_all(tmp_path):
    alone(tmp_path / "one", "adamw", model=experts())
    expected, _ = load_newest(tmp_path / "one/checkpoints")
    steps = {int(value) for name, value in expected["optimizer"].items() if name.startswith("steps:")}
    assert 8 in steps and min(steps) < 8, "some experts must have been idle"
    stages = [("ddp", "adamw", "new", None), ("fsdp", "adamw", "new", 4), ("fsdp", "adamw", "new", None)]
    run(tmp_path, [*stages, ("ddp", "adamw", "stopped", None)], STOP, build="experts")
    for kind in ("ddp", "fsdp"):
        tensors, state = load_newest(tmp_path / f"{kind}-adamw-new/checkpoints")
        assert state["step"] == 8
        close(expected, tensors, "adamw")
    assert [line["step"] for line in read_log(tmp_path / "ddp-adamw-stopped/metrics.jsonl")] == [1, 2, 3]


DIE = """
import os, signal
mark = f"{folder}/died"
honest = t.train_step
def step():
    if distributed.rank() == 1 and t.step == 6 and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return honest()
t.train_step = step
"""


@pytest.mark.skipif(os.name == "nt", reason="kills as Unix does")
def test_a_rank_that_dies_ends_the_job_and_torchrun_begins_it_again(tmp_path):
    stage = [("ddp", "adamw", "new", None)]
    text = run(tmp_path / "once", stage, DIE, code=1)
    assert "SIGKILL" in text or "exitcode  : -9" in text, text
    assert load_newest(tmp_path / "once/ddp-adamw-new/checkpoints")[1]["step"] == 4
    run(tmp_path / "again", stage, DIE, ["--max-restarts=1"])
    tensors, state = load_newest(tmp_path / "again/ddp-adamw-new/checkpoints")
    assert state["step"] == 8
    alone(tmp_path / "one", "adamw")
    close(load_newest(tmp_path / "one/checkpoints")[0], tensors, "adamw")
    assert [line["step"] for line in read_log(tmp_path / "again/ddp-adamw-new/metrics.jsonl")] == [
        1, 2, 3, 4, 4, 5, 6, 7, 8, 8,
    ]  # fmt: skip


def test_one_process_needs_no_group():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    model = torch.nn.Linear(2, 2)
    assert distributed.parallelize(model, "fsdp") is model
    with pytest.raises(ValueError, match="'ddp' or 'fsdp', got 'tp'"):
        distributed.parallelize(model, "tp")
    with distributed.process_group(torch.device("cpu")) as device:
        assert device.type == "cpu" and distributed.any_rank(True) and not distributed.any_rank(False)
    x = torch.arange(3.0)
    assert torch.equal(distributed.all_sum(x.clone()), x) and distributed.agree_on("a") == "a"
