"""The header of a GGUF file: what is in it and where, read without believing any number that it gives.

A file is `GGUF`, a version, two counts, the metadata (key, type, value), the tensors' names, shapes, types and offsets,
and then, from a multiple of the alignment on, the tensors themselves. Source: ggml's `docs/gguf.md`. The package gguf
has a reader too, but that one trusts a file: a damaged count makes it ask for the memory.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from llmkit.checkpoints.tables import WeightsError

ALIGNMENT = 32  # bytes, unless the entry general.alignment says otherwise
BOOL, STRING, ARRAY = 7, 8, 9
# number of a metadata type -> struct's letter
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
# number of a tensor type -> its name, how many values make a block, and a block's bytes
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 8: ("Q8_0", 32, 34), 2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
}  # fmt: skip
BLOCKS = {name: (values, size) for name, values, size in TENSOR_TYPES.values()}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its type's name, its shape as torch counts it, its first byte and their number."""

    kind: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """Metadata by key, and tensors by name."""

    fields: dict[str, Any]
    tensors: dict[str, TensorInfo]


def bytes_of(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor. Raises ValueError for rows that are no whole number of blocks.

    >>> bytes_of("Q8_0", (2, 64))
    136
    """
    values, size = BLOCKS[kind]
    if shape[-1] % values:
        raise ValueError(f"a row of {shape[-1]} values is no whole number of {kind}'s blocks of {values}")
    return prod(shape) // values * size


def read_header(path: str | Path) -> Header:
    """Metadata and the tensors' places, every length checked against what is left of the file.

    Raises WeightsError naming the file and the reason: no GGUF, cut short, another byte order or version, a text that
    is no UTF-8, a key or tensor that stands twice, a type that is not known, a tensor that lies outside the file.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} is not a file")
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise WeightsError(f"{path} is not a GGUF file: it does not begin with 'GGUF'")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _header(_Cursor(data))
            except (ValueError, struct.error) as error:
                raise WeightsError(f"{path} is damaged ({error}): was the download cut short?") from None


class _Cursor:
    """A place in the file that moves as things are read; nothing is read that is not there."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 4

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError(f"{size} bytes are announced at byte {self.at}, {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, letter: str = "Q") -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def text(self) -> str:
        at, size = self.at, self.number()
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"the text at byte {at} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array(self.number("I"), self.number())
        return self.number(_letter(kind))

    def array(self, kind: int, count: int) -> list:
        if kind == STRING:
            # Each text has at least the 8 bytes of its length: a count that is too large ends with the file.
            return [self.text() for _ in range(count)]
        letter = _letter(kind)
        return np.frombuffer(self.take(count * struct.calcsize(letter)), "<" + letter).tolist()


def _letter(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"type {kind} of a metadata entry is not one of a number, a text or a list of them")
    return SCALARS[kind]


def _header(cursor: _Cursor) -> Header:
    version = cursor.number("I")
    if version not in (2, 3):
        big = "; it is written for big-endian machines" if version and not version & 0xFFFF else ""
        raise ValueError(f"version {version}, where 2 and 3 are read{big}")
    n_tensors, n_fields = cursor.number(), cursor.number()
    fields: dict[str, Any] = {}
    for _ in range(n_fields):
        key = cursor.text()
        if key in fields:
            raise ValueError(f"the entry {key!r} stands twice")
        fields[key] = cursor.value(cursor.number("I"))
    found = [_tensor(cursor) for _ in range(n_tensors)]
    alignment = fields.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment!r} is no power of two")
    begin = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, kind, shape, offset in found:
        size = bytes_of(kind, shape)
        if name in tensors:
            raise ValueError(f"the tensor {name} stands twice")
        if offset % alignment:
            raise ValueError(f"{name} begins at {offset}, which is no multiple of the alignment {alignment}")
        if begin + offset + size > len(cursor.data):
            raise ValueError(f"{name} would end {begin + offset + size - len(cursor.data)} bytes after the file")
        tensors[name] = TensorInfo(kind, shape, begin + offset, size)
    return Header(fields, tensors)


def _tensor(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int]:
    name, n_axes = cursor.text(), cursor.number("I")
    if not 1 <= n_axes <= 4:
        raise ValueError(f"{name} has {n_axes} axes, where 1 to 4 are possible")
    shape = tuple(cursor.number() for _ in range(n_axes))[::-1]  # the file counts from the innermost axis
    kind, offset = cursor.number("I"), cursor.number()
    if 0 in shape:
        raise ValueError(f"{name} is empty: its shape is {shape}")
    if kind not in TENSOR_TYPES:
        raise ValueError(f"{name} is of the unknown tensor type {kind}; known are {', '.join(BLOCKS)}")
    return name, TENSOR_TYPES[kind][0], shape, offset
