"""Dropout belongs to training alone: whether it is on, and how to have none."""

from typing import Any

from torch import nn


def drops_out(model: Any) -> bool:
    """Whether the model gives other numbers at every call; False also for a function, or a text already read."""
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)  # a ConditionalLM's
    modules = module.modules() if isinstance(module, nn.Module) else ()
    return any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in modules)


def without_dropout(model: nn.Module) -> nn.Module:
    """The same model, whose every dropout is 0 from now on, in training too."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model
