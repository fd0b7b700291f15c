"""Writing token shards: a document at a time, aside, so that a crash leaves no folder that looks whole."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmkit.data.shards import DTYPES, FORMAT, INDEX, TokenShards


class ShardWriter:
    """Writes a folder of token shards: `with ShardWriter(folder, vocab_size, eos_id) as shards: shards.add(ids)`.

    Two can be open at once, for training and validation. Everything goes into `folder.partial`, which gets its name
    when the block ends without an error and all of it is on the disk; after an error it is removed. What a killed
    process has left there is removed by the next that writes the same folder.

    folder         must not exist, or be empty
    vocab_size     numbers of the ids end before it; up to 65536 they are stored in 2 bytes, else in 4
    eos_id         written after every document; None writes none
    shard_tokens   a file is closed with the document that brings it to so many tokens (200 MB at the default)

    Raises FileExistsError for a folder with something in it, and ValueError for an eos_id outside the vocabulary.
    """

    def __init__(self, folder: str | Path, vocab_size: int, eos_id: int | None = None, shard_tokens: int = 100_000_000):
        self.folder = Path(folder)
        self.vocab_size, self.eos_id, self.shard_tokens = vocab_size, eos_id, shard_tokens
        if not 1 <= vocab_size <= 2**32:
            raise ValueError(f"vocab_size must be from 1 to 2^32, got {vocab_size}")
        if eos_id is not None and not 0 <= eos_id < vocab_size:
            raise ValueError(f"eos_id {eos_id} is not in a vocabulary of {vocab_size}")
        if shard_tokens < 1:
            raise ValueError(f"shard_tokens must be at least 1, got {shard_tokens}")
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} is there already: remove it, or write to another folder")
        self.dtype = "uint16" if vocab_size <= 2**16 else "uint32"
        self.aside = self.folder.with_name(self.folder.name + ".partial")
        self.shards: list[dict[str, Any]] = []
        self.n_documents = 0
        self._file = None

    def __enter__(self) -> "ShardWriter":
        self._discard()
        self.aside.mkdir(parents=True)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def add(self, document: Sequence[int] | np.ndarray) -> None:
        """Write one document. Raises ValueError, naming its number, for an empty one and for ids that may not be."""
        ids = np.asarray(document)
        self._check(ids)
        ids = ids.astype(DTYPES[self.dtype])
        if self.eos_id is not None:
            ids = np.append(ids, ids.dtype.type(self.eos_id))
        if self._file is None:
            self.shards.append({"file": f"shard-{len(self.shards):05d}.bin", "tokens": 0, "documents": 0})
            self._file, self._hash = open(self.aside / self.shards[-1]["file"], "wb"), hashlib.sha256()
        shard, data = self.shards[-1], ids.tobytes()
        self._file.write(data)
        self._hash.update(data)
        shard["tokens"] += len(ids)
        shard["documents"] += 1
        self.n_documents += 1
        if shard["tokens"] >= self.shard_tokens:
            self._close()

    def _check(self, ids: np.ndarray) -> None:
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
            what = "is empty" if ids.size == 0 else f"is no list of ids ({ids.dtype}, shape {ids.shape})"
            raise ValueError(f"document {self.n_documents} {what}")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(
                f"document {self.n_documents} has ids from {ids.min()} to {ids.max()}, but a vocabulary of "
                f"{self.vocab_size} goes from 0 to {self.vocab_size - 1}"
            )
        if self.eos_id is not None and (ids == self.eos_id).any():
            raise ValueError(
                f"document {self.n_documents} has the end token {self.eos_id} in it; it is written after each document "
                "and stands nowhere else, or documents could not be told apart"
            )

    def _close(self) -> None:
        _to_disk(self._file)
        self._file.close()
        self.shards[-1]["sha256"], self._file = self._hash.hexdigest(), None

    def _finish(self) -> None:
        if not self.shards:
            raise ValueError(f"no document was given for {self.folder}: nothing is written")
        if self._file is not None:
            self._close()
        index = {"format": FORMAT, "dtype": self.dtype, "vocab_size": self.vocab_size, "eos_id": self.eos_id}
        with open(self.aside / INDEX, "w", encoding="utf-8") as file:
            file.write(json.dumps({**index, "shards": self.shards}, indent=1) + "\n")
            _to_disk(file)
        _names_to_disk(self.aside)
        os.replace(self.aside, self.folder)
        _names_to_disk(self.folder.parent)

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
        if self.aside.is_dir():
            for path in [*self.aside.glob("shard-*.bin"), self.aside / INDEX]:
                path.unlink(missing_ok=True)
            self.aside.rmdir()


def write_shards(
    documents: Iterable[Sequence[int] | np.ndarray],
    folder: str | Path,
    vocab_size: int,
    eos_id: int | None = None,
    shard_tokens: int = 100_000_000,
) -> TokenShards:
    """Write documents (lists of ids) as token shards, one at a time, and open them. See `ShardWriter`.

    Raises what ShardWriter raises, and ValueError when there is no document at all.
    """
    with ShardWriter(folder, vocab_size, eos_id, shard_tokens) as shards:
        for document in documents:
            shards.add(document)
    return TokenShards(folder)


def _to_disk(file: Any) -> None:
    """Wait until the content is written: before a name says that it is whole."""
    file.flush()
    os.fsync(file.fileno())


def _names_to_disk(folder: Path) -> None:
    if os.name == "posix":  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
