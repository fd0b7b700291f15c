"""Adapters on a whole model: put on, switched off for a moment, merged, taken off. One adapter at a time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from llmkit.finetuning.lora import LoRAConfig, LoRAEmbedding, LoRALinear
from llmkit.finetuning.quantized import FrozenLinear

LINEAR = (nn.Linear, FrozenLinear)


def add_lora(model: nn.Module, config: LoRAConfig, seed: int = 0) -> list[str]:
    """Put an adapter on every module that config.targets names; only the adapters keep requires_grad.

    Gives the names of the adapted modules. A target is the end of a module's name ("q_proj", "attn.q_proj",
    "experts.0.up_proj"), or a whole name; each must name at least one Linear, one that is kept quantised, or a token
    embedding. Experts are Linears like others; the router, whose forward is its own, is not.

    The model computes what it did before. `seed` draws A, in the order of the modules. What shall be trained whole
    beside the adapters, such as a new classifier, is freed afterwards: model.classifier.requires_grad_(True).

    Raises ValueError for a target that names nothing, or a module that cannot be adapted, or one that shares its matrix
    with another (a merged adapter would belong to one of them only), for DoRA on an output whose weights are all 0, and
    for a model that has adapters already.
    """
    names = targeted(model, config.targets)
    put_adapters(model, dict.fromkeys(names, config), seed)
    return names


def put_adapters(model: nn.Module, configs: Mapping[str, LoRAConfig], seed: int = 0) -> None:
    """add_lora for modules that are named one by one, each with its own config; raises the same before it begins."""
    if lora_layers(model):
        raise ValueError("this model has adapters already: merge and remove them first")
    modules = dict(model.named_modules())
    for name in configs:
        _check(model, name, modules[name])
        if configs[name].dora:
            _check_rows(name, modules[name])
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, config in configs.items():
        kind = LoRAEmbedding if isinstance(modules[name], nn.Embedding) else LoRALinear
        put(model, name, kind(modules[name], config, generator).train(model.training))


def targeted(model: nn.Module, targets: str | tuple[str, ...]) -> list[str]:
    """The names of the modules that the targets name, in the model's order."""
    if targets == "all-linear":
        found = [name for name, module in model.named_modules() if type(module) in LINEAR and ".blocks." in f".{name}"]
        if not found:
            raise ValueError(f"this {type(model).__name__} has no Linear inside blocks: name the targets")
        return found
    every = [name for name, module in model.named_modules() if not isinstance(module, nn.ModuleList) and name]
    for target in targets:
        if not any(_ends(name, target) for name in every):
            linear = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if type(m) in LINEAR})
            raise ValueError(f"no module is called {target!r}; this model's Linears are {', '.join(linear)}")
    return [name for name in every if any(_ends(name, target) for target in targets)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _check(model: nn.Module, name: str, module: nn.Module) -> None:
    positions = type(module) is nn.Embedding and name.endswith("positions")
    if type(module) not in (*LINEAR, nn.Embedding) or positions:
        kind = "a table of positions" if positions else f"a {type(module).__name__}"
        raise ValueError(f"{name} is {kind}: adapters go on Linear and on token embeddings")
    if any(is_shared(model, p) for p in module.parameters()):
        raise ValueError(
            f"{name} shares its matrix with another module (tied embeddings): an adapter on one of the two could not "
            "be merged. Leave it out of the targets, or build the model with tie=False"
        )


def _check_rows(name: str, module: nn.Module) -> None:
    outputs = 0 if isinstance(module, nn.Embedding) else 1  # a table's outputs are its columns
    if not module.weight.detach().any(dim=outputs).all():
        raise ValueError(
            f"{name} has an output with no weight but 0: DoRA divides by its length. Leave the module out of the "
            "targets, or take dora=False"
        )


def is_shared(model: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether the parameter stands in several places (tied embeddings)."""
    return sum(p is parameter for _, p in model.named_parameters(remove_duplicate=False)) > 1


def trained_whole(model: nn.Module) -> list[str]:
    """The names of the modules that can be trained and are no part of an adapter."""
    inside = tuple(f"{name}." for name in lora_layers(model))
    owners = [name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad]
    return list(dict.fromkeys(owner for owner in owners if not f"{owner}.".startswith(inside)))


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set the module of this name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """Name -> adapter, of all that the model has."""
    # By what it has, not by its class: a lesson shows the class in a cell, and that makes another class of the name.
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _layers(model: nn.Module) -> dict[str, LoRALinear]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError("this model has no adapters: add_lora puts them on")
    return layers


def n_trainable(model: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def merge(model: nn.Module) -> None:
    """Every adapted module becomes one matrix: as fast as the base alone. Merging what is merged changes nothing.

    The base stays beside it, until `remove`; so `unmerge` gives back exactly what was, and the memory of the adapted
    matrices is taken twice. A base that is kept quantised is merged into a matrix that is not.
    """
    for layer in _layers(model).values():
        if layer.merged is None:
            layer.merge()


def unmerge(model: nn.Module) -> None:
    """Base and adapter apart again, to the last bit."""
    for layer in _layers(model).values():
        layer.merged = None


def remove(model: nn.Module) -> None:
    """Take the adapters off: what is merged stays in the weights, what is not is lost. All weights can be trained.

    `merge(model); remove(model)` leaves a plain model that save_pretrained writes.
    """
    for name, layer in _layers(model).items():
        put(model, name, layer.base if layer.merged is None else layer.merged)
    model.requires_grad_(True)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[nn.Module]:
    """`with adapters_off(model) as base:` the model as it was before tuning, from the same weights; merged or not.

    What a second copy of the model would be needed for otherwise: the reference that DPO and PPO compare with. Raises
    ValueError where more than the adapters is trained, which stays as it is now.
    """
    layers = list(_layers(model).values())
    if whole := trained_whole(model):
        raise ValueError(f"{whole[0]} is trained beside the adapters: without them this is not the model of before")
    before = [layer.on for layer in layers]
    try:
        for layer in layers:
            layer.on = False
        yield model
    finally:
        for layer, was_on in zip(layers, before, strict=True):
            layer.on = was_on
