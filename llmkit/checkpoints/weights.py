"""Filling a model from a checkpoint by its family's table (checkpoints/tables.py), and writing it back.

Loading asks for every parameter of the model once, by its own name, so that nothing can be forgotten.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from llmkit.checkpoints.tables import Parts, Table, WeightsError, split_numbers


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
            if source is None:
                zeros = torch.zeros(parameter.shape, dtype=dtype or next(model.parameters()).dtype)
                _assign(model, parameter, zeros, zeros)
                continue
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
            advice = "save the state_dict instead"
            if ".lora_" in name:
                advice = "save_adapter writes the adapter alone; remove(model) leaves a plain model, once it is merged"
            raise WeightsError(f"{name} has no place in this family's files: {advice}")
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
