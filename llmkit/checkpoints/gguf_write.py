"""Write a GGUF file: the header, then one tensor after the other, so that only one is in memory twice."""

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from llmkit.checkpoints.gguf_header import ALIGNMENT, ARRAY, BOOL, SCALARS, STRING, TENSOR_TYPES, bytes_of
from llmkit.checkpoints.quantization import quantize
from llmkit.checkpoints.tables import WeightsError
from llmkit.training.progress import tqdm

TYPE_NUMBERS = {name: number for number, (name, *_) in TENSOR_TYPES.items()}
UINT32, INT32, FLOAT32 = 4, 5, 6


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: its kind, its shape, and its values when their turn comes."""

    kind: str
    shape: tuple[int, ...]
    values: Callable[[], Tensor]


def write_gguf(
    path: str | Path, fields: Mapping[str, Any], tensors: Mapping[str, Planned], progress: bool = False
) -> None:
    """Write version 3 with the usual alignment, aside; renamed when all of it is on the disk.

    fields   key -> value. A bool, an int from 0 up (32 bits), a float (32 bits), a text, or a list of one of them

    Raises WeightsError, naming the tensor, for a weight that its kind cannot hold, and ValueError for a value that
    has no place in the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with open(aside, "wb") as file:
            _write_header(file, fields, tensors)
            total = sum(bytes_of(planned.kind, planned.shape) for planned in tensors.values())
            with tqdm(total=total, unit="B", unit_scale=True, desc=path.name, disable=not progress) as bar:
                for name, planned in tensors.items():
                    bar.update(_write_tensor(file, name, planned))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _write_header(file: BinaryIO, fields: Mapping[str, Any], tensors: Mapping[str, Planned]) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)))
    for key, value in fields.items():
        try:
            kind, data = _value(value)
        except (ValueError, struct.error) as error:
            raise ValueError(f"{key} = {str(value)[:60]} has no place in a GGUF file: {error}") from None
        file.write(_text(key) + struct.pack("<I", kind) + data)
    offset = 0
    for name, planned in tensors.items():
        n = len(planned.shape)
        file.write(_text(name) + struct.pack(f"<I{n}Q", n, *reversed(planned.shape)))
        file.write(struct.pack("<IQ", TYPE_NUMBERS[planned.kind], offset))
        offset += _aligned(bytes_of(planned.kind, planned.shape))
    file.write(bytes(_aligned(file.tell()) - file.tell()))


def _write_tensor(file: BinaryIO, name: str, planned: Planned) -> int:
    values = planned.values()
    try:
        data = quantize(values, planned.kind).numpy()
    except ValueError as error:
        raise WeightsError(f"{name} cannot be written as {planned.kind}: {error}") from None
    size = bytes_of(planned.kind, planned.shape)
    if data.nbytes != size or values.numel() != prod(planned.shape):
        raise WeightsError(f"{name} is {tuple(values.shape)}, not {planned.shape} as planned")
    file.write(data.data)
    file.write(bytes(_aligned(size) - size))
    return size


def _value(value: Any) -> tuple[int, bytes]:
    """The number of a value's type, and its bytes."""
    if isinstance(value, list):
        kind = _kind(value[0]) if value else STRING
        if any(_kind(item) != kind for item in value):
            raise ValueError("a list holds values of one type")
        kind = INT32 if kind == UINT32 else kind  # token types are signed there
        return ARRAY, struct.pack("<IQ", kind, len(value)) + b"".join(_scalar(kind, item) for item in value)
    return _kind(value), _scalar(_kind(value), value)


def _kind(value: Any) -> int:
    kinds = {bool: BOOL, int: UINT32, float: FLOAT32, str: STRING}
    if type(value) not in kinds:
        raise ValueError(f"a {type(value).__name__} is none of bool, int, float, str or a list of them")
    return kinds[type(value)]


def _scalar(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack("<" + SCALARS[kind], value)


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
