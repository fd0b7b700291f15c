"""Rotary positions (RoPE): q and k are turned by an angle that grows with the position.

One convention in the whole package: the two halves of a head pair up, x[i] with x[i + D/2] (LLaMA's files at
Hugging Face). PaLM, Cohere and GGUF pair neighbours, x[2i] with x[2i + 1]; `pairs_to_halves` converts weights.
Sources: Su et al. 2021 (RoFormer); transformers `modeling_rope_utils.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def rope_frequencies(head_dim: int, theta: float = 10000.0) -> Tensor:
    """(D/2,): radians a token for each pair of dimensions, from 1 down to nearly 1 / theta.

    >>> rope_frequencies(4, 100.0)
    tensor([1.0000, 0.1000])
    """
    return theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its angle.

    x          (B, H, T, D)
    cos, sin   (T, D/2), or (B, 1, T, D/2) where texts of a batch have positions of their own

    >>> quarter = torch.tensor([[math.pi / 2]])
    >>> rotate(torch.tensor([[[[1.0, 0.0]]]]), quarter.cos(), quarter.sin()).round()
    tensor([[[[-0.,  1.]]]])
    """
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


def linear_scaling(frequencies: Tensor, factor: float) -> Tensor:
    """Position interpolation: a text `factor` times as long turns through the old angles (Chen et al. 2023)."""
    return frequencies / factor


def ntk_scaling(frequencies: Tensor, factor: float) -> Tensor:
    """Raise theta so that the slowest wave is stretched by `factor` and the fastest not at all.

    The wave of pair i is stretched by factor^(2i / (D - 2)). Source: "NTK-aware scaled RoPE", bloc97, 2023.
    """
    head_dim = 2 * len(frequencies)
    i = torch.arange(len(frequencies), device=frequencies.device)
    return frequencies * factor ** -(2 * i / (head_dim - 2))


def llama3_scaling(
    frequencies: Tensor,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Tensor:
    """Llama 3.1: fast waves stay, slow ones are stretched by `factor`, those between are blended.

    A wave is slow when fewer than low_freq_factor of its turns fit in the original context, fast when more
    than high_freq_factor do. Source: transformers `_compute_llama3_parameters`.
    """
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)  # in the original context
    keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return keep * frequencies + (1 - keep) * frequencies / factor


def yarn_scaling(
    frequencies: Tensor,
    factor: float,
    original_max_position_embeddings: int,
    theta: float = 10000.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Tensor:
    """YaRN: like llama3_scaling, but blended linearly in the *number of the pair* instead of the turns.

    Pairs that turn more than beta_fast times in the original context stay, those with fewer than beta_slow turns
    are stretched. `truncate` rounds the two borders outwards. Source: Peng et al. 2023 (arXiv 2309.00071),
    section 3.2; transformers `_compute_yarn_parameters`.
    """
    head_dim = 2 * len(frequencies)

    def pair_with(turns: float) -> float:
        wavelength = original_max_position_embeddings / turns  # in tokens
        return head_dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(beta_fast), pair_with(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    pair = torch.arange(len(frequencies), device=frequencies.device)
    stretch = ((pair - low) / max(high - low, 0.001)).clamp(0, 1)
    return (1 - stretch) * frequencies + stretch * frequencies / factor


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """YaRN multiplies q and k by this, so that softmax stays as sharp over a longer context (section 3.4).

    mscale, mscale_all_dim   where a file has both (DeepSeek's), they weigh the logarithm, and their quotient counts
    """

    def weighed(weight: float = 1.0) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return weighed(mscale) / weighed(mscale_all_dim) if mscale and mscale_all_dim else weighed()


class RotaryEmbedding(nn.Module):
    """Positions -> (cos, sin) for `rotate`; computed once a forward pass and shared by all layers.

    scaling   None, or what config.json says, for example {"rope_type": "llama3", "factor": 8.0, …}
    """

    def __init__(self, head_dim: int, theta: float = 10000.0, scaling: Mapping[str, Any] | None = None):
        super().__init__()
        frequencies, self.attention_factor = scaled_frequencies(head_dim, theta, scaling)
        # Computed, not loaded: so not a part of checkpoints. Kept in float32 whatever the model's dtype.
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """(T,) or (B, T) positions -> cos and sin, each (T, D/2) or (B, 1, T, D/2)."""
        angles = positions[..., None].float() * self.frequencies.float()
        if positions.dim() == 2:
            angles = angles[:, None]
        cos, sin = angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
        return cos.to(dtype), sin.to(dtype)

    def _apply(self, fn, recurse=True):
        # model.bfloat16() must not round the frequencies: at position 10,000 the angle would be off by radians.
        wide = self.frequencies
        super()._apply(fn, recurse)
        self.frequencies = wide.to(self.frequencies.device)
        return self


def scaled_frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any] | None) -> tuple[Tensor, float]:
    """The frequencies under a config.json's rope scaling, and the factor on cos and sin (1 except for YaRN).

    Raises ValueError for a rope type that is not known here.
    """
    frequencies = rope_frequencies(head_dim, theta)
    scaling = dict(scaling or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = float(scaling.get("factor") or 1.0)
    if kind == "default":
        return frequencies, 1.0
    if kind == "linear":
        return linear_scaling(frequencies, factor), 1.0
    if kind == "ntk":
        return ntk_scaling(frequencies, factor), 1.0
    if kind == "llama3":
        names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return llama3_scaling(frequencies, factor, *(scaling[name] for name in names)), 1.0
    if kind == "yarn":
        options = {k: scaling[k] for k in ("beta_fast", "beta_slow", "truncate") if scaling.get(k) is not None}
        original = scaling["original_max_position_embeddings"]
        weights = (scaling.get(name) for name in ("mscale", "mscale_all_dim"))
        attention_factor = scaling.get("attention_factor") or yarn_attention_factor(factor, *weights)
        return yarn_scaling(frequencies, factor, original, theta, **options), attention_factor
    raise ValueError(f"rope type {kind!r} is not known here; known are default, linear, ntk, llama3 and yarn")


def pairs_to_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of a q or k projection from neighbours (0 1 2 3) to halves (0 2 1 3), head by head.

    weight   (H * D, C), or (H * D,) for a bias; n_heads is the number of *its* heads, so n_kv_heads for k

    The same model results, because q and k are permuted alike and q · k does not care.
    """
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)  # (H, D/2, 2, …) -> (H, 2, D/2, …)


def halves_to_pairs(weight: Tensor, n_heads: int) -> Tensor:
    """Rows of each head from halves to neighbours, the way back from `pairs_to_halves`: as GGUF and Cohere have them.

    weight   (H * D, C), or (H * D,) for a bias; n_heads is the number of *its* heads, so n_kv_heads for k
    result   the same shape

    >>> halves_to_pairs(torch.arange(6), n_heads=1).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
