"""Modules that are trained whole beside the adapters, such as a new classifier: PEFT's modules_to_save."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from llmkit.checkpoints.tables import Copy, PairsToHalves, Transpose, WeightsError, split_numbers
from llmkit.finetuning.adapter_names import PREFIX, table
from llmkit.finetuning.adapters import is_shared, trained_whole

SHARED = "shares its matrix with another module (tied embeddings), where PEFT would train the two apart"


def stored_whole(model: nn.Module) -> tuple[list[str], dict[str, Tensor]]:
    """Their names of those modules, for modules_to_save, and their tensors by the names in adapter_model.safetensors.

    Raises ValueError for one that the family's files do not have, or have as a part of another (GPT-2's q_proj), and
    for one that shares its matrix with another module: PEFT would train the two apart.
    """
    names, tensors = [], {}
    for owner in trained_whole(model):
        for part, parameter in model.get_submodule(owner).named_parameters(recurse=False):
            there = _there(model, f"{owner}.{part}")
            if there is None:
                raise ValueError(f"{owner} is trained beside the adapters, but is no module of this family's files")
            if is_shared(model, parameter):
                raise ValueError(f"{owner} is trained beside the adapters, but {SHARED}")
            name, entry = there
            names.append(name.rpartition(".")[0])
            tensors[PREFIX + name] = entry.store(parameter.detach()).contiguous()
    return sorted(set(names)), tensors


def read_whole(
    model: nn.Module, stored: Mapping[str, Tensor], wanted: Sequence[str], made_for: str
) -> dict[str, Tensor]:
    """Our name -> value, of what modules_to_save names, taken from the file's tensors.

    A name stands for every module that it is the end of, with all that is in it; one that this model does not have is
    left out, as PEFT does ("score" of a model whose head is called "classifier"). Raises WeightsError for a tensor that
    is missing, has no place in this model, is shared by two modules, has another shape or is not finite.
    """
    found, left = {}, set(stored)
    for name, parameter in model.named_parameters():
        there = _there(model, name)
        if there is None or not is_whole(there[0], wanted):
            continue
        value = stored.get(PREFIX + there[0])
        if value is None:
            raise WeightsError(f"the adapter has no {PREFIX + there[0]}, though modules_to_save names it: {made_for}")
        if is_shared(model, parameter):
            raise WeightsError(f"modules_to_save names {there[0]}, but in this model it {SHARED}")
        left.discard(PREFIX + there[0])
        value = there[1].load(value)
        if value.shape != parameter.shape:
            shapes = f"{tuple(value.shape)}, this model needs {tuple(parameter.shape)}"
            raise WeightsError(f"{there[0]} is {shapes}: {made_for}")
        if not (value.is_floating_point() and value.isfinite().all()):
            raise WeightsError(f"the adapter's {there[0]} has numbers that are not finite")
        found[name] = value
    if left:
        raise WeightsError(f"the adapter holds {min(left)}, which this model does not have: {made_for}")
    return found


def is_whole(there: str, wanted: Sequence[str]) -> bool:
    """Whether modules_to_save names the module that this parameter of theirs is in, or one around it: by their ends.

    >>> is_whole("classifier.dense.weight", ["classifier"]), is_whole("lm_head.weight", ["head", "classifier"])
    (True, True)
    """
    around = [there[:i] for i, char in enumerate(there) if char == "."]
    return any(module.endswith(name) for module in around for name in wanted)


def put_whole(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set the values; they can be trained from now on."""
    for name, value in values.items():
        parameter = model.get_parameter(name)
        parameter.data.copy_(value)
        parameter.requires_grad_(True)


def _there(model: nn.Module, name: str) -> tuple[str, Copy] | None:
    """Their name of our parameter and its entry in the table; None for what is no tensor of its own there."""
    template, numbers = split_numbers(name)
    entry = table(model).get(template)
    return (entry.names[0].format(*numbers), entry) if type(entry) in (Copy, Transpose, PairsToHalves) else None
