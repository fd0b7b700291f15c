"""Weights in fewer bits: llama.cpp's Q8_0 and Q4_0, block by block. Source: ggml's `ggml-quants.c`.

A row is cut into blocks of 32 neighbours. A block keeps one scale d, a 16-bit float, and 32 small whole numbers q, and
stands for the values d * q. Q8_0 takes 8.5 bits a weight, Q4_0 4.5. One large weight makes d large for its 31
neighbours too; that is why the blocks are short.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from llmkit.checkpoints.gguf_header import bytes_of

BLOCK = 32


def quantize(values: Tensor, kind: str) -> Tensor:
    """The bytes of a tensor as they lie in a GGUF file.

    values   (…, n) floating point; for Q8_0 and Q4_0 n must be a multiple of 32
    kind     F32, F16, BF16, Q8_0 or Q4_0
    result   (…, bytes of a row) uint8

    Raises ValueError for another kind, rows that are no whole number of blocks, and weights that the kind cannot
    hold: NaN, infinity, or above 65504 in F16 (its scales: 127 and 8 times as much).
    """
    if kind not in _TO_BYTES:
        raise ValueError(f"{kind!r} is not one of {', '.join(_TO_BYTES)}, which are written here")
    bytes_of(kind, tuple(values.shape))  # refuses rows that are no whole number of blocks
    values = values.detach().float().contiguous()
    if not values.isfinite().all():
        raise ValueError("there are weights that are NaN or infinite")
    return _TO_BYTES[kind](values)


def dequantize(data: Tensor, kind: str) -> Tensor:
    """The inverse: (…, bytes of a row) uint8 -> (…, n) float32. Raises ValueError for a kind not written here."""
    if kind not in _FROM_BYTES:
        raise ValueError(f"{kind!r} is not one of {', '.join(_FROM_BYTES)}, which are read here")
    return _FROM_BYTES[kind](data)


def rounding_error(values: Tensor, kind: str) -> float:
    """What a kind loses of a tensor: ||values - rounded|| / ||values||.

    >>> rounding_error(torch.arange(32.0), "Q4_0") > 10 * rounding_error(torch.arange(32.0), "Q8_0")
    True
    """
    values = values.detach().float()
    return float((dequantize(quantize(values, kind), kind) - values).norm() / values.norm().clamp(min=1e-30))


def q8_0(values: Tensor) -> Tensor:
    """d = largest / 127 and q = round(x / d), halves away from zero: 2 + 32 bytes a block."""
    blocks = values.unflatten(-1, (-1, BLOCK))  # (…, n) -> (…, n / 32, 32)
    d = blocks.abs().amax(-1, keepdim=True) / 127
    x = blocks * inverse(d)
    whole = x.abs().floor()
    q = x.sign() * (whole + (2 * (x.abs() - whole)).floor())
    return torch.cat([_half(d), q.to(torch.int8).view(torch.uint8)], dim=-1).flatten(-2)


def q4_0(values: Tensor) -> Tensor:
    """(…, n) float32 -> (…, n / 32 * 18) uint8: for each block of 32 the bytes of its scale d and 32 numbers of 4 bits.

    d       the block's weight with the largest absolute value (of equal ones the first), with its sign, over -8; in
            the file as 2 bytes of float16, while the numbers are computed with d as it was before
    q       x / d + 8.5 without its fraction, at most 15: 0 … 15 stands for d * (q - 8). Where d is 0, q is 8
    bytes   16 of them: number i in the lower half of byte i, number i + 16 in the upper half

    n is a multiple of 32. Raises ValueError for a scale that float16 cannot hold.
    """
    blocks = values.unflatten(-1, (-1, BLOCK))  # (…, n) -> (…, n / 32, 32)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    d = largest / -8
    q = (blocks * inverse(d) + 8.5).trunc().clamp(0, 15).to(torch.uint8)
    low, high = q.chunk(2, dim=-1)
    return torch.cat([_half(d), low | (high << 4)], dim=-1).flatten(-2)


def inverse(d: Tensor) -> Tensor:
    """1 / d, and 0 where that is not finite: the scale of a block of zeros."""
    return torch.where((1 / d).isfinite(), 1 / d, 0)


def _half(d: Tensor) -> Tensor:
    return _bits(d, torch.float16)


def _bits(values: Tensor, dtype: torch.dtype) -> Tensor:
    """(…, n) -> (…, n * bytes) uint8, in the given dtype; raises ValueError where that becomes infinite."""
    narrow = values.to(dtype)
    if not narrow.isfinite().all():
        raise ValueError(f"weights up to {values.abs().max():.3g} are too large for {dtype}")
    return narrow.contiguous().view(torch.uint8)


def _floats(data: Tensor, dtype: torch.dtype) -> Tensor:
    return data.contiguous().view(dtype).float()


def _from_q8_0(data: Tensor) -> Tensor:
    blocks = data.unflatten(-1, (-1, 34))
    return (_floats(blocks[..., :2], torch.float16) * blocks[..., 2:].contiguous().view(torch.int8).float()).flatten(-2)


def _nibbles(data: Tensor) -> Tensor:
    return torch.cat([data & 15, data >> 4], dim=-1).float()


def _from_q4_0(data: Tensor) -> Tensor:
    blocks = data.unflatten(-1, (-1, 18))
    return (_floats(blocks[..., :2], torch.float16) * (_nibbles(blocks[..., 2:]) - 8)).flatten(-2)


def _from_q4_1(data: Tensor) -> Tensor:
    blocks = data.unflatten(-1, (-1, 20))  # a scale, a smallest value, 32 numbers 0 … 15
    scale, least = _floats(blocks[..., :2], torch.float16), _floats(blocks[..., 2:4], torch.float16)
    return (scale * _nibbles(blocks[..., 4:]) + least).flatten(-2)


_TO_BYTES: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": lambda values: _bits(values, torch.float32),
    "F16": lambda values: _bits(values, torch.float16),
    "BF16": lambda values: _bits(values, torch.bfloat16),
    "Q8_0": q8_0,
    "Q4_0": q4_0,
}
_FROM_BYTES: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": lambda data: _floats(data, torch.float32),
    "F16": lambda data: _floats(data, torch.float16),
    "BF16": lambda data: _floats(data, torch.bfloat16),
    "Q8_0": _from_q8_0,
    "Q4_0": _from_q4_0,
    "Q4_1": _from_q4_1,
}
