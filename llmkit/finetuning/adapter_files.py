"""Adapters in PEFT's folder layout: adapter_config.json and adapter_model.safetensors, under transformers' names.

Mixtral's experts are written one by one, as transformers 4 has them; peft 0.21 converts them for transformers 5 when it
loads. What peft saves for transformers 5's stacked experts (target_parameters) is refused.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmkit.checkpoints.safetensors import _open, read_json, write_json, write_tensors
from llmkit.checkpoints.tables import Chunk, Transpose, WeightsError
from llmkit.finetuning.adapter_names import (
    PREFIX,
    Parts,
    Place,
    is_target,
    joined,
    key,
    parts_of,
    places,
    shortest_targets,
    split,
    split_key,
    table,
)
from llmkit.finetuning.adapter_whole import is_whole, put_whole, read_whole, stored_whole
from llmkit.finetuning.adapters import lora_layers, put_adapters
from llmkit.finetuning.lora import LoRAConfig, lora_scale

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TASKS = {"CausalLM": "CAUSAL_LM", "Seq2SeqLM": "SEQ_2_SEQ_LM"}  # PEFT's names; others need none
# PEFT's options that change what an adapter computes and that are not built here
REFUSED = (
    "target_parameters", "trainable_token_indices", "layer_replication", "lora_bias", "use_qalora",
    "use_bdlora", "alora_invocation_tokens", "arrow_config", "megatron_config", "kasa_config", "monteclora_config",
)  # fmt: skip
# PEFT's ways to begin that change the base's weights too, so that the adapter alone is not the tuned model
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def save_adapter(model: Any, folder: str | Path, base_name: str = "") -> None:
    """Write the model's adapters as PEFT reads them: PeftModel.from_pretrained(base, folder).

    Modules that can be trained beside them, such as a classifier, are written whole (PEFT's modules_to_save).

    base_name   what the base is called (a Hub name or a folder), for those who find the adapter alone

    Raises ValueError for a model without adapters or of no family, for an adapter, or a module that is trained whole,
    in a place that its files do not name, and for adapters of several kinds. Each file is replaced whole; a crash
    between the two leaves new weights beside the old config, which loading refuses where they do not fit.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("this model has no adapters to save")
    if len({(layer.config.rslora, layer.config.dora) for layer in layers.values()}) > 1:
        raise ValueError("PEFT's format has one rslora and one dora for all: these adapters differ")
    adapted = {there: place for there, place in places(model).items() if any(name in layers for name in place.ours)}
    if nameless := set(layers) - {name for place in adapted.values() for name in place.ours}:
        raise ValueError(f"{min(nameless)} has no place in this family's files")
    config = next(iter(layers.values())).config
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for there, place in adapted.items():
        first = next(layers[name] for name in place.ours if name in layers)
        parts = place.rows(parts_of(first), True) if len(place.ours) == 1 else joined(model, place.ours)
        ranks[there] = parts["A"].size(0)
        alphas[there] = first.scale / lora_scale(1, ranks[there], config.rslora)
        tensors |= {key(there, name, place.embedding): part.contiguous() for name, part in parts.items()}
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    alpha = next(layer.config.alpha for layer in layers.values() if layer.rank == rank)
    whole, whole_tensors = stored_whole(model)
    tensors |= whole_tensors
    written = {
        "peft_type": "LORA", "task_type": TASKS.get(type(model).__name__),
        "base_model_name_or_path": base_name or None, "target_modules": shortest_targets(model, list(adapted)),
        "r": rank, "lora_alpha": alpha, "lora_dropout": config.dropout, "bias": "none",
        "modules_to_save": whole or None, "inference_mode": True, "init_lora_weights": True,
        "use_rslora": config.rslora, "use_dora": config.dora,
        "rank_pattern": {there: r for there, r in ranks.items() if r != rank},
        "alpha_pattern": {there: a for there, a in alphas.items() if abs(a - alpha) > 1e-9 * abs(alpha)},
        "fan_in_fan_out": any(isinstance(entry, Chunk | Transpose) for entry in table(model).values()),
    }  # fmt: skip
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / (WEIGHTS + ".partial")
    try:
        write_tensors(tensors, aside)
        os.replace(aside, folder / WEIGHTS)
    finally:
        aside.unlink(missing_ok=True)
    write_json(written, folder / CONFIG)


def load_adapter(model: Any, folder: str | Path) -> list[str]:
    """Put the adapter of a folder, written by peft or by save_adapter, on the model; gives the adapted modules' names.

    Only the adapter can be trained then, as after add_lora, and what PEFT's modules_to_save names. Raises WeightsError,
    and leaves the model as it was, for an adapter of another kind than LoRA or with options that are not built here,
    for one that belongs to another model (a module that is not there, or without a part, or of another shape), and for
    a damaged file.
    """
    path = Path(folder) / WEIGHTS
    config = read_json(Path(folder) / CONFIG)
    _refuse(config, Path(folder) / CONFIG)
    made_for = f"this adapter was made for {config.get('base_model_name_or_path') or 'a model that it does not name'}"
    wanted = config.get("modules_to_save") or []
    there_is, (found, stored) = places(model), _read(path, model, wanted)
    whole = read_whole(model, stored, wanted, made_for)
    targets = config.get("target_modules")  # PEFT saves a whole module and adapts nothing in it
    names = [there for there in there_is if is_target(there, targets) and not is_whole(f"{there}.weight", wanted)]
    if missing := [there for there in names if there not in found and _whole_depth(config)]:
        raise WeightsError(f"{path} has nothing for {missing[0]}, which {CONFIG} names: {made_for}")
    ours: dict[str, tuple[Parts, LoRAConfig]] = {}
    for there, parts in found.items():
        if there not in there_is:
            raise WeightsError(f"{path} adapts {there}, which this model does not have: {made_for}")
        place = there_is[there]
        settings = _settings(config, there, parts, path)
        _check_shapes(parts, place, f"{path}: {there}", made_for)
        own = (
            {place.ours[0]: place.rows(parts, False)} if len(place.ours) == 1 else split(parts, place.ours, config["r"])
        )
        for name, part in own.items():
            rank = part["A"].size(0)
            alpha = settings.scale / lora_scale(1, rank, settings.rslora)
            ours[name] = part, LoRAConfig(rank, alpha, (name,), settings.dropout, settings.rslora, settings.dora)
    try:
        put_adapters(model, {name: config for name, (_, config) in ours.items()})
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    for name, layer in lora_layers(model).items():
        parts = ours[name][0]
        layer.lora_A.data.copy_(parts["A"])
        layer.lora_B.data.copy_(parts["B"])
        if layer.magnitude is not None:
            layer.magnitude.data.copy_(parts["magnitude"])
    put_whole(model, whole)
    return list(lora_layers(model))


def _refuse(config: Mapping[str, Any], path: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{path}: peft_type is {config.get('peft_type')!r}, only 'LORA' is built here")
    if config.get("bias", "none") != "none":
        raise WeightsError(f"{path}: bias is {config['bias']!r}; adapters that train biases are not built here")
    for option in REFUSED:
        if config.get(option):
            raise WeightsError(f"{path}: {option} is {config[option]!r}, which is not built here")
    if str(config.get("init_lora_weights")).lower().startswith(CHANGES_BASE):
        raise WeightsError(
            f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changed the base's weights too: save "
            "it with peft's path_initial_model_for_weight_conversion, which makes a plain adapter of it"
        )
    whole = config.get("modules_to_save") or []
    if not isinstance(whole, list) or not all(isinstance(name, str) and name for name in whole):
        raise WeightsError(f"{path}: modules_to_save should be a list of names, it is {whole!r}")
    for number in ("r", "lora_alpha"):
        if type(config.get(number)) not in (int, float) or config[number] <= 0:
            raise WeightsError(f"{path}: {number} should be a number above 0, it is {config.get(number)!r}")


def _whole_depth(config: Mapping[str, Any]) -> bool:
    """Whether target_modules alone says what is adapted."""
    return not any(config.get(option) for option in ("layers_to_transform", "layers_pattern", "exclude_modules"))


def _read(path: Path, model: Any, whole: Sequence[str]) -> tuple[dict[str, Parts], dict[str, Tensor]]:
    """Module's name there -> its parts, complete; and the tensors of the modules that are `whole`, by their names."""
    if not path.exists():
        raise WeightsError(f"{path} is missing")
    base = {PREFIX + there: place for there, place in places(model).items()}
    found: dict[str, Parts] = {}
    stored: dict[str, Tensor] = {}
    with _open(path) as file:
        for name in file.keys():  # noqa: SIM118, it is no dict
            place, known = base.get(name.removesuffix(".base_layer.weight")), split_key(name)
            if known is not None:
                found.setdefault(known[0], {})[known[1]] = file.get_tensor(name)
            elif is_whole(name.removeprefix(PREFIX), whole):
                stored[name] = file.get_tensor(name)
            elif place is None or not name.endswith(".base_layer.weight"):
                raise WeightsError(f"{path} holds {name}, which is no part of a LoRA adapter")
            elif not _same(file.get_tensor(name), model.get_submodule(place.ours[0]).weight):
                # peft puts an adapted embedding's own weights beside it
                raise WeightsError(f"{path} holds other base weights, {name}, than this model has")
    for there, parts in found.items():
        if not {"A", "B"} <= set(parts):
            raise WeightsError(f"{path} has only {', '.join(parts)} for {there}: an adapter needs A and B")
        if not all(part.is_floating_point() and part.isfinite().all() for part in parts.values()):
            raise WeightsError(f"{path} holds numbers for {there} that are not finite")
    return found, stored


def _same(stored: Tensor, own: Tensor) -> bool:
    return stored.shape == own.shape and torch.allclose(stored.to(own.dtype), own, atol=1e-6)


def _settings(config: Mapping[str, Any], there: str, parts: Parts, path: Path) -> LoRAConfig:
    """What config says of one module; rank_pattern and alpha_pattern are keyed by regular expressions for its end."""

    def value(pattern: str, default: str) -> Any:
        for ending, number in (config.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({ending})$", there):
                return number
        return config[default]

    rank, dora = value("rank_pattern", "r"), bool(config.get("use_dora"))
    if parts["A"].size(0) != rank:
        raise WeightsError(f"{path}: {there} has rank {parts['A'].size(0)}, but {CONFIG} says {rank}")
    if ("magnitude" in parts) != dora:
        raise WeightsError(f"{path}: {there} has {'a' if not dora else 'no'} magnitude, but use_dora is {dora}")
    alpha, dropout = float(value("alpha_pattern", "lora_alpha")), config.get("lora_dropout", 0.0)
    return LoRAConfig(rank, alpha, (there,), dropout, bool(config.get("use_rslora")), dora)


def _check_shapes(parts: Parts, place: Place, where: str, made_for: str) -> None:
    rank, (n_out, n_in) = parts["A"].size(0), place.shape
    wanted = {"A": (rank, n_in), "B": (n_out, rank), "magnitude": (n_out,)}
    for name, part in parts.items():
        if tuple(part.shape) != wanted[name]:
            raise WeightsError(f"{where}: {name} is {tuple(part.shape)}, this model needs {wanted[name]}: {made_for}")
