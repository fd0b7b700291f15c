"""Where each of our parameters lives in somebody else's file, as a table that can be read in both directions.

A table is keyed by *our* name, with {} for layer and expert numbers, and its value says how to read it there:

    {"transformer.blocks.{}.attn.q_proj.weight": Copy("model.layers.{}.self_attn.q_proj.weight"), …}

Loading asks for every parameter of the model once, by the learner's own name, so that nothing can be forgotten.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.layers.rope import halves_to_pairs, pairs_to_halves

Parts = dict[str, Any]  # what is being written: a tensor, or the list of a fused tensor's parts


class WeightsError(ValueError):
    """A checkpoint that does not fit the model: says which tensor, what was found, what was wanted."""


@contextmanager
def building_from(path: Path) -> Iterator[None]:
    """Build a model without memory (on the meta device) from the config in `path`.

    Whatever goes wrong inside is said of that file, as a WeightsError: an entry that is missing, a text for a number,
    0 heads, -1 layers.
    """
    try:
        with torch.device("meta"):
            yield
    except WeightsError:
        raise
    except KeyError as error:
        raise WeightsError(f"{path} has no {error.args[0]!r}") from None
    except (ValueError, TypeError, ArithmeticError, RuntimeError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path} describes no model that can be built: {error}") from None


class Copy:
    """The tensor as it is; of several spellings the first that is there is read, and the first is written."""

    def __init__(self, *names: str):
        self.names = names

    def source(self, checkpoint: Mapping[str, Tensor], numbers: list[str]) -> str:
        """The name in the file; raises WeightsError when no spelling is there."""
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


class Squeeze(Copy):
    """A vector there has a first axis of length 1."""

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


def load_weights(
    model: nn.Module, table: Table, checkpoint: Mapping[str, Tensor], ignore: str = "", dtype: torch.dtype | None = None
) -> None:
    """Fill every parameter of the model from the checkpoint.

    checkpoint   name -> tensor; asked for one tensor at a time, so that it can stay on disk
    ignore       regular expression for names in the checkpoint that are no weights
    dtype        convert to this; None keeps what is stored

    Raises WeightsError, before the model is of any use, for a missing, left-over, misshapen or integer tensor.
    """
    read = getattr(checkpoint, "mapped", checkpoint.__getitem__)  # what is copied below need not be copied before
    used = set()
    for name, parameter in stored_tensors(model, table):
        template, numbers = split_numbers(name)
        entry = table[template]
        try:
            source = entry.source(checkpoint, numbers)
            stored = read(source)
        except WeightsError as error:
            raise WeightsError(f"{name}: {error}. Is this checkpoint of the kind that config.json says?") from None
        used.add(source)
        if not stored.is_floating_point():
            raise WeightsError(f"{name}: {source} holds {stored.dtype}, not floating-point weights")
        try:
            value = entry.load(stored)
        except RuntimeError:
            value = stored
        if value.shape != parameter.shape:
            raise WeightsError(
                f"{name}: config.json asks for {tuple(parameter.shape)}, but {source} is {tuple(stored.shape)}"
            )
        _assign(model, parameter, value.to(dtype or value.dtype), stored)
    left = sorted(key for key in checkpoint if key not in used and not (ignore and re.search(ignore, key)))
    left = [key for key in left if not _is_copy(checkpoint[key], model)]
    if left:
        raise WeightsError(f"the checkpoint holds {len(left)} tensors that this model has no place for: {left[0]}, …")


def _is_copy(stored: Tensor, model: nn.Module) -> bool:
    """Whether a left-over tensor is one that the model shares between two places: tied files may hold it twice."""
    places = Counter(map(id, dict(model.named_parameters(remove_duplicate=False)).values()))
    shared = [p for p in model.parameters() if places[id(p)] > 1]
    return any(p.shape == stored.shape and torch.equal(p, stored.to(p.dtype)) for p in shared)


def stored_tensors(model: nn.Module, table: Table) -> list[tuple[str, Tensor]]:
    """(name, tensor) of what a file holds: every parameter, a tied one once, and the buffers that the table names.

    Raises WeightsError for a parameter that the table does not have: a part that the family's files know nothing of.
    """
    parameters = dict(model.named_parameters())
    for name in parameters:
        if split_numbers(name)[0] not in table:
            raise WeightsError(f"{name} has no place in this family's files: save the state_dict instead")
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if split_numbers(name)[0] in table]
    return [*parameters.items(), *buffers]


def _assign(model: nn.Module, own: Tensor, value: Tensor, stored: Tensor) -> None:
    """Put a copy of the value in the place of the (perhaps meta) parameter or buffer, wherever that is shared."""
    places = [
        (module, tensors, key)
        for module in model.modules()
        for tensors in (module._parameters, module._buffers)
        for key, tensor in tensors.items()
        if tensor is own
    ]
    wide = value.dim() == 2 and value.size(0) >= value.size(1)
    by_columns = wide and any(isinstance(module, nn.Linear) for module, _, _ in places)
    new = columns_first(value) if by_columns else value.contiguous()
    if new.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr():
        new = new.clone()
    if isinstance(own, nn.Parameter):
        new = nn.Parameter(new, requires_grad=own.requires_grad)
    for _, tensors, key in places:
        tensors[key] = new


def columns_first(matrix: Tensor) -> Tensor:
    """The same matrix, laid out in memory column by column.

    Writing one token multiplies one row with every matrix, and takes as long as reading them. On a CPU, torch's
    product of a single row reads a matrix (out, in) with out >= in faster in this order: 14 to 20 GB/s instead of 11
    with two cores for GPT-2's (benchmarks/decoding.py); narrow ones are faster row by row.
    """
    return matrix.t().contiguous().t()


def stored_weights(model: nn.Module, table: Table) -> dict[str, Tensor]:
    """The model's parameters under the other format's names: the inverse of load_weights."""
    parts: Parts = {}
    for name, parameter in stored_tensors(model, table):
        template, numbers = split_numbers(name)
        table[template].write(parameter.detach(), parts, numbers)
    return {
        name: (torch.cat(value, dim=-1) if isinstance(value, list) else value).contiguous()
        for name, value in parts.items()
    }
