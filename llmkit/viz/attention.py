"""Who looks at whom: record a model's attention weights and draw them with the words on the axes."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor, nn

from llmkit.viz.style import SEQUENTIAL


@contextmanager
def record_attention(model: nn.Module):
    """`with record_attention(model) as maps:` fills the list with each layer's weights (B, H, T, S), first layer first.

    Recorded anew in every forward pass; detached. While recording, models use the written-out attention, which forms
    the weights, instead of the fused kernel, which never does. Where one such block stands in another, the inner one
    hears; the outer one goes on after it.
    """
    # By what it has, not by its class: a lesson shows MultiHeadAttention in a cell, which makes another class.
    layers = [module for module in model.modules() if hasattr(module, "recorder") and hasattr(module, "o_proj")]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no attention layer to listen to")
    maps: list[Tensor] = []

    def listener(place: int):
        def hear(weights: Tensor) -> None:
            if place == 0:
                maps.clear()
            maps.append(weights.detach())

        return hear

    with _listening(layers, [listener(place) for place in range(len(layers))]):
        yield maps


@contextmanager
def _listening(layers: Sequence[nn.Module], listeners: Sequence[Callable[[Tensor], None]]):
    """Each layer tells its listener, and afterwards whom it told before."""
    before = [layer.recorder for layer in layers]
    for layer, listener in zip(layers, listeners, strict=True):
        layer.recorder = listener
    try:
        yield
    finally:
        for layer, listener in zip(layers, before, strict=True):
            layer.recorder = listener


def attention_maps(model: nn.Module, ids: Tensor) -> Tensor:
    """(L, H, T, S): the weights of every layer and head for one text, ids (1, T). ValueError for more than one."""
    if len(ids) != 1:
        raise ValueError(f"one text at a time, got a batch of {len(ids)}")
    with torch.no_grad(), record_attention(model) as maps:
        model(ids)
    return torch.stack([weights[0] for weights in maps])


def cross_attention_maps(
    model: nn.Module, ids: Tensor, decoder_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """(L, B, H, T, S): how each token of the answer (B, T) looks at the text (B, S), in every layer of the decoder.

    Raises ValueError for a model without cross-attention.
    """
    layers = [module for name, module in model.named_modules() if name.endswith("cross_attn")]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no cross-attention to listen to")
    maps: list[Tensor] = []
    with _listening(layers, [lambda weights: maps.append(weights.detach())] * len(layers)), torch.no_grad():
        model(ids, decoder_ids, attention_mask)
    return torch.stack(maps)


def draw_attention(axis: Axes, weights: Tensor, words: Sequence[str], keys: Sequence[str] | None = None) -> AxesImage:
    """One head's weights (T, S) as a map: a row for each query word, a column for each key (by default the same words).

    Raises ValueError where words and weights differ in number.
    """
    keys = words if keys is None else keys
    if tuple(weights.shape) != (len(words), len(keys)):
        raise ValueError(f"weights of shape {tuple(weights.shape)} for {len(words)} queries and {len(keys)} keys")
    image = axis.imshow(weights.detach().cpu().numpy(), vmin=0, vmax=1, cmap=SEQUENTIAL, aspect="auto")
    axis.set_xticks(range(len(keys)), [word.strip() for word in keys], rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(words)), [word.strip() for word in words])
    axis.grid(False)
    return image


def draw_heads(axes: np.ndarray, maps: Tensor, words: Sequence[str]) -> AxesImage:
    """A grid of maps (L, H, T, S): `axes` (L, H) from plt.subplots; words only at the edges. Returns the last image."""
    for layer, row in enumerate(axes):
        for head, axis in enumerate(row):
            image = draw_attention(axis, maps[layer, head], words)
            axis.set_title(f"layer {layer}, head {head}", fontsize=9)
            if head:
                axis.set_yticks([])
            if layer + 1 < len(axes):
                axis.set_xticks([])
    return image
