"""Where our adapters live in PEFT's files: transformers' module names, from the family's table of weights.

GPT-2's q, k and v are one module there, c_attn. Three adapters become one of three times the rank, A one above the
other and B as blocks along the diagonal: the same function, exactly.
"""

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llmkit.checkpoints.tables import Copy, PairsToHalves, split_numbers
from llmkit.finetuning.adapters import LINEAR
from llmkit.finetuning.lora import LoRALinear
from llmkit.models import family_of

Parts = dict[str, Tensor]  # "A" (r, in), "B" (out, r) and, in DoRA, "magnitude" (out,)
PREFIX = "base_model.model."
SUFFIXES = {
    "A": (".lora_A.weight", ".lora_embedding_A"),
    "B": (".lora_B.weight", ".lora_embedding_B"),
    "magnitude": (".lora_magnitude_vector", ".lora_magnitude_vector"),
}  # of a Linear and of an Embedding


class Place(NamedTuple):
    """A module of transformers, and ours that it is made of: one, or GPT-2's three in their order."""

    ours: tuple[str, ...]
    shape: tuple[int, int]  # (out, in); of an embedding (C, V)
    embedding: bool
    entry: Copy

    def rows(self, parts: Parts, store: bool) -> Parts:
        """Outputs in the order that they have there (store) or here: Cohere's files have q's and k's rows in pairs."""
        if not isinstance(self.entry, PairsToHalves):
            return parts
        order = self.entry.store if store else self.entry.load
        return {name: part if name == "A" else order(part) for name, part in parts.items()}


def table(model: Any) -> dict[str, Copy]:
    """The family's table; raises ValueError for a model of no family."""
    return dict(family_of(getattr(model, "config", None)).weights(model.config))


def places(model: Any) -> dict[str, Place]:
    """Transformers' module name -> Place, of everything that may have an adapter."""
    entries, found = table(model), {}
    for name, module in model.named_modules():
        template, numbers = split_numbers(f"{name}.weight")
        if template not in entries or not (type(module) in (*LINEAR, nn.Embedding) or hasattr(module, "lora_A")):
            continue
        there = entries[template].names[0].format(*numbers).removesuffix(".weight")
        plain = module.base if hasattr(module, "lora_A") else module
        embedding = isinstance(plain, nn.Embedding)
        n_out, n_in = plain.weight.t().shape if embedding else plain.weight.shape
        before = found.get(there, Place((), (0, n_in), embedding, entries[template]))
        found[there] = Place((*before.ours, name), (before.shape[0] + n_out, n_in), embedding, entries[template])
    return found


def key(there: str, part: str, embedding: bool) -> str:
    """The tensor's name in adapter_model.safetensors.

    >>> key("model.layers.0.self_attn.q_proj", "A", False)
    'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'
    """
    return f"{PREFIX}{there}{SUFFIXES[part][embedding]}"


def split_key(name: str) -> tuple[str, str] | None:
    """key backwards: module's name and part; None for what belongs to no adapter."""
    for part, endings in SUFFIXES.items():
        for ending in endings:
            if name.startswith(PREFIX) and name.endswith(ending):
                return name.removeprefix(PREFIX).removesuffix(ending), part
    return None


def is_target(there: str, targets: Any) -> bool:
    """Whether PEFT's target_modules names the module: a list of endings, or a regular expression."""
    if isinstance(targets, str):
        return targets != "all-linear" and re.fullmatch(targets, there) is not None
    return any(there == target or there.endswith("." + target) for target in targets or ())


def shortest_targets(model: Any, adapted: list[str]) -> list[str]:
    """Last names ("q_proj") where they name the adapted modules and no others, whole names else."""
    ends = sorted({name.rpartition(".")[2] for name in adapted})
    return ends if sum(is_target(name, ends) for name in places(model)) == len(adapted) else sorted(adapted)


def parts_of(layer: LoRALinear) -> Parts:
    """An adapter's tensors."""
    parts = {"A": layer.lora_A.detach(), "B": layer.lora_B.detach()}
    return parts | ({} if layer.magnitude is None else {"magnitude": layer.magnitude.detach()})


def joined(model: nn.Module, names: tuple[str, ...]) -> Parts:
    """One adapter for the fused module that these (q, k, v) make up; one without gives a block of zeros."""
    modules = [model.get_submodule(name) for name in names]
    first = next(module for module in modules if hasattr(module, "lora_A"))
    blocks = []
    for module in modules:
        if hasattr(module, "lora_A"):
            blocks.append(parts_of(module))
            blocks[-1]["B"] = blocks[-1]["B"] * (module.scale / first.scale)
            continue
        A, B = first.lora_A.detach(), first.lora_A.new_zeros(module.weight.size(0), first.rank)
        blocks.append({"A": torch.zeros_like(A), "B": B, "magnitude": module.weight.detach().norm(dim=1)})
    parts = {"A": torch.cat([b["A"] for b in blocks]), "B": torch.block_diag(*(b["B"] for b in blocks))}
    return parts | ({} if first.magnitude is None else {"magnitude": torch.cat([b["magnitude"] for b in blocks])})


def split(parts: Parts, names: tuple[str, ...], rank: int) -> dict[str, Parts]:
    """joined backwards: one adapter for each of the modules.

    Where the adapter is not in blocks of this rank, each gets all of A and its rows of B: the same function, though
    they do not share A any more when tuning goes on. Blocks of zeros, which joined wrote, are left out.
    """
    n = len(names)
    rows = parts["B"].chunk(n)
    in_blocks = parts["A"].size(0) == n * rank and all(
        not columns.any() for i, row in enumerate(rows) for j, columns in enumerate(row.chunk(n, dim=1)) if i != j
    )
    found = {}
    for i, name in enumerate(names):
        own = {"A": parts["A"], "B": rows[i]}
        if in_blocks:
            own = {"A": parts["A"].chunk(n)[i], "B": rows[i].chunk(n, dim=1)[i]}
        if "magnitude" in parts:
            own["magnitude"] = parts["magnitude"].chunk(n)[i]
        elif in_blocks and not own["A"].any():
            continue
        found[name] = own
    return found
