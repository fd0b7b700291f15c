"""Where each of our parameters lives in somebody else's file, as a table that can be read in both directions.

A table is keyed by *our* name, with {} for layer and expert numbers, and its value says how to read it there:

    {"transformer.blocks.{}.attn.q_proj.weight": Copy("model.layers.{}.self_attn.q_proj.weight"), …}

`weights(config)` in each file of llmkit/models/ gives its table; checkpoints/weights.py loads and stores by it.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llmkit.layers.rope import halves_to_pairs, pairs_to_halves

Parts = dict[str, Any]  # what is being written: a tensor, or the list of a fused tensor's parts


class WeightsError(ValueError):
    """A checkpoint that does not fit the model: says which tensor, what was found, what was wanted."""


class Copy:
    """The tensor as it is; of several spellings the first that is there is read, and the first is written."""

    def __init__(self, *names: str):
        self.names = names

    def source(self, checkpoint: Mapping[str, Tensor], numbers: list[str]) -> str | None:
        """The name in the file; raises WeightsError when no spelling is there, None is for a tensor of zeros."""
        spelled = [name.format(*numbers) for name in self.names]
        for name in spelled:
            if name in checkpoint:
                return name
        raise WeightsError(f"the checkpoint has no {' and no '.join(spelled)}")

    def write(self, value: Tensor, parts: Parts, numbers: list[str]) -> None:
        parts[self.names[0].format(*numbers)] = self.store(value)

    def load(self, stored: Tensor) -> Tensor:
        return stored

    def store(self, value: Tensor) -> Tensor:
        return value


class Transpose(Copy):
    """GPT-2's Conv1D keeps (in, out) where Linear keeps (out, in)."""

    def load(self, stored: Tensor) -> Tensor:
        return stored.t()

    def store(self, value: Tensor) -> Tensor:
        return value.t()


class RowOrZeros(Copy):
    """A vector that has a first axis of length 1 there; a file without it means zeros."""

    def source(self, checkpoint: Mapping[str, Tensor], numbers: list[str]) -> str | None:
        return next((name for name in self.names if name in checkpoint), None)

    def load(self, stored: Tensor) -> Tensor:
        return stored.squeeze(0)

    def store(self, value: Tensor) -> Tensor:
        return value[None]


class PairsToHalves(Copy):
    """Rows of q or k for rotation by neighbours there, by halves here (layers/rope.py)."""

    def __init__(self, *names: str, n_heads: int):
        super().__init__(*names)
        self.n_heads = n_heads

    def load(self, stored: Tensor) -> Tensor:
        return pairs_to_halves(stored, self.n_heads)

    def store(self, value: Tensor) -> Tensor:
        return halves_to_pairs(value, self.n_heads)


class Chunk(Copy):
    """Part i of n of a fused Conv1D, cut along its last axis: c_attn holds q, k and v side by side."""

    def __init__(self, *names: str, i: int, n: int):
        super().__init__(*names)
        self.i, self.n = i, n

    def load(self, stored: Tensor) -> Tensor:
        return stored.chunk(self.n, dim=-1)[self.i].t() if stored.dim() == 2 else stored.chunk(self.n)[self.i]

    def write(self, value: Tensor, parts: Parts, numbers: list[str]) -> None:
        name = self.names[0].format(*numbers)
        parts.setdefault(name, [None] * self.n)[self.i] = value.t() if value.dim() == 2 else value


Table = Mapping[str, Copy]


def weight_and_bias(ours: str, *theirs: str, how: type[Copy] = Copy, **options: Any) -> dict[str, Copy]:
    """Two rows of a table: `ours.weight` and `ours.bias`.

    >>> list(weight_and_bias("norm", "ln_f"))
    ['norm.weight', 'norm.bias']
    """
    return {f"{ours}.{kind}": how(*(f"{name}.{kind}" for name in theirs), **options) for kind in ("weight", "bias")}


def split_numbers(name: str) -> tuple[str, list[str]]:
    """A parameter's template and its numbers.

    >>> split_numbers("blocks.3.mlp.experts.7.up_proj.weight")
    ('blocks.{}.mlp.experts.{}.up_proj.weight', ['3', '7'])
    """
    number = r"(?<=\.)\d+(?=\.)"
    return re.sub(number, "{}", name), re.findall(number, name)
