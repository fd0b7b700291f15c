"""What a run has learned, as named tensors, and back: weights, optimiser, running mean of the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llmkit.models import family_of
from llmkit.training.checkpoint import CheckpointError
from llmkit.training.distributed import part_like, rank, whole

Groups = dict[str, dict[str, Tensor]]


def snapshot(model: nn.Module, optimizer: Any, ema: Mapping[str, Tensor]) -> Groups:
    """Full tensors on the CPU, whatever the number of processes (all of which must call it).

    The optimiser's are named KIND:PARAMETER, its step counts are tensors of one integer.
    """
    names = {p: name for name, p in model.named_parameters()}
    groups = {"model": {name: whole(p) for name, p in model.named_parameters()}}
    groups["model"] |= {name: whole(buffer) for name, buffer in _saved_buffers(model)}
    groups["optimizer"] = {
        f"{kind}:{names[p]}": torch.tensor(value) if isinstance(value, int) else whole(value)
        for kind, slot in optimizer.slots().items()
        for p, value in slot.items()
    }
    if ema:
        groups["ema"] = {name: whole(tensor) for name, tensor in ema.items()}
    return groups


@torch.no_grad()
def load_snapshot(groups: Groups, model: nn.Module, optimizer: Any, ema: dict[str, Tensor]) -> None:
    """Put a snapshot into place; raises CheckpointError, before anything is changed, where names or shapes differ."""
    parameters = dict(model.named_parameters())
    slots = optimizer.slots()
    _compare("the model", groups["model"], parameters | dict(_saved_buffers(model)))
    for key in groups["optimizer"]:
        kind, _, name = key.partition(":")
        if kind not in slots or name not in parameters:
            raise CheckpointError(f"the checkpoint's optimiser has {key}, which this one does not know")
    if ema or "ema" in groups:
        _compare("the running mean of the weights", groups.get("ema", {}), ema)
    for name, there in (parameters | dict(_saved_buffers(model))).items():
        there.copy_(part_like(groups["model"][name], there))
    for slot in slots.values():
        slot.clear()
    for key, value in groups["optimizer"].items():
        kind, _, name = key.partition(":")
        p = parameters[name]
        counts = value.dim() == 0 and not value.is_floating_point()
        slots[kind][p] = int(value) if counts else part_like(value, p)
    for name, there in ema.items():
        there.copy_(part_like(groups["ema"][name], there))


@torch.no_grad()
def full_model(model: nn.Module) -> nn.Module:
    """The model itself, or, where FSDP has cut it up, a whole copy on rank 0's CPU; all ranks must call it."""
    parameters = dict(model.named_parameters())
    if not any(isinstance(p, DTensor) for p in parameters.values()):
        return model
    full = {name: whole(p) for name, p in parameters.items()}
    if rank() != 0:
        return model
    copy = family_of(model.config).build(model.config)
    for name, p in copy.named_parameters():
        p.copy_(full[name])
    return copy


def _saved_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    kept = model.state_dict(keep_vars=True).keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def _compare(what: str, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in stored.keys() ^ wanted.keys():
        where = "is only in the checkpoint" if name in stored else "is missing in the checkpoint"
        raise CheckpointError(f"{what} does not fit: {name} {where}")
    for name, tensor in stored.items():
        if tensor.shape != wanted[name].shape:
            there, here = tuple(tensor.shape), tuple(wanted[name].shape)
            raise CheckpointError(f"{what} does not fit: {name} is {there} in the checkpoint, {here} here")
