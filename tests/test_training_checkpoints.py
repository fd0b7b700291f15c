"""Checkpoints: whole or not at all, whatever happens to the process, the disk or the files."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_trainer import equal, state, trainer

import llmkit.training.checkpoint as checkpoint
from llmkit.training.checkpoint import (
    CheckpointError,
    checkpoints,
    clean_up,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from llmkit.training.runlog import read_log

TENSORS = {
    "model": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
    "rest": {"c": torch.tensor(7)},
}


def save(folder, *steps, keep=9):
    for step in steps:
        save_checkpoint(folder, step, TENSORS, {"tokens": step * 10}, keep)


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path, 3)
    tensors, stored = load_newest(tmp_path)
    equal(TENSORS, tensors)
    assert (stored["step"], stored["tokens"]) == (3, 30)
    assert load_newest(tmp_path, up_to=2) is None and load_newest(tmp_path / "nowhere") is None


def test_the_last_ones_are_kept(tmp_path):
    save(tmp_path, 1, 2, 10, 100000000, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-100000000"]
    assert load_newest(tmp_path, up_to=99)[1]["step"] == 10
    save(tmp_path, 10, keep=2)  # once more, after a rewind
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_after_a_rewind_the_later_checkpoints_are_gone(tmp_path):
    trainer(tmp_path, save_every=3, keep=4).fit(until=9)
    t = trainer(tmp_path, save_every=2, keep=2)
    t.resume(step=5)
    t.batches.advance(4)
    t.fit(until=4)
    assert [path.name[-2:] for path in checkpoints(tmp_path / "checkpoints")] == ["03", "04"]
    t = trainer(tmp_path)
    assert t.resume() == 4 and t.batches.batch == 8, "not step 9, which is from before the rewind"


def test_a_damaged_later_checkpoint_does_not_push_out_the_new_one(tmp_path):
    trainer(tmp_path, save_every=3).fit(until=6)
    damage(tmp_path / "checkpoints/step-00000006", "one bit")
    t = trainer(tmp_path, save_every=1, keep=1)
    t.resume()
    t.fit(until=4)
    assert trainer(tmp_path).resume() == 4


def test_what_was_loaded_does_not_depend_on_the_file_any_more(tmp_path):
    trainer(tmp_path, save_every=3).fit(until=3)
    t = trainer(tmp_path)
    t.resume()
    before = state(t)
    for file in tmp_path.glob("checkpoints/*/*.safetensors"):
        with open(file, "r+b") as data:  # in place: safetensors maps the file
            data.write(bytes(file.stat().st_size))
    equal(before, state(t))


def damage(path, how):
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    if how == "one bit":
        data[-1] ^= 1
        file.write_bytes(data)
    elif how == "cut":
        file.write_bytes(data[:-1])
    elif how == "no file":
        file.unlink()
    elif how == "no state":
        (path / "state.json").unlink()
    elif how == "half a state":
        (path / "state.json").write_text((path / "state.json").read_text()[:40])
    elif how == "foreign name":
        text = (path / "state.json").read_text()
        (path / "state.json").write_text(text.replace('"model.safetensors"', '"../../model.safetensors"'))


DAMAGES = {
    "one bit": "model.safetensors has changed since it was written",
    "cut": "model.safetensors has .* bytes, it was written with",
    "no file": "model.safetensors is missing",
    "no state": "state.json cannot be read: FileNotFoundError",
    "half a state": "state.json cannot be read: JSONDecodeError",
    "foreign name": "model.safetensors is missing",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, how):
    save(tmp_path, 1, 2, 3)
    damage(tmp_path / "step-00000003", how)
    with pytest.raises(CheckpointError, match=DAMAGES[how]):
        load_checkpoint(tmp_path / "step-00000003")
    said = []
    assert load_newest(tmp_path, warn=said.append)[1]["step"] == 2
    assert len(said) == 1 and "step-00000003" in said[0] and "Falling back to the checkpoint before" in said[0]
    for step in (1, 2):
        damage(tmp_path / f"step-{step:08d}", how)
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints in .* is whole; remove them"):
        load_newest(tmp_path, warn=said.append)


def test_a_run_goes_on_from_the_one_before(tmp_path, capsys):
    whole = trainer(tmp_path / "whole", save_every=3)
    whole.fit()
    trainer(tmp_path / "hurt", save_every=3).fit(until=6)
    damage(tmp_path / "hurt/checkpoints/step-00000006", "one bit")
    t = trainer(tmp_path / "hurt", save_every=3)
    assert t.resume() == 3
    assert "Falling back" in capsys.readouterr().out
    t.fit()
    equal(state(whole), state(t))


@pytest.mark.parametrize("call", ["fsync", "rename", "write_tensors"])
def test_a_full_disk_costs_one_checkpoint_and_says_so(tmp_path, monkeypatch, capsys, call):
    t = trainer(tmp_path, save_every=3)
    t.fit(until=3)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((checkpoint, call) if call == "write_tensors" else (os, call)), full)
        t.fit(until=7)
    assert "step 6: no checkpoint was written ([Errno 28] No space left" in capsys.readouterr().out
    assert any("warning" in line for line in read_log(tmp_path / "metrics.jsonl"))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(*((checkpoint, call) if call == "write_tensors" else (os, call)), full)
        t.fit()
    assert trainer(tmp_path).resume() == 3
    t.save()
    assert trainer(tmp_path).resume() == 12


def test_a_file_may_not_grow_beyond_what_the_system_allows(tmp_path):
    """The same with a limit that the system itself enforces, in a process of its own."""
    script = f"""
import resource, signal, sys, torch
from llmkit.training.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save_checkpoint({str(tmp_path)!r}, 1, {{"model": {{"a": torch.zeros(10)}}}}, {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_checkpoint({str(tmp_path)!r}, 2, {{"model": {{"a": torch.zeros(100_000)}}}}, {{}})
except OSError as error:
    print("refused", error)
"""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert "refused" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_is_half_written_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    for name in ("step-00000002.partial", "step-00000003.removed", "step-abc", "notes"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]
    clean_up(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000001", "step-abc"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_thirty_kills_and_nothing_is_lost(tmp_path):
    """SIGKILL at random moments and at every file operation of a save; each run ends as the undisturbed one did."""
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, "30", "0"], capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 30 and report["runs"] >= 1
    assert report["in_a_save"] >= 1 and report["killed_at_a_call"] >= 10, "some must fall into a save"
    assert report["different"] == 0 and report["failed"] == 0, (report, done.stderr)
