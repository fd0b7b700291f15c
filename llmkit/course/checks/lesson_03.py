"""Lesson 03: embeddings, waves, rotations, distances, longer contexts."""

import math

import torch

from llmkit.course.exercise import Case, Exercise
from llmkit.layers.positions import relative_bucket, sinusoidal
from llmkit.layers.rope import halves_to_pairs, llama3_scaling, rope_frequencies


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- 3.1 which rows of the table get a gradient, by hand ---


def row_gradients() -> list[float]:
    table = torch.zeros(4, 3, requires_grad=True)
    table[torch.tensor([2, 0, 2])].sum().backward()
    return table.grad[:, 0].tolist()


# --- 3.2 sinusoidal ---


def sinusoidal_cases() -> list[Case]:
    return [
        Case("position 0: sines 0, cosines 1", lambda: (torch.tensor([0]), 4)),
        Case("positions 0 to 4, one pair", lambda: (torch.arange(5), 2)),
        Case("positions 0 to 4, four pairs", lambda: (torch.arange(5), 8)),
        Case("another base", lambda: (torch.arange(5), 6, 100.0)),
        Case("positions that do not start at 0", lambda: (torch.tensor([7, 3, 90]), 6)),
        Case("the base left out, far positions", lambda: (torch.tensor([700, 1000]), 4)),
        Case("positions of shape (2, 3)", lambda: (torch.tensor([[0, 1, 2], [0, 0, 1]]), 10)),
        Case("a single position of shape ()", lambda: (torch.tensor(5), 4)),
        Case("an odd d_model", lambda: (torch.arange(5), 5)),
    ]


def refuses_odd(wrong):
    """A slip in the formula is a slip whether or not the odd d_model was thought of."""

    def function(positions, d_model, base=10000.0):
        if d_model % 2:
            raise ValueError("odd")
        return wrong(positions, d_model, base)

    return function


def _angles(positions, exponents, base):
    return positions[..., None] * base ** -torch.as_tensor(exponents, dtype=torch.float32)


def _alternate(sines, cosines):
    return torch.stack([sines, cosines], -1).flatten(-2)


def _even_shares(d_model):
    return torch.arange(0, d_model, 2) / d_model


@refuses_odd
def sinusoidal_in_halves(positions, d_model, base):
    angles = _angles(positions, _even_shares(d_model), base)
    return torch.cat([angles.sin(), angles.cos()], -1)


@refuses_odd
def sinusoidal_exponent_halved(positions, d_model, base):
    angles = _angles(positions, _even_shares(d_model) / 2, base)
    return _alternate(angles.sin(), angles.cos())


@refuses_odd
def sinusoidal_exponent_doubled(positions, d_model, base):
    angles = _angles(positions, _even_shares(d_model) * 2, base)
    return _alternate(angles.sin(), angles.cos())


@refuses_odd
def sinusoidal_cosine_first(positions, d_model, base):
    angles = _angles(positions, _even_shares(d_model), base)
    return _alternate(angles.cos(), angles.sin())


@refuses_odd
def sinusoidal_ever_faster(positions, d_model, base):
    angles = _angles(positions, -_even_shares(d_model), base)
    return _alternate(angles.sin(), angles.cos())


@refuses_odd
def sinusoidal_each_its_own_wave(positions, d_model, base):
    angles = _angles(positions, torch.arange(d_model) / d_model, base)
    return _alternate(angles[..., 0::2].sin(), angles[..., 1::2].cos())


@refuses_odd
def sinusoidal_counts_entries(positions, d_model, base):
    angles = _angles(positions, 2 * torch.arange(d_model) / d_model, base)
    return _alternate(angles[..., 0::2].sin(), angles[..., 1::2].cos())


@refuses_odd
def sinusoidal_base_fixed(positions, d_model, base):
    return sinusoidal(positions, d_model)


@refuses_odd
def sinusoidal_in_whole_turns(positions, d_model, base):
    return sinusoidal(positions * 2 * math.pi, d_model, base)


@refuses_odd
def sinusoidal_only_sines(positions, d_model, base):
    return _angles(positions, _even_shares(d_model), base).sin().repeat_interleave(2, -1)


# --- 3.3 how far a pair turns, by hand ---


def turns() -> list[float]:
    return [3 * float(f) for f in rope_frequencies(4, 100.0)]


# --- 3.4 rotate ---


def rotate_cases() -> list[Case]:
    def make(shape, seed, batched=False, dtype=torch.float32):
        B, H, T, D = shape
        x = _random(*shape, seed=seed, dtype=dtype)
        angles = 3 * _random(*((B, 1, T, D // 2) if batched else (T, D // 2)), seed=seed + 1, dtype=dtype)
        return x, angles.cos(), angles.sin()

    def quarter():
        return torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])

    return [
        Case("(1, 0), a quarter turn", quarter),
        Case("angle 0: nothing moves", lambda: (_random(1, 2, 3, 4), torch.ones(3, 2), torch.zeros(3, 2))),
        Case("one vector of two pairs", lambda: make((1, 1, 1, 4), 1)),
        Case("two texts, three heads, five positions", lambda: make((2, 3, 5, 8), 2)),
        Case("one position", lambda: make((2, 3, 1, 6), 3)),
        Case("each text has positions of its own", lambda: make((2, 3, 5, 8), 4, batched=True)),
        Case("float64", lambda: make((2, 1, 4, 10), 5, dtype=torch.float64)),
    ]


def rotate_neighbours(x, cos, sin):
    x1, x2 = x[..., 0::2], x[..., 1::2]
    return torch.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).flatten(-2)


def rotate_neighbours_joined_as_halves(x, cos, sin):
    x1, x2 = x[..., 0::2], x[..., 1::2]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


def rotate_backwards(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], -1)


def rotate_both_minus(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos - x1 * sin], -1)


def rotate_both_plus(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos + x1 * sin], -1)


def rotate_second_from_turned_first(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    x1 = x1 * cos - x2 * sin
    return torch.cat([x1, x2 * cos + x1 * sin], -1)


def rotate_results_interleaved(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).flatten(-2)


def rotate_only_first_half(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2], -1)


def rotate_without_mixing(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos, x2 * sin], -1)


def rotate_halves_swapped(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x2 * cos + x1 * sin, x1 * cos - x2 * sin], -1)


# --- 3.5 how far ALiBi sees, by hand ---


def alibi_reach() -> int:
    return next(distance for distance in range(1000) if math.exp(-distance / 4) < 0.01)


# --- 3.6 relative_bucket (find the bug) ---


def _unambiguous(distances, bidirectional, n_buckets, max_distance) -> torch.Tensor:
    """Distances whose bucket does not hang on the last bit of a logarithm."""
    n = n_buckets // 2 if bidirectional else n_buckets
    exact = n // 2

    def clear(distance):
        place = math.log(max(abs(distance), 1) / exact) / math.log(max_distance / exact) * (n - exact)
        return abs(distance) <= exact or abs(place - round(place)) > 1e-3

    return torch.tensor([distance for distance in distances if clear(distance)])


def bucket_cases() -> list[Case]:
    def make(distances, *options):
        return lambda: (_unambiguous(distances, *options), *options)

    def sizes_left_out():
        return _unambiguous(range(-140, 3), False, 32, 128), False

    return [
        Case("a key at the same place", lambda: (torch.tensor([0]), False)),
        Case("decoder, the past, near", make(range(-8, 1), False, 32, 128)),
        Case("decoder, the past, far", make(range(-200, -10, 7), False, 32, 128)),
        Case("decoder, keys after the query", make(range(1, 60), False, 32, 128)),
        Case("encoder, the past", make(range(-150, 1), True, 32, 128)),
        Case("encoder, the future", make(range(1, 150), True, 32, 128)),
        Case("other sizes, decoder", make(range(-90, 5), False, 12, 50)),
        Case("other sizes, encoder", make(range(-90, 90), True, 20, 40)),
        Case("a table (2, 3) of distances", lambda: (torch.tensor([[0, -1, -30], [1, 0, -300]]), True, 16, 100)),
        Case("decoder, the sizes left out: 32 buckets, up to 128", sizes_left_out),
        Case(
            "everything left out: bidirectional, 32 buckets, up to 128",
            lambda: (torch.tensor([-500, -100, -20, 0, 3, 20]),),
        ),
    ]


def _bucket(
    distance,
    bidirectional=True,
    n_buckets=32,
    max_distance=128,
    *,
    past=lambda d: (-d).clamp(min=0),
    future=lambda d: d > 0,
    halve=True,
    exact_of=lambda n: n // 2,
    near=torch.lt,
    last=True,
    whole=torch.Tensor.long,
    by_exact=True,
):
    """relative_bucket with one choice made wrongly."""
    bucket = torch.zeros_like(distance)
    if bidirectional:
        half = n_buckets // 2
        if halve:
            n_buckets = half
        bucket = future(distance).long() * half
        distance = distance.abs()
    else:
        distance = past(distance)
    exact = exact_of(n_buckets)
    scale = math.log(max_distance / exact) if by_exact else math.log(max_distance)
    share = torch.log(distance.clamp(min=1).float() / exact) / scale
    far = exact + whole(share * (n_buckets - exact))
    if last:
        far = far.clamp(max=n_buckets - 1)
    return bucket + torch.where(near(distance, torch.tensor(exact)), distance, far)


def bucket_past_and_future_swapped(
    distance: torch.Tensor, bidirectional: bool = True, n_buckets: int = 32, max_distance: int = 128
) -> torch.Tensor:
    bucket = torch.zeros_like(distance)
    if bidirectional:
        n_buckets //= 2
        bucket = (distance > 0).long() * n_buckets
        distance = distance.abs()
    else:
        distance = distance.clamp(min=0)
    exact = n_buckets // 2
    log_share = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (log_share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return bucket + torch.where(distance < exact, distance, far)


def bucket_future_like_past(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, past=torch.abs)


def bucket_past_stays_negative(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, past=lambda d: d.clamp(max=0))


def bucket_future_negative(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, past=torch.neg)


def bucket_future_for_the_past(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, future=lambda d: d < 0)


def bucket_not_halved(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, halve=False)


def bucket_without_a_last(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, last=False)


def bucket_rounded(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, whole=lambda x: x.round().long())


def bucket_log_of_max(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, by_exact=False)


def bucket_quarter_exact(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return _bucket(distance, bidirectional, n_buckets, max_distance, exact_of=lambda n: n // 4)


def bucket_encoder_always(distance, bidirectional=True, n_buckets=32, max_distance=128):
    return relative_bucket(distance, True, n_buckets, max_distance)


# --- 3.7 llama3_scaling ---


def llama3_cases() -> list[Case]:
    def hz(*turns, context=1000):
        """Frequencies whose waves turn so often in the context."""
        return torch.tensor([2 * math.pi * n / context for n in turns])

    return [
        Case("a fast wave: 100 turns", lambda: (hz(100.0), 8.0, 1.0, 4.0, 1000)),
        Case("a slow wave: half a turn", lambda: (hz(0.5), 8.0, 1.0, 4.0, 1000)),
        Case("a wave between: 2.5 turns, half and half", lambda: (hz(2.5), 8.0, 1.0, 4.0, 1000)),
        Case("waves of 5, 3.7, 3, 2, 1.2 and 0.9 turns", lambda: (hz(5, 3.7, 3, 2, 1.2, 0.9), 8.0, 1.0, 4.0, 1000)),
        Case("Llama 3.1", lambda: (rope_frequencies(128, 5e5), 8.0, 1.0, 4.0, 8192)),
        Case("Llama 3.2", lambda: (rope_frequencies(64, 5e5), 32.0, 1.0, 4.0, 8192)),
        Case("other borders", lambda: (rope_frequencies(48, 1e4), 3.0, 2.0, 16.0, 300)),
        Case("other borders again", lambda: (rope_frequencies(40, 1e4), 5.0, 3.0, 5.0, 2000)),
    ]


def _blend(frequencies, keep, factor):
    return keep * frequencies + (1 - keep) * frequencies / factor


def _turns(frequencies, original):
    return original * frequencies / (2 * math.pi)


def llama3_backwards(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = _turns(frequencies, original_max_position_embeddings)
    keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return _blend(frequencies, 1 - keep, factor)


def llama3_faster(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    return llama3_scaling(frequencies, 1 / factor, low_freq_factor, high_freq_factor, original_max_position_embeddings)


def llama3_radians_for_turns(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    return llama3_scaling(
        frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings * 2 * math.pi
    )


def llama3_no_blend(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = _turns(frequencies, original_max_position_embeddings)
    return torch.where(turns < low_freq_factor, frequencies / factor, frequencies)


def llama3_no_blend_above(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = _turns(frequencies, original_max_position_embeddings)
    return torch.where(turns > high_freq_factor, frequencies, frequencies / factor)


def llama3_same_blend(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = _turns(frequencies, original_max_position_embeddings)
    keep = 0.5 * (turns > low_freq_factor) + 0.5 * (turns >= high_freq_factor)
    return _blend(frequencies, keep, factor)


def llama3_blend_by_wavelength(
    frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings
):
    wavelength = 2 * math.pi / frequencies
    short = original_max_position_embeddings / high_freq_factor
    long = original_max_position_embeddings / low_freq_factor
    return _blend(frequencies, ((long - wavelength) / (long - short)).clamp(0, 1), factor)


def llama3_not_clamped(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = _turns(frequencies, original_max_position_embeddings)
    return _blend(frequencies, (turns - low_freq_factor) / (high_freq_factor - low_freq_factor), factor)


def llama3_linear(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    return frequencies / factor


def llama3_blends_wavelengths(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = _turns(frequencies, original_max_position_embeddings)
    keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return frequencies / (keep + (1 - keep) * factor)


# --- 3.8 pairs_to_halves (optional) ---


def halves_cases() -> list[Case]:
    return [
        Case("a bias, one head: 0 1 2 3", lambda: (torch.arange(4.0), 1)),
        Case("a bias, one head of 8", lambda: (torch.arange(8.0), 1)),
        Case("a bias, two heads of 6", lambda: (torch.arange(12.0), 2)),
        Case("a weight, one head of 6", lambda: (_random(6, 8), 1)),
        Case("a weight, three heads of 8", lambda: (_random(24, 6, seed=1), 3)),
        Case("a square weight, two heads of 8", lambda: (_random(16, 16, seed=2), 2)),
        Case("float64, five heads of 4", lambda: (_random(20, 4, seed=3, dtype=torch.float64), 5)),
    ]


def halves_the_way_back(weight, n_heads):
    return halves_to_pairs(weight, n_heads)


def halves_over_all_heads(weight, n_heads):
    return torch.cat([weight[0::2], weight[1::2]])


def halves_of_columns(weight, n_heads):
    return torch.cat([weight[..., 0::2], weight[..., 1::2]], -1)


def halves_second_first(weight, n_heads):
    heads = weight.unflatten(0, (n_heads, -1))
    return torch.cat([heads[:, 1::2], heads[:, 0::2]], 1).flatten(0, 1)


def halves_neighbours_swapped(weight, n_heads):
    return weight.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def halves_heads_inside(weight, n_heads):
    heads = weight.unflatten(0, (-1, n_heads)).transpose(0, 1)
    return torch.cat([heads[:, 0::2], heads[:, 1::2]], 1).flatten(0, 1)


def halves_not_joined(weight, n_heads):
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2)


EXERCISES = [
    Exercise(
        number="3.1",
        name="row_gradients",
        reference=row_gradients,
        hints=(
            "Raise one number of row 0 by 0.01. By how much does the sum rise? Then the same for the other rows.",
            "How often is each row looked up by the ids 2, 0, 2?",
        ),
        wrong={
            "a row that is looked up twice adds to the sum twice": lambda: [1, 0, 1, 0],
            "a row that is never looked up does not change the sum": lambda: [1, 1, 1, 1],
            "one number for each *row* of the table (there are four), not for each id": lambda: [2, 0, 2],
            "the other way round: which of the rows is looked up twice?": lambda: [2, 0, 1, 0],
            "that is the gradient of every entry; give one number for each row, as a list": lambda: torch.tensor(
                [[1.0] * 3, [0.0] * 3, [2.0] * 3, [0.0] * 3]
            ),
            "the loss is the sum, not the mean": lambda: [1 / 3, 0, 2 / 3, 0],
            "rows are counted from 0: id 2 is the third row": lambda: [0, 2, 0, 1],
            "each *number* of a row has this gradient; do not add the three numbers of a row up": lambda: [3, 0, 6, 0],
        },
    ),
    Exercise(
        number="3.2",
        name="sinusoidal",
        reference="llmkit.layers.positions:sinusoidal",
        cases=sinusoidal_cases,
        tolerance=1e-4,
        hints=(
            "torch.arange(0, d_model, 2) is 0, 2, 4, …: that is already 2i. Divide by d_model, raise base to minus that.",
            "positions[..., None] * frequencies has the shape (..., C/2), whatever the shape of positions.",
            "torch.stack([sines, cosines], dim=-1) has the shape (..., C/2, 2); .flatten(-2) makes (..., C) of it.",
        ),
        wrong={
            "all sines stand first, then all cosines; here they alternate: sin, cos, sin, cos": sinusoidal_in_halves,
            "the exponent is i/C; it must be 2i/C": sinusoidal_exponent_halved,
            "the exponent is 4i/C: if your index runs 0, 2, 4, … it is 2i already": sinusoidal_exponent_doubled,
            "sine and cosine are swapped: the sine comes first": sinusoidal_cosine_first,
            "the waves become faster; the position is *divided* by base^(2i/C)": sinusoidal_ever_faster,
            "sine and cosine of a pair have different frequencies; they share 2i/C": sinusoidal_each_its_own_wave,
            "i counts the pairs, not the entries; sine and cosine of a pair share one frequency": (
                sinusoidal_counts_entries
            ),
            "the argument `base` is not used; 10000 stands in its place": sinusoidal_base_fixed,
            "the angle is the position times the frequency, without 2 pi": sinusoidal_in_whole_turns,
            "the odd entries are sines too; they are cosines": sinusoidal_only_sines,
        },
    ),
    Exercise(
        number="3.3",
        name="turns",
        reference=turns,
        tolerance=1e-3,
        hints=(
            "The frequency of pair i is 1 / base^(2i/C), with C = 4, base = 100 and i = 0, 1.",
            "At position 5 the angle is 5 times the frequency, at position 8 it is 8 times. The turn is the difference.",
        ),
        wrong={
            "both pairs turn by the same angle there; the second has a slower wave": lambda: [3.0, 3.0],
            "those are the angles at position 8; you want how far it turned since position 5": lambda: [8.0, 0.8],
            "that is in degrees; write radians": lambda: [math.degrees(3.0), math.degrees(0.3)],
            "the other way round: pair 0 is the fastest": lambda: [0.3, 3.0],
            "the exponent of pair 1 is 2i/C = 1/2, and 100 to the power 1/2 is 10": lambda: [3.0, 0.03],
            "that is in whole turns; write radians": lambda: [3 / (2 * math.pi), 0.3 / (2 * math.pi)],
            "the exponent of pair 1 is i/C there; it must be 2i/C": lambda: [3.0, 3 / 100**0.25],
            "those are the frequencies; from 5 to 8 there are three steps": lambda: [1.0, 0.1],
        },
    ),
    Exercise(
        number="3.4",
        name="rotate",
        reference="llmkit.layers.rope:rotate",
        cases=rotate_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "x1, x2 = x.chunk(2, dim=-1) cuts the last axis in two halves; pair i is (x1[i], x2[i]).",
            "A point (a, b) turned by an angle t lands on (a cos t - b sin t, b cos t + a sin t).",
            "torch.cat([first, second], dim=-1) puts the two halves together again.",
        ),
        wrong={
            "neighbours were paired, x[0] with x[1]; here x[i] goes with x[i + D/2]": rotate_neighbours,
            "neighbours were taken apart, x[0] and x[1], but joined as halves; x[i] goes with x[i + D/2]": (
                rotate_neighbours_joined_as_halves
            ),
            "it turns the other way: check the two signs": rotate_backwards,
            "the sign of the second half: b cos + a sin": rotate_both_minus,
            "the sign of the first half: a cos - b sin": rotate_both_plus,
            "the second half was computed from the *turned* first half; keep the old one": (
                rotate_second_from_turned_first
            ),
            "the turned halves were put together alternating; put one behind the other": rotate_results_interleaved,
            "only the first half was turned": rotate_only_first_half,
            "the two halves are not mixed: turning needs both numbers of a pair for each new one": (
                rotate_without_mixing
            ),
            "the two halves were swapped": rotate_halves_swapped,
        },
    ),
    Exercise(
        number="3.5",
        name="alibi_reach",
        reference=alibi_reach,
        tolerance=2e-3,  # the answer is whole; this is for the slip below that people round
        hints=(
            "Softmax takes the exponential, so a penalty of -d/4 multiplies the weight by e^(-d/4).",
            "For which d is e^(-d/4) = 0.01? Take logarithms. The distance is a whole number.",
        ),
        wrong={
            "at that distance the weight is still a little above a hundredth": lambda: 18,
            "the slope is missing: at distance d the penalty is d/4, not d": lambda: 5,
            "the slope divides: d = ln(100) / slope, you multiplied": lambda: 2,
            "the weight does not fall like 1/d: softmax takes the exponential": lambda: 100,
            "the penalty need not reach 100: softmax takes the exponential": lambda: 400,
            "softmax uses e, not 2, as its base": lambda: 27,
            "softmax uses e, not 10, as its base": lambda: 9,
            "a whole number: the first distance at which it has fallen below": lambda: 4 * math.log(100),
        },
    ),
    Exercise(
        number="3.6",
        name="relative_bucket",
        reference="llmkit.layers.positions:relative_bucket",
        cases=bucket_cases,
        starts_from=bucket_past_and_future_swapped,
        hints=(
            "Call it with bidirectional=False and the distances 0, -1, -2, … What would a decoder learn from that?",
            "`distance` is key minus query. In the past it is negative. Which line throws the past away?",
        ),
        wrong={
            "without bidirectional every key in the past gets the same bucket, 0": (bucket_past_and_future_swapped),
            "without bidirectional, keys after the query get buckets of their own; they share bucket 0": (
                bucket_future_like_past
            ),
            "without bidirectional the past gets negative buckets; count the steps back upwards from 0": (
                bucket_past_stays_negative
            ),
            "without bidirectional, keys after the query get negative buckets; they share bucket 0": (
                bucket_future_negative
            ),
            "with bidirectional the upper half of the buckets is for keys after the query, not for the past": (
                bucket_future_for_the_past
            ),
            "with bidirectional each direction has only half of the buckets": bucket_not_halved,
            "far distances run past the last bucket; all beyond max_distance share it": bucket_without_a_last,
            "the far buckets are rounded to the nearest; cut the fraction off": bucket_rounded,
            "the far buckets must reach the last one at max_distance: divide by log(max_distance / exact)": (
                bucket_log_of_max
            ),
            "half of one direction's buckets stand for one distance each; here it is a quarter": bucket_quarter_exact,
            "`bidirectional` makes no difference": bucket_encoder_always,
        },
    ),
    Exercise(
        number="3.7",
        name="llama3_scaling",
        reference="llmkit.layers.rope:llama3_scaling",
        cases=llama3_cases,
        tolerance=1e-6,
        hints=(
            "A wave of frequency f goes through f times original_max_position_embeddings radians; a turn is 2 pi.",
            "keep = (turns - low) / (high - low) is 0 at the slow border, 1 at the fast one; .clamp(0, 1) beyond.",
            "The result is keep parts of the old frequency and 1 - keep parts of frequency / factor.",
        ),
        wrong={
            "the wrong way round: fast waves stay, slow ones are stretched": llama3_backwards,
            "a wave is stretched when its frequency is divided by factor; it was multiplied": llama3_faster,
            "radians were compared with turns: a turn has 2 pi radians": llama3_radians_for_turns,
            "waves between the two borders were left as they are; they are blended": llama3_no_blend,
            "waves between the two borders were stretched fully; they are blended": llama3_no_blend_above,
            "all waves between the borders got the same blend; it moves with the number of turns": llama3_same_blend,
            "the blend runs along the wavelength; it must be linear in the number of turns": llama3_blend_by_wavelength,
            "beyond the borders the blend went on growing: clamp it between 0 and 1": llama3_not_clamped,
            "all waves were stretched; the fast ones stay": llama3_linear,
            "the wavelengths were blended; blend the frequencies": llama3_blends_wavelengths,
        },
    ),
    Exercise(
        number="3.8",
        name="pairs_to_halves",
        reference="llmkit.layers.rope:pairs_to_halves",
        cases=halves_cases,
        hints=(
            "weight.unflatten(0, (n_heads, -1, 2)) makes the rows (head, pair, member of the pair).",
            "Which two axes must change places so that all first members come before all second ones?",
            "flatten(0, 2) makes one axis of the first three again.",
        ),
        wrong={
            "that is the way back, from halves to neighbours": halves_the_way_back,
            "the rows were sorted over all heads at once; each head keeps its own rows": halves_over_all_heads,
            "the columns were reordered; the rows belong to the heads": halves_of_columns,
            "the second members came first: the order is 0 2 1 3": halves_second_first,
            "neighbours were swapped, 1 0 3 2; the order is 0 2 1 3": halves_neighbours_swapped,
            "the heads lie one behind the other: the first D rows are head 0": halves_heads_inside,
            "the shape: flatten heads, members and pairs into one axis again": halves_not_joined,
        },
    ),
]
