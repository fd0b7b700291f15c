"""Find the first place where two values differ, and say it in a reader's words."""

import inspect
import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Difference:
    """Where two values part: `where` is a path such as "[2]['cat']", empty for the value itself."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"first difference at {self.where}: {self.text}" if self.where else self.text


def first_difference(expected: Any, got: Any, tolerance: float = 1e-6, where: str = "") -> Difference | None:
    """Compare `got` with `expected`; None when they agree.

    Numbers agree when |expected - got| <= tolerance * (1 + |expected|); tensors must also agree in shape and
    dtype. What is the same to a reader is the same here: a list and a tuple, a Counter and a dict, 2 and 2.0.

    >>> str(first_difference([1, 2, 3], [1, 5, 3]))
    'first difference at [1]: expected 2, got 5'
    """
    if got is None and expected is not None:
        return Difference(where, f"expected {show(expected)}, got None (is a `return` missing?)")
    if isinstance(expected, torch.Tensor | np.ndarray):
        return _array_difference(expected, got, tolerance, where)
    if isinstance(got, torch.Tensor | np.ndarray | np.generic) and np.ndim(got) == 0:
        got = got.item()  # a 0-dimensional tensor is as good as a number
    if isinstance(expected, Number):
        return _number_difference(expected, got, tolerance, where)
    if isinstance(expected, str | bytes):
        return _string_difference(expected, got, where)
    if isinstance(expected, Mapping):
        return _mapping_difference(expected, got, tolerance, where)
    if isinstance(expected, Set):
        return _set_difference(expected, got, where)
    if isinstance(expected, Sequence):
        return _sequence_difference(expected, got, tolerance, where)
    if isinstance(expected, BaseException):  # one that was returned: two of the same words are the same
        return None if repr(expected) == repr(got) else _unequal(expected, got, where)
    return None if expected == got else _unequal(expected, got, where)


def show(value: Any, width: int = 70) -> str:
    """A value on one short line: tensors as shape and dtype, long containers cut.

    >>> show(torch.zeros(2, 3))
    'tensor (2, 3) float32'
    >>> show(show), show(lambda x: x)
    ('the function show', 'a function')
    """
    if isinstance(value, torch.Tensor) and value.ndim:
        return f"tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray) and value.ndim:
        return f"array {value.shape} {value.dtype}"
    if isinstance(value, torch.Tensor):
        value = value.item()
    if inspect.isfunction(value):
        return "a function" if value.__name__ == "<lambda>" else f"the function {value.__name__}"  # repr: an address
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def _unequal(expected: Any, got: Any, where: str) -> Difference:
    return Difference(where, f"expected {show(expected)}, got {show(got)}")


def _wrong_type(wanted: str, got: Any, where: str) -> Difference:
    extra = " (wrap it in list(...))" if hasattr(got, "__next__") else ""
    return Difference(where, f"expected {wanted}, got {type(got).__name__}: {show(got)}{extra}")


def _number_difference(expected: Any, got: Any, tolerance: float, where: str) -> Difference | None:
    if not isinstance(got, Number):
        return _wrong_type("a number", got, where)
    if isinstance(expected, bool) != isinstance(got, bool):
        return _unequal(expected, got, where)
    if math.isnan(expected) or math.isinf(expected):
        same = expected == got or (math.isnan(expected) and math.isnan(got))
    else:
        same = abs(expected - got) <= tolerance * (1 + abs(expected)) * (not isinstance(expected, int))
    return None if same else _unequal(expected, got, where)


def _string_difference(expected: Any, got: Any, where: str) -> Difference | None:
    if not isinstance(got, str | bytes):
        return _wrong_type(f"a {type(expected).__name__}", got, where)
    return None if expected == got else _unequal(expected, got, where)


def _mapping_difference(expected: Mapping, got: Any, tolerance: float, where: str) -> Difference | None:
    if not isinstance(got, Mapping):
        return _wrong_type("a dict", got, where)
    if isinstance(expected, Counter):  # a Counter holds a zero for what it does not hold: both ways are right
        expected = {key: count for key, count in expected.items() if count != 0}
        got = {key: count for key, count in got.items() if not _is_zero(count)}
    for key, value in expected.items():
        if key not in got:
            return Difference(where, f"the key {show(key)} is missing (its value should be {show(value)})")
        difference = first_difference(value, got[key], tolerance, f"{where}[{show(key)}]")
        if difference:
            return difference
    extra = [key for key in got if key not in expected]
    if extra:
        key = extra[0]
        return Difference(where, f"there is a key too many: {show(key)} (with value {show(got[key])})")
    return None


def _is_zero(count: Any) -> bool:
    return isinstance(count, Number) and count == 0


def _set_difference(expected: Set, got: Any, where: str) -> Difference | None:
    if not isinstance(got, Set):
        return _wrong_type("a set", got, where)
    missing, extra = expected - got, got - expected
    if missing:
        return Difference(where, f"{show(min(missing, key=repr))} is missing")
    return Difference(where, f"{show(min(extra, key=repr))} should not be there") if extra else None


def _sequence_difference(expected: Sequence, got: Any, tolerance: float, where: str) -> Difference | None:
    if isinstance(got, str | bytes) or not isinstance(got, Sequence):
        return _wrong_type(f"a {type(expected).__name__}", got, where)
    for i, (e, g) in enumerate(zip(expected, got, strict=False)):
        difference = first_difference(e, g, tolerance, f"{where}[{i}]")
        if difference:
            return difference
    if len(expected) != len(got):
        return Difference(where, f"expected {len(expected)} items, got {len(got)}: {show(got)}")
    return None


def _array_difference(expected: Any, got: Any, tolerance: float, where: str) -> Difference | None:
    kind = "tensor" if isinstance(expected, torch.Tensor) else "array"
    if not isinstance(got, type(expected)):
        return _wrong_type("a tensor" if kind == "tensor" else "an array", got, where)
    if tuple(expected.shape) != tuple(got.shape):
        return Difference(where, f"expected shape {tuple(expected.shape)}, got shape {tuple(got.shape)}")
    if expected.dtype != got.dtype:
        return Difference(where, f"expected dtype {expected.dtype}, got dtype {got.dtype}")
    if kind == "array":  # numpy has two types of the name uint64, and torch takes only one of them
        expected, got = expected.astype(expected.dtype.str), got.astype(got.dtype.str)
    e, g = torch.as_tensor(expected).detach().cpu(), torch.as_tensor(got).detach().cpu()
    if e.is_floating_point():
        e, g = e.double(), g.double()
        near = (e - g).abs() <= tolerance * (1 + e.abs())  # also true of anything where e is infinite
        close = (near & e.isfinite()) | (e == g) | (e.isnan() & g.isnan())
    else:
        close = e == g
    if close.all():
        return None
    index = (~close).nonzero()[0].tolist()
    share = f"{int((~close).sum())} of {close.numel()} values differ"
    place = f"{where}{index}" if index else where
    return Difference(place, f"expected {show(e[tuple(index)])}, got {show(g[tuple(index)])} ({share})")
