"""Checkpoints of a run: whole folders that appear all at once or not at all, and are checked before they are used.

    run/checkpoints/step-00000100/
        state.json              where the run stood, and the size and SHA-256 of the other files
        model.safetensors       one file for each group of tensors
        optimizer.safetensors

A folder is written under another name, flushed to the disk and renamed. So a process killed at any moment leaves
the checkpoints before it as they were, and a name without `.partial` says that the folder was complete once;
whether it still is, the hashes say.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llmkit.checkpoints.safetensors import write_tensors

NAME = re.compile(r"step-(\d{8,})")
STATE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another run."""


def save_checkpoint(
    folder: str | Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write folder/step-NNNNNNNN with NAME.safetensors for each group of tensors, then remove all but the `keep` last.

    state   what JSON can hold. An OSError (a full disk) is raised with the folder left as it was.

    Checkpoints of later steps, left by a rewind or passed over as damaged, are removed too: resuming would take them.
    """
    folder = Path(folder)
    path, aside = folder / f"step-{step:08d}", folder / f"step-{step:08d}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        files = {}
        for name, group in tensors.items():
            file = aside / f"{name}.safetensors"
            try:
                write_tensors({key: tensor.contiguous() for key, tensor in group.items()}, file)
            except SafetensorError as error:  # what the library makes of a full disk
                raise OSError(f"{file} could not be written: {error}") from None
            files[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        text = json.dumps({**state, "step": step, "files": files}, indent=1)
        (aside / STATE).write_text(text + "\n", encoding="utf-8")
        for file in (*aside.iterdir(), aside):
            _to_disk(file)
        if path.exists():  # of the same step: damaged, or from before a rewind
            _remove(path)
        os.rename(aside, path)
        _to_disk(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    there = checkpoints(folder)
    kept = [other for other in there if _step(other) <= step][-keep:]
    for other in there:
        if other not in kept:
            _remove(other)
    return path


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; what was being written or removed is none."""
    found = [path for path in Path(folder).glob("step-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step)


def load_checkpoint(path: str | Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(tensors, state) of one checkpoint; raises CheckpointError naming the file that is missing or damaged."""
    path = Path(path)
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        files = state["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / STATE} cannot be read: {type(error).__name__}: {error}") from None
    tensors = {}
    for name, there in files.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{file} is missing")
        size = file.stat().st_size
        if size != there["bytes"]:
            raise CheckpointError(f"{file} has {size} bytes, it was written with {there['bytes']}")
        if _sha256(file) != there["sha256"]:
            raise CheckpointError(f"{file} has changed since it was written: its SHA-256 is another")
        tensors[file.stem] = load_file(file)
    return tensors, state


def load_newest(
    folder: str | Path, up_to: int | None = None, warn: Any = print
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The newest checkpoint that is whole, at most step `up_to`; None where there is none at all.

    For each damaged one it calls warn(text) and goes on to the one before. Raises CheckpointError where there are
    checkpoints and none is whole: to begin again from nothing must be somebody's decision.
    """
    found = [path for path in checkpoints(folder) if up_to is None or _step(path) <= up_to]
    for path in reversed(found):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            warn(f"{error}. Falling back to the checkpoint before.")
    if found:
        raise CheckpointError(f"none of the {len(found)} checkpoints in {folder} is whole; remove them to begin anew")
    return None


def clean_up(folder: str | Path) -> None:
    """Remove what killed processes left half written or half removed."""
    for path in (*Path(folder).glob("step-*.partial"), *Path(folder).glob("step-*.removed")):
        shutil.rmtree(path, ignore_errors=True)


def _step(path: Path) -> int:
    return int(NAME.fullmatch(path.name)[1])


def _remove(path: Path) -> None:
    """Take its name away first, so that a half removed folder is no checkpoint."""
    aside = path.with_name(path.name + ".removed")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
