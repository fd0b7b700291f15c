"""Token ids of a whole corpus on disk: files of uint16 or uint32 and an index, read through memory maps.

A document is followed by the end token and lies in one file. Files are little-endian and have no header, as nanoGPT's
train.bin has none; what they hold stands in index.json.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "llmkit token shards 1"
INDEX = "index.json"
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


class ShardError(ValueError):
    """A folder of shards that cannot be used; the message names the file and the reason."""


class TokenShards:
    """The tokens of a folder that `write_shards` wrote: one long sequence over all its files.

    Opening looks at the index and at the sizes of files, reads no token, and raises ShardError for a missing, shortened
    or foreign file; `verify` reads everything. Files are mapped when first used and never copied, so that several
    processes on one machine share them; a pickled TokenShards carries the folder's name and maps anew.

    folder, dtype, vocab_size, eos_id (None: no end tokens), n_tokens, n_documents
    fingerprint   of the content: another folder with the same files has the same
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.shards: list[dict[str, Any]] = index["shards"]
        self.dtype = DTYPES[index["dtype"]]
        self.vocab_size, self.eos_id = index["vocab_size"], index["eos_id"]
        self._ends = np.cumsum([shard["tokens"] for shard in self.shards])
        self.n_tokens = int(self._ends[-1])
        self.n_documents = sum(shard["documents"] for shard in self.shards)
        self.fingerprint = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()[:32]
        self._maps: dict[int, np.ndarray] = {}
        self._check_files()

    def __len__(self) -> int:
        return self.n_tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a pickled map would carry all of its tokens

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens start … stop - 1, over the borders of files: (stop - start,) of dtype, a copy.

        Raises IndexError outside 0 … n_tokens.
        """
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"{self.folder}: tokens {start} to {stop} were asked for, but there are {self.n_tokens}")
        pieces, at = [np.empty(0, self.dtype)], start
        while at < stop:
            shard = int(np.searchsorted(self._ends, at, side="right"))
            begin = int(self._ends[shard]) - self.shards[shard]["tokens"]
            pieces.append(self._map(shard)[at - begin : stop - begin])
            at = min(stop, int(self._ends[shard]))
        return np.concatenate(pieces)

    def documents(self) -> Iterator[np.ndarray]:
        """Document after document, without the end token. Raises ShardError where there are no end tokens."""
        if self.eos_id is None:
            raise ShardError(f"{self.folder}: written without an end token, so nothing says where documents end")
        for shard in range(len(self.shards)):
            tokens, start = self._map(shard), 0
            for end in np.flatnonzero(tokens == self.eos_id):
                yield np.array(tokens[start:end])
                start = end + 1

    def check_model(self, vocab_size: int) -> None:
        """Raises ShardError when a model of that vocabulary has no row for some of the ids that may stand here."""
        if vocab_size < self.vocab_size:
            raise ShardError(
                f"{self.folder}: ids go up to {self.vocab_size - 1}, but the model's vocabulary has {vocab_size} "
                f"entries; give it {self.vocab_size}, or make the shards with the model's own tokenizer"
            )

    def verify(self) -> None:
        """Read every file; raises ShardError for one whose hash, ids or number of documents the index denies."""
        for number, shard in enumerate(self.shards):
            path = self.folder / shard["file"]
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                raise ShardError(f"{path} is damaged: its sha256 is {found}, the index says {shard['sha256']}")
            tokens = self._map(number)
            if tokens.max() >= self.vocab_size:
                raise ShardError(
                    f"{path} holds the id {tokens.max()}, but the vocabulary ends at {self.vocab_size - 1}"
                )
            if self.eos_id is not None and int((tokens == self.eos_id).sum()) != shard["documents"]:
                raise ShardError(f"{path} does not hold the {shard['documents']} documents that the index says")

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self.folder / self.shards[shard]["file"], dtype=self.dtype, mode="r")
        return self._maps[shard]

    def _check_files(self) -> None:
        for shard in self.shards:
            path, wanted = self.folder / shard["file"], shard["tokens"] * self.dtype.itemsize
            if not path.is_file():
                raise ShardError(f"{path} is missing: copy the whole folder, or make it again")
            if path.stat().st_size != wanted:
                raise ShardError(f"{path} has {path.stat().st_size} bytes, the index says {wanted}: was it cut short?")
        foreign = {path.name for path in self.folder.glob("*.bin")} - {shard["file"] for shard in self.shards}
        if foreign:
            raise ShardError(f"{self.folder / min(foreign)} is not in the index: files of two data sets may be mixed")


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(f"{path} is missing: {folder} holds no token shards (see python -m llmkit.data)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ShardError(f"{path} is not JSON: {error}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ShardError(f"{path} does not say {FORMAT!r}: it is no index of token shards, or of another version")
    bad = _fault(index)
    if bad:
        raise ShardError(f"{path}: {bad}")
    return index


def _fault(index: dict[str, Any]) -> str | None:
    """What is wrong with an index, in words."""
    if index.get("dtype") not in DTYPES:
        return f"dtype is {index.get('dtype')!r}, not one of {', '.join(DTYPES)}"
    if not _is_count(index.get("vocab_size")):
        return f"vocab_size is {index.get('vocab_size')!r}"
    eos_id = index.get("eos_id")
    if eos_id is not None and (type(eos_id) is not int or not 0 <= eos_id < index["vocab_size"]):
        return f"eos_id is {eos_id!r}, which is not in a vocabulary of {index['vocab_size']}"
    if not isinstance(index.get("shards"), list) or not index["shards"]:
        return "it names no shards"
    for shard in index["shards"]:
        if not isinstance(shard, dict) or not re.fullmatch(r"[\w-]+\.bin", str(shard.get("file"))):
            return f"{shard!r} does not name a file of this folder"
        if not all(_is_count(shard.get(name)) for name in ("tokens", "documents")):
            return f"{shard['file']} needs numbers of tokens and documents"
        if not re.fullmatch("[0-9a-f]{64}", str(shard.get("sha256"))):
            return f"{shard['file']} has no sha256"
    return None


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0
