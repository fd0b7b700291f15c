"""Safetensors files as one mapping, read a tensor at a time; written so that a crash leaves no half file."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmkit.checkpoints.tables import WeightsError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WRITTEN = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")  # what save_safetensors calls its files


class SafetensorsFolder(Mapping[str, Tensor]):
    """The tensors of a folder with model.safetensors, or with an index and several files.

    A file is opened for each tensor and closed again, so that only what is being copied is in memory.
    Raises WeightsError for a folder without weights, a truncated file, an index that points outside the folder,
    to a missing file, or to a tensor that the file does not have.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._files = self._from_index() if (self.folder / INDEX).exists() else self._from_single()

    def _from_single(self) -> dict[str, Path]:
        path = self.folder / SINGLE
        if not path.exists():
            pickles = sorted(p.name for p in self.folder.glob("*.bin")) + sorted(
                p.name for p in self.folder.glob("*.pt*")
            )
            extra = f" {pickles[0]} is a pickle, which can run any code when it is read." if pickles else ""
            raise WeightsError(f"{self.folder} has no {SINGLE} and no {INDEX}.{extra}")
        return dict.fromkeys(_names(path), path)

    def _from_index(self) -> dict[str, Path]:
        index = read_json(self.folder / INDEX)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise WeightsError(f"{self.folder / INDEX} has no weight_map")
        files = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or Path(file).name != file or "\\" in file or file in ("", ".", ".."):
                raise WeightsError(f"{self.folder / INDEX}: {name} points to {file!r}, which is not a file name")
            files[name] = self.folder / file
        for path in sorted(set(files.values())):
            if not path.exists():
                raise WeightsError(f"{self.folder / INDEX} names {path.name}, which is not in the folder")
            there, wanted = set(_names(path)), {name for name, file in files.items() if file == path}
            if wanted - there:
                raise WeightsError(f"{path} has no {min(wanted - there)}, which the index says is in it")
            if there - wanted:
                raise WeightsError(f"{path} holds {min(there - wanted)}, which the index does not name")
        return files

    def mapped(self, name: str) -> Tensor:
        """The tensor where it lies in the file, which stays open with it: to be copied and let go at once."""
        with _open(self._files[name]) as file:
            return file.get_tensor(name)

    def __getitem__(self, name: str) -> Tensor:
        return self.mapped(name).clone()

    def __contains__(self, name: object) -> bool:
        return name in self._files  # Mapping's own way would read the tensor to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error}): was the download cut short?") from None


def _names(path: Path) -> list[str]:
    with _open(path) as file:
        return list(file.keys())


def save_safetensors(tensors: Mapping[str, Tensor], folder: str | Path, max_shard_bytes: int = 5 * 10**9) -> None:
    """Write model.safetensors, or, above max_shard_bytes, several files and their index.

    Everything is written aside first, and renamed when all of it is on the disk: a full disk or a crash while writing
    leaves the old weights as they were. (Several files are renamed one after the other; only a crash in that moment
    can mix two saves.) Weights of an earlier save that are no longer named are removed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    n = len(shards)
    names = [SINGLE] if n == 1 else [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
    asides = [folder / f"{name}.partial" for name in names]
    try:
        for aside, shard in zip(asides, shards, strict=True):
            write_tensors(shard, aside)
        for aside, name in zip(asides, names, strict=True):
            os.replace(aside, folder / name)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)
    if n > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json({"metadata": {"total_size": total}, "weight_map": weight_map}, folder / INDEX)
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for old in folder.glob("model*.safetensors"):
        if WRITTEN.fullmatch(old.name) and old.name not in names:  # model_backup.safetensors is somebody else's
            old.unlink()


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One safetensors file, on the disk, with the rights of any new file: save_file's own are for its owner alone."""
    path.touch()
    rights = path.stat().st_mode
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(rights)
    _to_disk(path)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object; raises WeightsError naming the file when it is missing or is none."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:  # also no UTF-8, numbers of thousands of digits, endless brackets
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path} should hold a JSON object, it holds a {type(value).__name__}")
    return value


def write_json(value: Mapping[str, Any], path: str | Path) -> None:
    """Write a JSON file aside, then rename it. Raises ValueError naming the file for nan and infinity."""
    path = Path(path)
    aside = path.with_name(path.name + ".partial")
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written: {error} (JSON has no nan or infinity; store None)") from None
    try:
        aside.write_text(text + "\n", encoding="utf-8")
        _to_disk(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until the file is written: before its name says that it is whole."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
