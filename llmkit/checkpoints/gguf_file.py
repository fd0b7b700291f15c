"""The tensors of a GGUF file as a mapping of float32 tensors, each expanded when it is asked for."""

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.checkpoints.gguf_header import TensorInfo, bytes_of, read_header
from llmkit.checkpoints.quantization import dequantize
from llmkit.checkpoints.tables import WeightsError

OWN = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")  # expanded by quantization.py; the rest by the package gguf


class GGUFFile(Mapping[str, Tensor]):
    """The tensors of a file as float32, read when asked for; `fields` are its metadata.

    A tensor that holds all experts of a layer, `blk.0.ffn_up_exps.weight` (E, …), is listed as E tensors
    `blk.0.ffn_up_exps.weight[0]` … so that one expert can be read without the others.

    Raises WeightsError for whatever is wrong with the header (gguf_header.py), and ImportError without the package
    `gguf` where a tensor is of a type that only that package expands.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        header = read_header(self.path)
        self.fields, self.tensors = header.fields, header.tensors
        self._data = np.memmap(self.path, mode="r")
        self._names = dict(_listed(self.tensors))

    def __getitem__(self, name: str) -> Tensor:
        whole, expert = self._names[name]
        info = self.tensors[whole]
        start, shape = info.start, info.shape
        if expert is not None:
            start, shape = start + expert * bytes_of(info.kind, shape[1:]), shape[1:]
        data = self._data[start : start + bytes_of(info.kind, shape)]
        if info.kind in OWN:
            rows = torch.from_numpy(np.array(data)).unflatten(0, (-1, bytes_of(info.kind, shape[-1:])))
            return dequantize(rows, info.kind).reshape(shape)
        quants = _package("gguf.quants", f"{self.path}: expanding {name}, which is {info.kind},")
        values = quants.dequantize(np.asarray(data), getattr(quants.GGMLQuantizationType, info.kind))
        return torch.from_numpy(values).reshape(shape)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own way would expand the tensor to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def need(self, key: str, kind: type = object) -> Any:
        """A metadata entry of a type; raises WeightsError naming it when it is not there or of another type."""
        if key not in self.fields:
            raise WeightsError(f"{self.path} has no entry {key!r}")
        return self.get(key, kind=kind)

    def get(self, key: str, default: Any = None, kind: type = object) -> Any:
        """The same with a default. Numbers must be finite, and whole ones at least 0; a list comes as it is."""
        value = self.fields.get(key, default)
        if value is default:
            return default
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool) or kind is object)
        if not fits or (isinstance(value, (int, float)) and (not isfinite(value) or value < 0)):
            wanted = {int: "a whole number", float: "a number", str: "a text", list: "a list", bool: "true or false"}
            raise WeightsError(f"{self.path}: the entry {key!r} is {str(value)[:60]}, not {wanted.get(kind, 'that')}")
        return value

    def blocks(self) -> int:
        """The number of layers that have tensors here."""
        return len({match[1] for name in self.tensors if (match := re.match(r"blk\.(\d+)\.", name))})


def _listed(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, tuple[str, int | None]]]:
    for name, info in tensors.items():
        if "_exps." in name and len(info.shape) == 3:
            yield from ((f"{name}[{i}]", (name, i)) for i in range(info.shape[0]))
        else:
            yield name, (name, None)


def _package(name: str, what: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{what} needs the package gguf: pip install gguf") from None
