"""Positions: attention alone cannot tell word order, so each scheme here puts it in at another place.

added to the embeddings   `Sinusoidal`; a learned table is `torch.nn.Embedding`
turned into q and k       `RotaryEmbedding` (rope.py has its long-context scalings)
added to the scores       `Alibi`, `RelativePositionBias` (T5)
"""

import math

import torch
from torch import Tensor, nn


def sinusoidal(positions: Tensor, d_model: int, base: float = 10000.0) -> Tensor:
    """The 2017 Transformer's position vectors: pairs (sin, cos) of ever slower waves.

    positions   any shape (...)
    result      (..., C): entry 2i is sin(position / base^(2i/C)), entry 2i + 1 the cosine; C must be even

    Source: Vaswani et al. 2017, section 3.5.

    >>> sinusoidal(torch.tensor([0]), 4)
    tensor([[0., 1., 0., 1.]])
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions come in pairs, so d_model must be even, got {d_model}")
    frequencies = base ** -(torch.arange(0, d_model, 2, device=positions.device) / d_model)  # (C/2,)
    angles = positions[..., None] * frequencies  # (..., C/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # (..., C/2, 2) -> (..., C)


class Sinusoidal(nn.Module):
    """`sinusoidal` as a module that can stand where a learned table stands."""

    def __init__(self, d_model: int, base: float = 10000.0):
        super().__init__()
        self.d_model, self.base = d_model, base

    def forward(self, positions: Tensor) -> Tensor:
        return sinusoidal(positions, self.d_model, self.base)


def alibi_slopes(n_heads: int) -> Tensor:
    """(H,): how steeply each head's score falls with distance.

    For a power of two 2^(-8/H), 2^(-16/H), …; for other numbers of heads the slopes of the power of two below,
    then every other one of twice that power. Source: Press et al. 2022; transformers `build_alibi_tensor`.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return torch.tensor(slopes + between[: n_heads - power], device="cpu")


class Alibi(nn.Module):
    """A penalty on the scores that grows with distance; nothing is learned."""

    def __init__(self, n_heads: int):
        super().__init__()
        self.register_buffer("slopes", alibi_slopes(n_heads), persistent=False)

    def forward(self, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
        """(T,) and (S,) positions -> (1, H, T, S) to add to the scores."""
        distance = (q_positions[:, None] - kv_positions[None, :]).abs()  # (T, S)
        return -(self.slopes[:, None, None] * distance)[None]


def relative_bucket(
    distance: Tensor, bidirectional: bool = True, n_buckets: int = 32, max_distance: int = 128
) -> Tensor:
    """T5's number for a distance: exact for near keys, logarithmic for far ones, one for all beyond.

    distance       key position minus query position, integers of any shape; negative is the past
    bidirectional  True (encoder): half of the buckets are for keys that come after the query;
                   False (decoder): keys after the query all get bucket 0, as if at distance 0
    result         integers in [0, n_buckets)

    Of the buckets for one direction the first half stand for one distance each, the rest grow in equal factors up
    to max_distance. Source: Raffel et al. 2020, section 2.1; transformers `_relative_position_bucket`.

    >>> relative_bucket(torch.tensor([0, -1, -7, -8, -20, -500, 3]), n_buckets=32, max_distance=128)
    tensor([ 0,  1,  7,  8, 10, 15, 19])
    """
    bucket = torch.zeros_like(distance)
    if bidirectional:
        n_buckets //= 2
        bucket = (distance > 0).long() * n_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = n_buckets // 2
    log_share = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (log_share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return bucket + torch.where(distance < exact, distance, far)


class RelativePositionBias(nn.Module):
    """T5: one learned number for each bucket and head, added to the scores; one table serves all layers."""

    def __init__(self, n_heads: int, bidirectional: bool, n_buckets: int = 32, max_distance: int = 128):
        super().__init__()
        exact = n_buckets // (4 if bidirectional else 2)  # these many distances have a bucket each
        if not 1 <= exact < max_distance:
            raise ValueError(
                f"{n_buckets} buckets give {exact} distances one each, which must be at least 1 and below max_distance "
                f"{max_distance}"
            )
        self.weight = nn.Parameter(torch.zeros(n_buckets, n_heads))
        self.bidirectional, self.max_distance = bidirectional, max_distance

    def forward(self, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
        """(T,) and (S,) positions -> (1, H, T, S) to add to the scores."""
        distance = kv_positions[None, :] - q_positions[:, None]  # (T, S)
        bucket = relative_bucket(distance, self.bidirectional, len(self.weight), self.max_distance)
        return self.weight[bucket].permute(2, 0, 1)[None]  # (T, S, H) -> (1, H, T, S)
