"""Lesson 15: adapters, their scale, merging, the rank of a change, four bits a weight."""

import math

import torch
from torch.nn import functional as F

from llmkit.course.exercise import Case, Exercise
from llmkit.finetuning.lora import lora_forward, merged_weight
from llmkit.finetuning.quantized import nf4_code, quantize_blocks
from llmkit.finetuning.spectrum import energy


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- 15.1 how many numbers learn, by hand ---


def n_trained() -> int:
    return 8 * 96 + 288 * 8


# --- 15.2 lora_forward ---


def forward_cases() -> list[Case]:
    def make(leading, n_in, n_out, r, scale, seed, bias=False):
        shapes = [(*leading, n_in), (n_out, n_in), (r, n_in), (n_out, r)]
        tensors = [_random(*shape, seed=10 * seed + i) for i, shape in enumerate(shapes)]
        return (*tensors, scale) + ((_random(n_out, seed=seed + 5),) if bias else ())

    def example():
        return torch.tensor([1.0, 2.0]), torch.eye(2), torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.0]]), 2.0

    def new():
        x, weight, A, B, scale = make((2, 3), 5, 4, 2, 2.0, 1)
        return x, weight, A, torch.zeros_like(B), scale

    return [
        Case("the example", example),
        Case("a new adapter, B all 0", new),
        Case("one vector, rank 1, scale 1", lambda: make((), 4, 3, 1, 1.0, 2)),
        Case("(2, 5, 6), rank 3, scale 0.5", lambda: make((2, 5, 6)[:2], 6, 7, 3, 0.5, 3)),
        Case("with a bias", lambda: make((2, 5), 6, 7, 3, 2.0, 4, bias=True)),
        Case("as many outputs as inputs and ranks", lambda: make((4,), 4, 4, 4, 0.25, 5, bias=True)),
        Case("more axes in front", lambda: make((2, 1, 3, 2), 5, 3, 2, 4.0, 6)),
    ]


def forward_without_scale(x, weight, A, B, scale, bias=None):
    return lora_forward(x, weight, A, B, 1.0, bias)


def forward_scale_on_all(x, weight, A, B, scale, bias=None):
    return scale * lora_forward(x, weight, A, B, 1.0, bias)


def forward_base_forgotten(x, weight, A, B, scale, bias=None):
    return scale * F.linear(F.linear(x, A), B)


def forward_bias_forgotten(x, weight, A, B, scale, bias=None):
    return lora_forward(x, weight, A, B, scale)


def forward_bias_twice(x, weight, A, B, scale, bias=None):
    y = lora_forward(x, weight, A, B, scale, bias)
    return y if bias is None else y + bias


def forward_divided(x, weight, A, B, scale, bias=None):
    return lora_forward(x, weight, A, B, 1 / scale, bias)


def forward_divided_by_rank(x, weight, A, B, scale, bias=None):
    return lora_forward(x, weight, A, B, scale / len(A), bias)


# --- 15.3 the scale forgotten, predicted ---


def share_of_the_change() -> float:
    return 1 / (16 / 8)


# --- 15.4 merged_weight ---


def merge_cases() -> list[Case]:
    def make(n_out, n_in, r, scale, seed, dora=False, dtype=torch.float32):
        weight = _random(n_out, n_in, seed=seed, dtype=dtype)
        A, B = _random(r, n_in, seed=seed + 20, dtype=dtype), _random(n_out, r, seed=seed + 40, dtype=dtype)
        return (weight, A, B, scale) + ((_random(n_out, seed=seed + 60).abs() + 0.5,) if dora else ())

    def small_update():
        A, B = _random(32, 16, seed=11) * 0.05, _random(12, 32, seed=12) * 0.05
        return _random(12, 16, seed=13, dtype=torch.bfloat16), A.bfloat16(), B.bfloat16(), 0.3

    def cancelling():  # 2 ** 24 + x - 2 ** 24: float32 keeps x to whole numbers only, in whatever order it computes
        weight = 2.0**24 + 50 * _random(6, 5, seed=16, dtype=torch.float64)
        return weight, torch.ones(1, 5).double(), torch.full((6, 1), -(2.0**25)).double(), 0.5

    return [
        Case("2 by 2, rank 1", lambda: (torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]]), 0.5)),
        Case("5 by 7, rank 3", lambda: make(5, 7, 3, 2.0, 1)),
        Case("7 by 5, rank 2", lambda: make(7, 5, 2, 0.25, 2)),
        Case("a square", lambda: make(4, 4, 4, 1.5, 3)),
        Case("DoRA's magnitude", lambda: make(5, 7, 3, 2.0, 4, dora=True)),
        Case("DoRA, a square", lambda: make(4, 4, 2, 0.5, 5, dora=True)),
        Case("bfloat16", lambda: make(6, 5, 3, 0.7, 6, dtype=torch.bfloat16)),
        Case("bfloat16, an update of many small parts", small_update),
        Case("float64", lambda: make(3, 4, 2, 1.1, 7, dtype=torch.float64)),
        Case("float64 with DoRA", lambda: make(3, 4, 2, 1.1, 8, True, torch.float64)),
        Case("float64, an update that takes away nearly all of the weight", cancelling),
        Case("float64, the same with DoRA", lambda: (*cancelling(), torch.arange(1.0, 7.0))),
    ]


def merge_without_scale(weight, A, B, scale, magnitude=None):
    return merged_weight(weight, A, B, 1.0, magnitude)


def merge_update_only(weight, A, B, scale, magnitude=None):
    return merged_weight(torch.zeros_like(weight), A, B, scale, magnitude)


def merge_twice(weight, A, B, scale, magnitude=None):
    return merged_weight(merged_weight(weight, A, B, scale), A, B, scale, magnitude)


def merge_in_place(weight, A, B, scale, magnitude=None):
    return weight.copy_(merged_weight(weight, A, B, scale, magnitude))


def merge_subtracted(weight, A, B, scale, magnitude=None):
    return merged_weight(weight, A, B, -scale, magnitude)


def merge_in_16_bits(weight, A, B, scale, magnitude=None):
    merged = weight + scale * (B @ A)
    if magnitude is not None:
        merged = merged * (magnitude / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype)


def merge_in_16_bits_scaled_first(weight, A, B, scale, magnitude=None):
    merged = weight + scale * B @ A
    if magnitude is not None:
        merged = merged * (magnitude / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype)


def merge_update_in_16_bits(weight, A, B, scale, magnitude=None):
    wide = torch.promote_types(weight.dtype, torch.float32)
    merged = weight + (scale * (B.to(wide) @ A.to(wide))).to(weight.dtype)
    if magnitude is not None:
        merged = merged * (magnitude / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype)


def merge_always_float32(weight, A, B, scale, magnitude=None):
    return merged_weight(weight.float(), A, B, scale, magnitude).to(weight.dtype)


def merge_columns(weight, A, B, scale, magnitude=None):
    merged = merged_weight(weight, A, B, scale)
    return merged if magnitude is None else merged / merged.norm(dim=0) * magnitude.to(merged.dtype)[:, None]


def merge_magnitude_first(weight, A, B, scale, magnitude=None):
    if magnitude is not None:
        weight = weight * (magnitude.to(weight.dtype) / weight.norm(dim=1))[:, None]
    return merged_weight(weight, A, B, scale)


def merge_float32(weight, A, B, scale, magnitude=None):
    return merged_weight(weight.float(), A, B, scale, magnitude)


def merge_magnitude_ignored(weight, A, B, scale, magnitude=None):
    return merged_weight(weight, A, B, scale)


def merge_not_divided(weight, A, B, scale, magnitude=None):
    merged = merged_weight(weight, A, B, scale)
    return merged if magnitude is None else merged * magnitude.to(merged.dtype)[:, None]


def merge_old_length(weight, A, B, scale, magnitude=None):
    if magnitude is None:
        return merged_weight(weight, A, B, scale)
    merged = merged_weight(weight, A, B, scale)
    return merged * (magnitude.to(merged.dtype) / weight.norm(dim=1))[:, None]


def merge_one_length(weight, A, B, scale, magnitude=None):
    merged = merged_weight(weight, A, B, scale)
    return merged if magnitude is None else merged * (magnitude.to(merged.dtype) / merged.norm())[:, None]


# --- 15.5 energy (find the bug) ---


def energy_cases() -> list[Case]:
    def low_rank(n_out, n_in, r, seed):
        return (_random(n_out, r, seed=seed) @ _random(r, n_in, seed=seed + 1),)

    return [
        Case("two directions, 2 and 1", lambda: (torch.tensor([[2.0, 0.0], [0.0, 1.0]]),)),
        Case("one direction", lambda: (torch.tensor([[1.0, 2.0], [2.0, 4.0]]),)),
        Case("three equal directions", lambda: (torch.eye(3),)),
        Case("signs do not matter", lambda: (torch.diag(torch.tensor([-3.0, 4.0])),)),
        Case("5 by 8", lambda: (_random(5, 8, seed=1),)),
        Case("8 by 5", lambda: (_random(8, 5, seed=2),)),
        Case("7 by 9 of rank 2", lambda: low_rank(7, 9, 2, 3)),
        Case("a small change", lambda: (0.001 * _random(3, 4, seed=8),)),
        Case("nothing changed", lambda: (torch.zeros(2, 3),)),
        Case("a vector is refused", lambda: (torch.ones(4),)),
        Case("bfloat16", lambda: (_random(4, 6, seed=5, dtype=torch.bfloat16),)),
        Case("one row", lambda: (_random(1, 6, seed=6),)),
    ]


def _matrix(change):
    if change.dim() != 2:
        raise ValueError(f"a change of weights is a matrix (out, in), got {tuple(change.shape)}")
    return torch.linalg.svdvals(change.detach().double())


def energy_not_squared(change: torch.Tensor) -> list[float]:
    if change.dim() != 2:
        raise ValueError(f"a change of weights is a matrix (out, in), got {tuple(change.shape)}")
    sizes = torch.linalg.svdvals(change.detach().double())
    total = sizes.sum()
    return (sizes.cumsum(0) / total if total > 0 else sizes).tolist()


def energy_each(change):
    squares = _matrix(change).square()
    return (squares / squares.sum() if squares.sum() > 0 else squares).tolist()


def energy_of_the_root(change):
    return [math.sqrt(share) for share in energy(change)]


def energy_zero_divided(change):
    squares = _matrix(change).square()
    return (squares.cumsum(0) / squares.sum()).tolist()


def energy_smallest_first(change):
    squares = _matrix(change).square().flip(0)
    total = squares.sum()
    return (squares.cumsum(0) / total if total > 0 else squares).tolist()


def energy_by_the_largest(change):
    squares = _matrix(change).square()
    return (squares.cumsum(0) / squares[0] if squares[0] > 0 else squares).tolist()


def energy_sum_squared(change):
    sizes = _matrix(change)
    total = sizes.sum().square()
    return (sizes.square().cumsum(0) / total if total > 0 else sizes).tolist()


def energy_sums_squared(change):
    sizes = _matrix(change)
    total = sizes.sum().square()
    return (sizes.cumsum(0).square() / total if total > 0 else sizes).tolist()


def energy_half_mended(change):
    sizes = _matrix(change)
    total = sizes.sum()
    return (sizes.square().cumsum(0) / total if total > 0 else sizes).tolist()


def energy_left(change):
    return [1 - share if any(energy(change)) else 0.0 for share in energy(change)]


# --- 15.6 quantize_blocks ---

TERNARY = (-1.0, 0.0, 1.0)


def block_cases() -> list[Case]:
    three = torch.tensor(TERNARY)
    return [
        Case("the example", lambda: (torch.tensor([0.5, -2.0, 0.1, 0.0]), torch.tensor(TERNARY), 2)),
        Case("one block, scale 1", lambda: (torch.tensor([1.0, -0.9, 0.2, -0.3]), torch.tensor(TERNARY), 4)),
        Case("the largest is negative", lambda: (torch.tensor([-4.0, 1.0, 3.0]), torch.tensor(TERNARY), 3)),
        Case("every block has its own scale", lambda: (torch.tensor([0.01, -0.02, 5.0, 2.0]), three.clone(), 2)),
        Case("the last block is shorter", lambda: (torch.tensor([1.0, 2.0, 3.0, -0.4, 8.0]), three.clone(), 3)),
        Case("a block of zeros", lambda: (torch.tensor([0.0, 0.0, 1.0, -3.0]), three.clone(), 2)),
        Case("half way between two entries: the lower", lambda: (torch.tensor([0.5, 1.0, -0.5]), three.clone(), 3)),
        Case("a matrix, in the order of memory", lambda: (_random(3, 5, seed=1), nf4_code().clone(), 4)),
        Case("16 entries, blocks of 64", lambda: (_random(20, 16, seed=2) * 0.03, nf4_code().clone())),
        Case(
            "entries that are not evenly spaced", lambda: (_random(9, seed=3), torch.tensor([-1.0, -0.1, 0, 0.7, 1]), 5)
        ),
        Case("a code without 0", lambda: (_random(7, seed=4), torch.tensor([-1.0, -0.3, 0.4, 1.0]), 3)),
        Case("bfloat16", lambda: (_random(4, 6, seed=5, dtype=torch.bfloat16), nf4_code().clone(), 8)),
        Case("a block larger than the weights", lambda: (_random(5, seed=6), nf4_code().clone(), 64)),
        Case("very small weights", lambda: (_random(6, seed=8) * 1e-9, nf4_code().clone(), 3)),
        Case("blocks of one", lambda: (_random(4, seed=7), nf4_code().clone(), 1)),
        Case("a block of size 0 is refused", lambda: (_random(4), nf4_code().clone(), 0)),
        Case("a weight that is infinite is refused", lambda: (torch.tensor([1.0, torch.inf]), nf4_code().clone(), 2)),
    ]


def _refuse_blocks(weight, block_size):
    if block_size < 1 or not weight.isfinite().all():
        raise ValueError("a block holds at least one weight, and weights are finite")


def blocks_one_scale(weight, code, block_size=64):
    _refuse_blocks(weight, block_size)
    numbers, scale = quantize_blocks(weight, code, weight.numel())
    return numbers, scale.expand(-(-weight.numel() // block_size)).clone()


def blocks_not_divided(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    middles = (code[1:] + code[:-1]) / 2
    return torch.bucketize(weight.flatten().float(), middles).to(torch.uint8), scales


def blocks_largest_not_absolute(weight, code, block_size=64):
    _refuse_blocks(weight, block_size)
    flat = weight.flatten().float()
    scales = torch.stack([block.max() for block in flat.split(block_size)])
    unit = flat / scales.masked_fill(scales == 0, 1.0).repeat_interleave(block_size)[: len(flat)]
    return torch.bucketize(unit, (code[1:] + code[:-1]) / 2).to(torch.uint8), scales


def blocks_rounded_up(weight, code, block_size=64):
    _, scales = quantize_blocks(weight, code, block_size)
    flat = weight.flatten().float()
    unit = flat / scales.masked_fill(scales == 0, 1.0).repeat_interleave(block_size)[: len(flat)]
    return torch.bucketize(unit, code, right=False).clamp(max=len(code) - 1).to(torch.uint8), scales


def blocks_half_upwards(weight, code, block_size=64):
    _, scales = quantize_blocks(weight, code, block_size)
    flat = weight.flatten().float()
    unit = flat / scales.masked_fill(scales == 0, 1.0).repeat_interleave(block_size)[: len(flat)]
    return torch.bucketize(unit, (code[1:] + code[:-1]) / 2, right=True).to(torch.uint8), scales


def blocks_zero_divided(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    nothing = (scales == 0).repeat_interleave(block_size)[: len(numbers)]
    return numbers.masked_fill(nothing, len(code) - 1), scales


def blocks_values(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    return code[numbers.long()], scales


def blocks_padded(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    zero = int(quantize_blocks(torch.zeros(1), code)[0])
    return F.pad(numbers, (0, -len(numbers) % block_size), value=zero), scales


def blocks_long(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    return numbers.long(), scales


def _units(weight, scales, block_size):
    flat = weight.flatten().float()
    return flat / scales.masked_fill(scales == 0, 1.0).repeat_interleave(block_size)[: len(flat)]


def blocks_rounded_down(weight, code, block_size=64):
    _, scales = quantize_blocks(weight, code, block_size)
    below = torch.bucketize(_units(weight, scales, block_size), code, right=True) - 1
    return below.clamp(min=0).to(torch.uint8), scales


def blocks_evenly(weight, code, block_size=64):
    _, scales = quantize_blocks(weight, code, block_size)
    place = (_units(weight, scales, block_size) + 1) / 2 * (len(code) - 1)
    return place.round().to(torch.uint8), scales


def blocks_small_number_added(weight, code, block_size=64):
    _, scales = quantize_blocks(weight, code, block_size)
    return torch.bucketize(_units(weight, scales + 1e-8, block_size), (code[1:] + code[:-1]) / 2).byte(), scales


def blocks_scale_of_one(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    return numbers, scales.masked_fill(scales == 0, 1.0)


def blocks_scales_as_weight(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    return numbers, scales.to(weight.dtype)


def blocks_in_shape(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    return numbers.view(weight.shape), scales


def blocks_last_lost(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    whole = len(numbers) // block_size
    return numbers[: whole * block_size], scales[:whole]


def blocks_swapped(weight, code, block_size=64):
    numbers, scales = quantize_blocks(weight, code, block_size)
    return scales, numbers


def blocks_by_rows(weight, code, block_size=64):
    _refuse_blocks(weight, block_size)
    if weight.dim() < 2:
        return quantize_blocks(weight, code, block_size)
    parts = [quantize_blocks(row, code, block_size) for row in weight]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


EXERCISES = [
    Exercise(
        number="15.1",
        name="n_trained",
        reference=n_trained,
        tolerance=0.0,
        hints=(
            "A has one row for each of the r directions and one column for each input. What shape has B?",
            "Two thin matrices: (8, 96) and (288, 8).",
        ),
        wrong={
            "that is the whole matrix, which stays as it is": lambda: 288 * 96,
            "that is A alone; B learns too": lambda: 8 * 96,
            "that is B alone; A learns too": lambda: 8 * 288,
            "that is the shape of their product; the thin matrices have fewer numbers": lambda: 288 * 96 + 8 * 96,
            "each thin matrix is r wide, not r on both sides": lambda: 2 * 8 * 8,
            "that is rank 1; here there are 8 directions": lambda: 96 + 288,
            "the rank is 8; that would be rank 16": lambda: 16 * (96 + 288),
            "that is how many numbers there are in all, the frozen ones too": lambda: 288 * 96 + n_trained(),
        },
    ),
    Exercise(
        number="15.2",
        name="lora_forward",
        reference="llmkit.finetuning.lora:lora_forward",
        cases=forward_cases,
        tolerance=1e-5,
        gradients=True,
        hints=(
            "F.linear(x, weight, bias) is the base's part. F.linear(x, A) has shape (…, r).",
            "F.linear of that with B has the shape of the output; scale multiplies this part alone.",
        ),
        wrong={
            "the scale was forgotten": forward_without_scale,
            "the scale multiplies the adapter's part alone, not the base's": forward_scale_on_all,
            "the base's part is missing": forward_base_forgotten,
            "the bias was forgotten": forward_bias_forgotten,
            "the bias was added twice": forward_bias_twice,
            "divided by the scale; it is a factor": forward_divided,
            "divided by the rank as well; the scale holds that already": forward_divided_by_rank,
        },
    ),
    Exercise(
        number="15.3",
        name="share_of_the_change",
        reference=share_of_the_change,
        tolerance=1e-6,
        hints=(
            "What was the scale in training? alpha is 16, the rank 8.",
            "The change is scale times B A; the program multiplies the same B A by 1.",
        ),
        wrong={
            "that is how much too small it is, the scale itself; asked is the share that is left": lambda: 2.0,
            "the adapter is not lost: B A is added, with another factor": lambda: 0.0,
            "the scale does matter: A and B were trained with it in front of them": lambda: 1.0,
            "alpha is 16, but the scale is alpha / r": lambda: 1 / 16,
            "the rank is 8, but the scale is alpha / r": lambda: 1 / 8,
            "that is rsLoRA's scale, alpha / sqrt(r)": lambda: 1 / (16 / math.sqrt(8)),
            "a share between 0 and 1; that is in per cent": lambda: 50.0,
        },
    ),
    Exercise(
        number="15.4",
        name="merged_weight",
        reference="llmkit.finetuning.lora:merged_weight",
        cases=merge_cases,
        tolerance=2e-6,
        hints=(
            "torch.promote_types(weight.dtype, torch.float32) is float32 for 16 bits and leaves float64.",
            "B @ A has the shape of weight. Convert before you multiply, and convert back at the very end.",
            "merged.norm(dim=1) is the length of each row, (out,); [:, None] lets it multiply rows.",
        ),
        wrong={
            "the scale was forgotten": merge_without_scale,
            "that is the update alone; the weight is missing": merge_update_only,
            "the update was added twice": merge_twice,
            "the weight that was given was changed; make a new tensor": merge_in_place,
            "the update was subtracted: that is unmerging": merge_subtracted,
            "computed in 16 bits: small parts of the update were lost": merge_in_16_bits,
            "computed in 16 bits: convert before you multiply, scale * B too is rounded": merge_in_16_bits_scaled_first,
            "the update was rounded to 16 bits before the sum; round once, at the end": merge_update_in_16_bits,
            "a float64 weight was computed in float32; that is the least, not the most": merge_always_float32,
            "the result should have the weight's dtype again": merge_float32,
            "the magnitude was not used": merge_magnitude_ignored,
            "each row was multiplied by its magnitude, and not divided by the length that it has": merge_not_divided,
            "divided by the old weight's length; the row to be stretched is the merged one": merge_old_length,
            "one length for the whole matrix; each row has its own": merge_one_length,
            "divided by the lengths of the columns; the rows (dim=1) are brought to a length": merge_columns,
            "W was brought to the length, and the update added after it; first add, then stretch": merge_magnitude_first,
        },
    ),
    Exercise(
        number="15.5",
        name="energy",
        reference="llmkit.finetuning.spectrum:energy",
        cases=energy_cases,
        starts_from=energy_not_squared,
        tolerance=1e-5,
        hints=(
            "Try it on the matrix with 2 and 1 on its diagonal, and compute its squared size by hand: 4 + 1.",
            "The squared size of a matrix, the sum of all its squares, is the sum of the *squares* of its singular values.",
        ),
        wrong={
            "the singular values were added up; the squared size is made of their squares": energy_not_squared,
            "each direction's share alone; asked is the share of the r first together": energy_each,
            "those are shares of the size, not of the squared size: no root": energy_of_the_root,
            "0 / 0 for a change of nothing; zeros are wanted": energy_zero_divided,
            "the smallest directions came first": energy_smallest_first,
            "divided by the largest; divide by the sum of all": energy_by_the_largest,
            "that is what is left over; asked is what is held": energy_left,
            "the total is the square of the sum; it should be the sum of the squares": energy_sum_squared,
            "added first and squared then; square each size before you add": energy_sums_squared,
            "the squares are divided by the sum of the sizes; the total is one of squares, too": energy_half_mended,
        },
    ),
    Exercise(
        number="15.6",
        name="quantize_blocks",
        reference="llmkit.finetuning.quantized:quantize_blocks",
        cases=block_cases,
        tolerance=1e-6,
        hints=(
            "F.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size) makes whole blocks; remember to cut again.",
            "blocks.abs().amax(1) are the scales. A scale of 0 must not divide: masked_fill it with 1 for that.",
            "Nearest entry: the borders lie in the middle between neighbours, (code[1:] + code[:-1]) / 2; torch.bucketize.",
        ),
        wrong={
            "one scale for all; every block has its own": blocks_one_scale,
            "the weights were not divided by their block's scale": blocks_not_divided,
            "the largest value was taken; the largest *absolute* value is asked for": blocks_largest_not_absolute,
            "the next entry above was taken; asked is the nearest": blocks_rounded_up,
            "half way between two entries the lower is asked for": blocks_half_upwards,
            "0 / 0 in a block of zeros; its numbers should be those of 0": blocks_zero_divided,
            "those are the entries; asked are their numbers": blocks_values,
            "the last block was filled up, and the filling was not cut off again": blocks_padded,
            "the numbers should be uint8": blocks_long,
            "blocks began anew in each row; they go through the weights in order": blocks_by_rows,
            "the entry below was taken; asked is the nearest": blocks_rounded_down,
            "that holds for evenly spaced entries; look each weight up among those of the code": blocks_evenly,
            "a small number was added to each scale; only a scale of 0 must not divide": blocks_small_number_added,
            "the scale of a block of zeros is 0, though you divide by 1 there": blocks_scale_of_one,
            "the scales should be float32, whatever dtype the weights have": blocks_scales_as_weight,
            "the numbers are one row (n,), not in the weight's shape": blocks_in_shape,
            "the last, shorter block was lost": blocks_last_lost,
            "the pair is numbers first, then scales": blocks_swapped,
        },
    ),
]
