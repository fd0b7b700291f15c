"""The trainer: what a step is, how it resumes, what it refuses."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from llmkit import from_pretrained
from llmkit.data.packing import best_fit
from llmkit.data.sampler import PackedRows, Sampler, Windows
from llmkit.data.shard_writer import write_shards
from llmkit.evaluation.metrics import bits_per_byte
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.sentencepiece_bpe import SentencePieceBPE
from llmkit.tokenizers.wordpiece import WordPiece
from llmkit.training import run
from llmkit.training.__main__ import main
from llmkit.training.build import build_trainer
from llmkit.training.checkpoint import CheckpointError
from llmkit.training.evaluate import Validation, token_bytes
from llmkit.training.lock import only_one
from llmkit.training.losses import IGNORE, packed_loss, token_log_probs
from llmkit.training.muon import Muon
from llmkit.training.optim import AdamW, decay_groups
from llmkit.training.recompute import recompute_blocks
from llmkit.training.run import RunError, read_run
from llmkit.training.runlog import read_log
from llmkit.training.schedules import warmup_cosine, warmup_stable_decay
from llmkit.training.settings import Settings
from llmkit.training.snapshot import snapshot
from llmkit.training.trainer import Trainer

STORY = torch.tensor([(i * i + i // 7) % 19 for i in range(900)])


def build(seed=0, **options):
    torch.manual_seed(seed)
    return gpt2(GPT2Config(vocab_size=19, max_len=32, d_model=16, n_layers=2, n_heads=2, **options))


def trainer(folder=None, optimizer="adamw", model=None, rows=None, n_steps=12, batch_size=6, **settings):
    model = model or build(dropout=0.1)
    optimizer = Muon(model, weight_decay=0.0) if optimizer == "muon" else AdamW(decay_groups(model), 1e-2)
    sampler = Sampler(rows or Windows(STORY, 12), batch_size, seed=3)
    settings = Settings(n_steps, **{"log_every": 1, **settings})
    validation = Validation(Windows(STORY, 12), 8, 20)
    return Trainer(model, optimizer, sampler, lambda step: 1e-2 * 0.9**step, settings, folder, validation,
                   progress=False)  # fmt: skip


def equal(first, second):
    for group in first:
        assert first[group].keys() == second[group].keys()
        for name, tensor in first[group].items():
            assert torch.equal(tensor, second[group][name]), (group, name)


def state(t):
    return snapshot(t.model, t.optimizer, t.ema)


def plain(lines):
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "mfu")} for line in lines]


def test_a_step_is_the_step_that_torch_would_take():
    t, peer = trainer(model=build()), build()
    # k's biases have no gradient but rounding errors, and Adam would make whole steps of them: hence the large eps.
    optimizer = torch.optim.AdamW(decay_groups(peer), lr=1e-2, betas=(0.9, 0.95), eps=1e-5)
    t.optimizer.eps = 1e-5
    sampler = Sampler(Windows(STORY, 12), 6, seed=3)
    for step in range(5):
        ids, targets = sampler.next_batch()
        sampler.advance()
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-2 * 0.9**step
        optimizer.zero_grad()
        loss = F.cross_entropy(peer(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        line = t.train_step()
        assert line["loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert line["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)
        assert line["tokens"] == 72 * (step + 1) and line["lr"] == 1e-2 * 0.9**step
    for ours, theirs in zip(t.model.parameters(), peer.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_however_a_batch_is_cut_its_gradient_is_the_same(accumulate):
    """Rows with unlike numbers of targets: a mean of the parts' means would weigh them wrongly."""
    documents = [STORY[i : i + n].tolist() for i, n in enumerate((3, 30, 5, 9, 2, 25, 31, 4, 2, 2))]
    rows = PackedRows(best_fit(documents, 32))
    counts = {int((rows[i][1] != IGNORE).sum()) for i in range(len(rows))}
    assert len(counts) > 1
    whole, cut = (trainer(model=build(), rows=rows, batch_size=5, accumulate=n) for n in (1, accumulate))
    for t in (whole, cut):
        t.optimizer.step = lambda: None  # the gradients stay to be looked at
        t.settings = Settings(12, accumulate=t.settings.accumulate, max_norm=1e9)
    assert whole.train_step()["loss"] == pytest.approx(cut.train_step()["loss"], rel=1e-5)
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path, optimizer):
    options = {"optimizer": optimizer, "ema": 0.8, "save_every": 4, "evaluate_every": 6, "accumulate": 2}
    whole = trainer(tmp_path / "whole", **options)
    whole.fit()
    first = trainer(tmp_path / "cut", **options)
    first.fit(until=7)  # the last checkpoint is of step 4
    torch.randn(17)  # what happens between does not matter
    second = trainer(tmp_path / "cut", model=build(seed=5, dropout=0.1), **options)
    assert second.resume() == 4
    second.fit()
    equal(state(whole), state(second))
    logs = [plain(read_log(tmp_path / name / "metrics.jsonl")) for name in ("whole", "cut")]
    assert logs[0] == logs[1] and len(logs[0]) == 14
    assert any("ema_validation_loss" in line for line in logs[0])
    assert [path.name for path in sorted((tmp_path / "cut/checkpoints").iterdir())] == [
        "step-00000008",
        "step-00000012",
    ]


def test_dropout_differs_by_step_and_seed_and_not_in_evaluation():
    t, other = trainer(model=build(dropout=0.5)), trainer(model=build(dropout=0.5), seed=1)
    for each in (t, other):
        each.optimizer.step = lambda: None
        each.batches.advance = lambda: None
    first = t.train_step()["loss"]
    assert first != t.train_step()["loss"] and first != other.train_step()["loss"]
    t.step = 65536  # what a CPU's generator makes of a seed has 32 bits
    assert t.train_step()["loss"] != first
    assert t._evaluate() == t._evaluate() and t.model.training


def test_the_model_is_left_in_evaluation_mode():
    """Who generates next would not notice that it drops out; loop.train leaves it so too."""
    t = trainer()
    t.fit(3)
    assert not t.model.training
    t.fit()
    assert not t.model.training and t.step == 12


def test_the_last_step_is_logged_evaluated_and_saved(tmp_path):
    lines = trainer(tmp_path, n_steps=5, log_every=2).fit()
    assert [line["step"] for line in lines] == [2, 4, 5, 5] and "validation_loss" in lines[-1]
    assert trainer(tmp_path).resume() == 5


def test_going_back_to_the_beginning_forgets_what_the_optimizer_has_learned(tmp_path):
    t = trainer(tmp_path)
    t.save()
    before = state(t)
    t.fit(until=2)
    t.resume(step=0)
    equal(before, state(t))


def test_the_running_mean_of_the_weights():
    t = trainer(ema=0.75)
    mean = {name: p.detach().clone() for name, p in t.model.named_parameters()}
    for _ in range(3):
        t.train_step()
        mean = {
            name: 0.75 * m + 0.25 * p.detach() for (name, m), p in zip(mean.items(), t.model.parameters(), strict=True)
        }
    for name, tensor in t.ema.items():
        assert torch.allclose(tensor, mean[name], atol=1e-6)
    before = [p.detach().clone() for p in t.model.parameters()]
    figures = t._evaluate()
    assert figures["ema_validation_loss"] != figures["validation_loss"]
    assert all(torch.equal(p, b) for p, b in zip(t.model.parameters(), before, strict=True))


def test_an_interrupted_evaluation_leaves_the_weights_that_are_trained():
    t = trainer(ema=0.5)
    t.train_step()
    before, calls = [p.detach().clone() for p in t.model.parameters()], []

    def evaluate(model):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"x": 1.0}

    t.evaluate = evaluate
    with pytest.raises(KeyboardInterrupt):
        t._evaluate()
    assert all(torch.equal(p, b) for p, b in zip(t.model.parameters(), before, strict=True))


def test_the_pace_is_that_of_the_steps_alone(monkeypatch):
    from llmkit.training import trainer as module

    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    t = trainer(n_steps=4, evaluate_every=1)
    step = t.train_step
    t.train_step = lambda: now.__setitem__(0, now[0] + 2) or step()
    t.evaluate = lambda model: now.__setitem__(0, now[0] + 100) or {}
    assert [line["tokens_per_second"] for line in t.fit() if "loss" in line] == [36] * 4  # 72 tokens in 2 s


def test_rewind_and_skip(tmp_path):
    """After a bad stretch of data: back to a checkpoint before it, and past its batches."""
    t = trainer(tmp_path, save_every=3, keep=4)
    t.fit(until=9)
    assert t.resume(step=5) == 3 and t.batches.batch == 3
    t.batches.advance(4)
    t.fit(until=6)
    assert t.batches.batch == 10
    assert [line["step"] for line in read_log(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def poisoned(t, steps):
    """Make the loss of some steps infinite."""
    honest = t.loss

    def loss(model, *batch):
        summed = honest(model, *batch)
        return type(summed)(*(part * math.inf for part in summed)) if t.step in steps else summed

    t.loss = loss
    return t


def test_steps_that_are_not_finite_leave_the_weights_alone():
    t = poisoned(trainer(max_skips=2, ema=0.5), {1, 2, 5})
    t.train_step()
    before = state(t)
    assert t.train_step()["skipped"] == 1 and t.train_step()["skipped"] == 2
    equal(before, state(t))
    assert t.batches.batch == 3 and "skipped" not in t.train_step()
    assert t.train_step() and t.train_step()["skipped"] == 1, "counted in a row"
    with pytest.raises(FloatingPointError, match="3 steps in a row.*step 4.*rewind"):
        poisoned(trainer(max_skips=2), {2, 3, 4}).fit()


def test_skipped_steps_are_counted_over_a_resume(tmp_path):
    poisoned(trainer(tmp_path, save_every=3), {2}).fit(until=3)
    t = trainer(tmp_path)
    t.resume()
    assert t.skipped == 1


def test_recomputed_blocks_have_the_same_gradients():
    plain_model, recomputed = build(dropout=0.3), build(dropout=0.3)
    recompute_blocks(recomputed)
    ids, targets = Sampler(Windows(STORY, 12), 6).next_batch()
    saved = []
    for model in (plain_model, recomputed):
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            packed_loss(model.train(), ids, targets).objective.backward()
        saved.append(None)
    for a, b in zip(plain_model.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    split = saved.index(None)
    assert sum(saved[split + 1 : -1]) < 0.5 * sum(saved[:split]), "it must keep less"


def test_bf16_and_z_loss():
    wide, narrow = trainer(model=build()), trainer(model=build(), bf16=True)
    first, second = wide.train_step()["loss"], narrow.train_step()["loss"]
    assert first != second and first == pytest.approx(second, rel=0.02)
    assert all(p.dtype == torch.float32 for p in narrow.model.parameters())
    ids, targets = wide.batches.next_batch()
    targets[0, :5] = IGNORE
    plain_loss, with_z = (packed_loss(wide.model, ids, targets, z_weight=w) for w in (0.0, 0.1))
    z = wide.model(ids).logsumexp(-1).square()[targets != IGNORE].sum()
    assert torch.allclose(with_z.objective - plain_loss.objective, 0.1 * z, rtol=1e-4)
    assert torch.equal(with_z.nats, plain_loss.nats)


def test_a_batch_without_targets_is_refused():
    t = trainer()
    t.batches.next_batch = lambda part, of: (torch.ones(2, 4, dtype=torch.long), torch.full((2, 4), IGNORE))
    with pytest.raises(ValueError, match="step 0 has no token to predict"):
        t.train_step()


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"n_steps": 1, "accumulate": 0}, {"n_steps": 1, "keep": 0},
                                   {"n_steps": 1, "ema": 1.0}, {"n_steps": 1, "save_every": -1},
                                   {"n_steps": 1, "max_norm": 0.0}, {"n_steps": 1, "max_norm": -1.0}])  # fmt: skip
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="|".join(wrong.keys() - {"n_steps"} or {"n_steps"})):
        Settings(**wrong)


def test_a_checkpoint_of_something_else_is_refused_and_nothing_changed(tmp_path):
    trainer(tmp_path, save_every=2).fit(until=2)
    torch.manual_seed(9)
    wider = gpt2(GPT2Config(vocab_size=19, max_len=32, d_model=24, n_layers=2, n_heads=2))
    deeper = gpt2(GPT2Config(vocab_size=19, max_len=32, d_model=16, n_layers=3, n_heads=2))
    for model, words in (
        (wider, r"k_proj.bias is \(16,\) in the checkpoint, \(24,\) here"),
        (deeper, "blocks.2.*is missing"),
    ):
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(CheckpointError, match=words):
            t = trainer(tmp_path, model=model)
            t.resume()
        assert t.step == t.batches.batch == 0
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    with pytest.raises(CheckpointError, match="optimiser has steps:.*does not know"):
        trainer(tmp_path, optimizer="muon").resume()
    with pytest.raises(CheckpointError, match="the checkpoint's sampler is another: data"):
        trainer(tmp_path, rows=Windows(STORY, 11)).resume()
    with pytest.raises(CheckpointError, match="holds step 2, but this run ends at 1"):
        trainer(tmp_path, n_steps=1).resume()
    with pytest.raises(CheckpointError, match="seed 0, not 7"):
        trainer(tmp_path, seed=7).resume()
    with pytest.raises(CheckpointError, match="running mean"):
        trainer(tmp_path, ema=0.9).resume()


def test_validation_by_hand():
    model = build().eval()
    rows = Windows(STORY, 12)
    sizes = torch.arange(19)
    figures = Validation(rows, 8, 20, sizes)(model)
    texts = torch.stack([torch.cat([rows[i][0], rows[i][1][-1:]]) for i in range(20)])
    log_probs = token_log_probs(model(texts), texts).detach()
    assert figures["validation_loss"] == pytest.approx(-float(log_probs.mean()), rel=1e-6)
    n_bytes = int(sizes[texts[:, 1:]].sum())
    assert figures["bits_per_byte"] == pytest.approx(-float(log_probs.sum()) / math.log(2) / n_bytes, rel=1e-6)
    text = "x" * n_bytes
    assert figures["bits_per_byte"] == pytest.approx(bits_per_byte(log_probs.flatten().tolist(), text), rel=1e-5)


def test_held_out_rows_that_say_nothing():
    model, rows = build(), Windows(STORY, 12)
    for n_rows in (0, -5):
        with pytest.raises(ValueError, match="n_rows must be at least 1"):
            Validation(rows, 8, n_rows)
    with pytest.raises(ValueError, match="the tokenizer ends at 9"):
        Validation(rows, 8, 20, torch.ones(10))(model)
    nothing = PackedRows(best_fit([[1], [2]], 4))
    with pytest.raises(ValueError, match="no token to predict"):
        Validation(nothing, 8)(model)


TEXT = "Straße und Mühle, 東京 and 🙂: the mill by the street.\n  Two  spaces."


def test_token_bytes_add_up_to_the_text():
    for tokenizer in (
        ByteLevelBPE.train([TEXT] * 3, 290, special_tokens=["<|end|>"]),
        SentencePieceBPE.train([TEXT] * 3, 300),
    ):
        sizes = token_bytes(tokenizer)
        ids = tokenizer.encode(TEXT)
        spelled = len(tokenizer.decode(ids).encode("utf-8"))
        extra = 1 if isinstance(tokenizer, SentencePieceBPE) else 0  # the space that SentencePiece puts in front
        assert int(sizes[ids].sum()) == spelled + extra
        assert all(sizes[i] == 0 for i in tokenizer.special_tokens.values()) and len(sizes) == tokenizer.vocab_size
    with pytest.raises(ValueError, match="WordPiece"):
        token_bytes(WordPiece(["[UNK]", "a", "##b"]))


def test_wsd():
    rates = [warmup_stable_decay(s, 100, 2.0, warmup=10, decay=20) for s in range(101)]
    assert rates[:10] == [warmup_cosine(s, 100, 2.0, warmup=10) for s in range(10)]
    assert set(rates[10:81]) == {2.0} and rates[100] == 0.0
    assert all(a > b for a, b in zip(rates[80:], rates[81:], strict=False))
    assert rates[85] == pytest.approx(2 * (1 - math.sqrt(5 / 20)))
    longer = [warmup_stable_decay(s, 400, 2.0, warmup=10, decay=20) for s in range(81)]
    assert longer == rates[:81], "the plateau does not know how long the run will be"
    assert warmup_stable_decay(95, 100, 1.0, decay=10, floor=0.5) == pytest.approx(0.5 + 0.5 * (1 - math.sqrt(0.5)))


RUN = """
[model]
family = "llama"
vocab_size = 300
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 24
max_len = 64
[data]
train = "train"
validation = "val"
tokenizer = "tokenizer.json"
context = 16
documents = true
validation_rows = 6
[optimizer]
kind = "muon"
lr = 0.02
[schedule]
kind = "wsd"
warmup = 2
[training]
folder = "run"
batch_size = 4
n_steps = 8
save_every = 2
evaluate_every = 4
recompute = true
z_loss = 1e-4
ema = 0.5
"""


@pytest.fixture
def toml(tmp_path):
    texts = [f"The {name} found the mill. She was happy." for name in ("queen", "robot", "miller", "fox")] * 20
    tokenizer = ByteLevelBPE.train(texts, 300, special_tokens=["<|end|>"])
    tokenizer.save(tmp_path / "tokenizer.json")
    for name in ("train", "val"):
        write_shards((tokenizer.encode(t) for t in texts), tmp_path / name, 300, tokenizer.special_tokens["<|end|>"])
    write_shards([[350, 399]] * 20, tmp_path / "other", 400, 0)
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_a_run_from_a_file(toml, capsys):
    handler = signal.getsignal(signal.SIGTERM)
    assert main([str(toml), "--until", "5"]) == 0
    assert "stopped after step 5; the same command goes on" in capsys.readouterr().out
    assert main([str(toml)]) == 0
    signal.signal(signal.SIGTERM, handler)
    out = capsys.readouterr().out
    assert "step 5" in out and "bits_per_byte" in out
    assert main([str(toml)]) == 0
    assert "step 8: there already" in capsys.readouterr().out
    lines = read_log(toml.parent / "run/metrics.jsonl")
    assert [line["step"] for line in lines if "bits_per_byte" in line] == [4, 8]
    assert all(0 < line["mfu"] < 1 for line in lines if "loss" in line)
    model, tokenizer = from_pretrained(toml.parent / "run/model")
    assert tokenizer.decode(tokenizer.encode("the mill")) == "the mill"
    rows = Validation(read_rows(toml), 4, 6)
    last = [line for line in lines if "bits_per_byte" in line][-1]
    assert rows(model)["validation_loss"] == pytest.approx(last["validation_loss"], rel=1e-5)
    mean, _ = from_pretrained(toml.parent / "run/model_ema")
    assert rows(mean)["validation_loss"] == pytest.approx(last["ema_validation_loss"], rel=1e-5)


def test_a_disk_without_locks_is_trained_on(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with only_one(tmp_path):
        pass


def test_two_runs_do_not_share_a_folder(toml, capsys):
    with only_one(toml.parent / "run"):
        assert main([str(toml)]) == 1
    assert "another process is training in" in capsys.readouterr().err
    with only_one(toml.parent / "run"):
        pass  # free again


def test_a_checkpoint_that_is_there_is_not_written_again(toml):
    """Between taking the old one away and naming the new one there would be none."""
    handler = signal.getsignal(signal.SIGTERM)
    files = []
    for _ in range(2):
        assert main([str(toml), "--until", "4"]) == 0
        files.append((toml.parent / "run/checkpoints/step-00000004/state.json").stat().st_ino)
    signal.signal(signal.SIGTERM, handler)
    assert files[0] == files[1]


@pytest.mark.skipif(os.name == "nt", reason="signals as Unix has them")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_and_a_second_ctrl_c_is_the_usual_one(toml, number, capsys, monkeypatch):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests were started with &
    seen = []

    class Stopped(Trainer):
        def train_step(self):
            line = super().train_step()
            if self.step == 3:
                os.kill(os.getpid(), number)
                seen.append(signal.getsignal(number) is signal.default_int_handler)
            return line

        def save(self):
            if seen and number == signal.SIGTERM:  # schedulers send it more than once, and saving takes a while
                os.kill(os.getpid(), number)
            super().save()

    monkeypatch.setattr("llmkit.training.build.Trainer", Stopped)
    try:
        assert main([str(toml)]) == 0
        assert seen == [number == signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert "stopped after step 3; the same command goes on" in capsys.readouterr().out
    assert (toml.parent / "run/checkpoints/step-00000003/state.json").exists()


def test_until_before_the_first_step_is_refused(toml, capsys):
    with pytest.raises(SystemExit):
        main([str(toml), "--until", "0"])
    assert "--until must be at least 1, got 0" in capsys.readouterr().err


def read_rows(toml):
    from llmkit.data.sampler import DocumentWindows
    from llmkit.data.shards import TokenShards

    return DocumentWindows(TokenShards(toml.parent / "val"), 16)


def test_every_key_of_a_file_arrives(toml):
    def built(old, new):
        assert RUN.count(old) == 1
        toml.write_text(RUN.replace(old, new))
        return build_trainer(read_run(toml), torch.device("cpu"))[0]

    t = built("warmup = 2", "warmup = 3\ndecay = 4\nfloor = 0.2")
    expected = [warmup_stable_decay(s, 8, 0.02, 3, 4, 0.2) for s in range(8)]
    assert [t.schedule(s) for s in range(8)] == expected
    t = built("lr = 0.02", "lr = 0.02\nadamw_lr = 0.007")
    assert (t.optimizer.weight_decay, t.optimizer.lr * t.optimizer.adamw_share) == (0.1, pytest.approx(0.007))
    assert t.loss.keywords == {"z_weight": 1e-4}
    assert "checkpoint" in repr(t.model.transformer.blocks[0].forward), "recompute"
    t = built('kind = "wsd"\nwarmup = 2', "warmup = 2\nfloor = 0.3")
    assert [t.schedule(s) for s in range(8)] == [warmup_cosine(s, 8, 0.02, 2, 0.3) for s in range(8)]
    t = built('kind = "muon"', "weight_decay = 0.3\nbetas = [0.8, 0.9]")
    assert t.optimizer.betas == (0.8, 0.9)
    assert [group["weight_decay"] for group in t.optimizer.groups] == [0.3, 0.0]
    assert built("recompute = true", "compile = true").model._compiled_call_impl is not None


def test_a_run_that_is_told_to_stop_saves_where_it_is(toml):
    t, _ = build_trainer(read_run(toml), torch.device("cpu"))
    honest = t._evaluate
    t._evaluate = lambda: t.stop() or honest()
    t.fit()
    assert t.step == 4


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('family = "llama"', 'family = "bert"', r"\[model\] family = 'bert'; it must be one of gpt2"),
        ("d_ff = 24", "d_fff = 24", r"\[model\] needs d_ff"),
        ("n_layers = 1", "n_layers = -2", r"\[model\] n_layers must be at least 1, got -2"),
        ("n_heads = 2", "n_heads = 2\nn_kv_heads = 0", r"\[model\] n_kv_heads must be at least 1, got 0"),
        ("d_model = 16", "d_model = 0", r"\[model\] d_model must be at least 1, got 0"),
        ('kind = "wsd"\nwarmup = 2', 'kind = "cosine"\nwarmup = 9', r"\[schedule\] warmup = 9 steps, but n_steps = 8"),
        ('folder = "run"', 'folder = "tokenizer.json"', "File exists"),
        ("d_ff = 24", 'd_ff = "24"', r"\[model\] d_ff = '24' is of type str, not int"),
        ("warmup = 2", "warmpu = 2", r"\[schedule\] has no key 'warmpu'; did you mean 'warmup'"),
        ("batch_size = 4", "", r"\[training\] needs batch_size"),
        ("n_steps = 8", "n_steps = 0", r"\[training\]: n_steps must be at least 1"),
        ('kind = "muon"', 'kind = "sgd"', r"\[optimizer\] kind = 'sgd'; it must be adamw or muon"),
        ("recompute = true", "recompute = 1", r"\[training\] recompute = 1 is of type int, not bool"),
        ("[training]", "[trainings]", r"\[trainings\] is no section"),
        ("[data]", "[data", "cannot be read as TOML"),
        ('train = "train"', 'train = "nowhere"', "nowhere"),
        ("vocab_size = 300", "vocab_size = 299", "the model's vocabulary has 299"),
        ("vocab_size = 300", "vocab_size = 200", r"the tokenizer has \d+ tokens, the model's vocabulary 200 entries"),
        ("lr = 0.02", "lr = 0.02\nbetas = [0.9]", r"\[optimizer\]: betas must be two numbers .* got \[0.9\]"),
        ("lr = 0.02", "lr = 0.02\nbetas = [0.9, 1.0]", r"\[optimizer\]: betas must be two numbers"),
        ("lr = 0.02", "lr = 0.02\nbetas = 0.9", r"\[optimizer\]: betas must be two numbers"),
        ("lr = 0.02", "lr = 0", r"\[optimizer\]: lr and adamw_lr must be more than 0"),
        ("warmup = 2", "warmup = -2", r"\[schedule\]: warmup must be at least 0"),
        ("warmup = 2", "warmup = 2\ndecay = 7", r"\[schedule\] warmup \+ decay = 9 steps, but n_steps = 8"),
        ("warmup = 2", "floor = 3", r"\[schedule\]: floor is a share of lr"),
        ("validation_rows = 6", "validation_rows = 0", r"\[data\]: validation_rows must be at least 1"),
        ("context = 16", "context = 5000", r"run\.toml: .*val: \d+ tokens make no row of context 5000"),
        ('validation = "val"', 'validation = "other"', "other: ids go up to 399, but the model's vocabulary has 300"),
        ("tokenizer.json", "nothing.json", r"run\.toml: .*nothing\.json"),
        ("n_heads = 2", "n_heads = 2\nn_kv_heads = 3", r"run\.toml: 2 query heads cannot share 3 key-value heads"),
        ("batch_size = 4", "batch_size = 4\naccumulate = 5", r"run\.toml: batch_size = 4 rows cannot be cut"),
        ("z_loss = 1e-4", 'parallel = "tp"', r"\[training\]: parallel must be 'ddp' or 'fsdp', got 'tp'"),
    ],
)
def test_a_file_that_is_wrong(toml, capsys, old, new, words):
    assert RUN.count(old) == 1
    toml.write_text(RUN.replace(old, new))
    assert main([str(toml)]) == 1
    assert re.search(words, capsys.readouterr().err)


def test_the_example_in_the_docstring_is_a_whole_run(tmp_path):
    (tmp_path / "small.toml").write_text(run.__doc__.partition("\n\n")[2])
    assert read_run(tmp_path / "small.toml").settings.n_steps == 5000


def test_a_missing_file(tmp_path):
    with pytest.raises(RunError, match=r"no\.toml cannot be read"):
        read_run(tmp_path / "no.toml")


def test_a_log_with_half_a_line(tmp_path):
    t = trainer(tmp_path, save_every=2)
    t.fit(until=4)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')
    assert [line["step"] for line in read_log(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert trainer(tmp_path).resume() == 4
    assert all(json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_a_live_plot_is_drawn_and_replaced(monkeypatch):
    from llmkit.viz import live

    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    monkeypatch.setattr(live, "display", lambda figure, display_id: shown.append(figure) or Handle())
    t = trainer(n_steps=6, evaluate_every=2)
    plot = live.LivePlot(entropy=1.0, seconds=0.0)
    plot.show()
    assert not shown, "nothing to draw yet"
    t.log.listeners.append(plot)
    t.fit()
    assert len(shown) == 9 and [step for step, _ in plot.validation] == [2, 4, 6]
    axis = shown[-1].axes[0]
    assert {text.get_text().strip() for text in axis.texts} == {"training", "held out", "entropy"}
    titles = [axis.get_title(loc=place) for place in ("left", "center")]  # its place is the style's, if one is set
    assert "".join(titles).startswith("step 6: training loss")
    plot({"step": 7, "loss": math.nan, "skipped": 1})
    plot({"step": 8, "loss": 2.0})
    assert all(math.isfinite(y) for y in shown[-1].axes[0].lines[0].get_ydata()), "a step that was skipped"
    del shown[9:]
    quiet = live.LivePlot(seconds=1000.0)
    t = trainer(n_steps=6)
    t.log.listeners.append(quiet)
    before = len(shown)
    t.fit()
    assert len(shown) == before + 1, "no drawing for every line"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are UTF-8, whatever the locale")
def test_a_folder_that_the_file_system_cannot_name_is_said(toml, tmp_path):
    """Under an ASCII locale; in this process it is UTF-8 from the start, so it takes another."""
    toml.write_text(re.sub(r'folder = ".*"', 'folder = "données"', toml.read_text(encoding="utf-8")), encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "llmkit.training", "run.toml"], capture_output=True, cwd=tmp_path,
        env={**os.environ, **ascii_only}, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: 'ascii' codec can't encode"), done.stderr
