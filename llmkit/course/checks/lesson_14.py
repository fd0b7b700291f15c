"""Lesson 14: a weight that stands still, a ring, ZeRO's bytes, Newton-Schulz, FLOPs, a parabola, muP's groups."""

import math
import warnings

import numpy as np
import torch

from llmkit.course.compare import first_difference
from llmkit.course.exercise import Case, Exercise
from llmkit.training.isoflop import isoflop_minimum
from llmkit.training.parallelism import memory
from llmkit.training.ring import ring_all_reduce
from llmkit.training.width import width_factors


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 14.1 a thousand small steps, by hand ---


def after_steps() -> float:
    return 1.0


# --- 14.2 ring_all_reduce ---


def ring_cases() -> list[Case]:
    def whole(n, size, seed):
        numbers = torch.randint(-50, 50, (n, size), generator=torch.Generator().manual_seed(seed))
        return (list(numbers.float()),)

    def tens(n, size):
        return ([torch.arange(1.0, size + 1) * 10**r for r in range(n)],)

    return [
        Case("two ranks, two numbers each", lambda: ([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])],)),
        Case("one rank: nothing to do", lambda: ([torch.tensor([3.0, 4.0, 5.0])],)),
        Case("three ranks, three numbers", lambda: tens(3, 3)),
        Case("three ranks, six numbers", lambda: tens(3, 6)),
        Case("four ranks", lambda: whole(4, 12, 0)),
        Case("seven numbers on three ranks: unequal pieces", lambda: whole(3, 7, 1)),
        Case("fewer numbers than ranks", lambda: whole(5, 3, 2)),
        Case("two ranks, five numbers", lambda: whole(2, 5, 3)),
        Case("eight ranks", lambda: whole(8, 40, 4)),
        Case("float64 stays float64", lambda: ([x.double() for x in whole(3, 9, 5)[0]],)),
        Case("no rank is refused", lambda: ([],)),
    ]


def _pieces(tensors):
    if not len(tensors):
        raise ValueError("rank")
    n = len(tensors)
    return n, [list(torch.tensor_split(x.clone(), n)) for x in tensors], [0] * n


def _pass_on(held, sent, number, add):
    """One step of the ring; number(r) is the piece that rank r sends."""
    n = len(held)
    messages = [held[r][number(r) % n] for r in range(n)]
    for r, message in enumerate(messages):
        receiver, piece = held[(r + 1) % n], number(r) % n
        receiver[piece] = receiver[piece] + message if add else message
        sent[r] += len(message)


def ring_scatter_only(tensors):
    n, held, sent = _pieces(tensors)
    for s in range(n - 1):
        _pass_on(held, sent, lambda r, s=s: r - s, True)
    return [torch.cat(pieces) for pieces in held], sent


def ring_adds_again(tensors):
    n, held, sent = _pieces(tensors)
    for s in range(n - 1):
        _pass_on(held, sent, lambda r, s=s: r - s, True)
    for s in range(n - 1):
        _pass_on(held, sent, lambda r, s=s: r + 1 - s, True)
    return [torch.cat(pieces) for pieces in held], sent


def ring_one_step_too_many(tensors):
    n, held, sent = _pieces(tensors)
    for s in range(n):
        _pass_on(held, sent, lambda r, s=s: r - s, True)
    for s in range(n - 1):
        _pass_on(held, sent, lambda r, s=s: r + 1 - s, False)
    return [torch.cat(pieces) for pieces in held], sent


def ring_n_steps_each(tensors):
    sums, _ = ring_all_reduce(tensors)
    n, held, sent = _pieces(tensors)
    for first in (0, 1):
        for s in range(n):
            _pass_on(held, sent, lambda r, s=s, first=first: r + first - s, False)
    return sums, sent


def ring_gathers_from_r(tensors):
    n, held, sent = _pieces(tensors)
    for s in range(n - 1):
        _pass_on(held, sent, lambda r, s=s: r - s, True)
    for s in range(n - 1):
        _pass_on(held, sent, lambda r, s=s: r - s, False)
    return [torch.cat(pieces) for pieces in held], sent


def ring_same_piece_always(tensors):
    n, held, sent = _pieces(tensors)
    for _ in range(n - 1):
        _pass_on(held, sent, lambda r: r, True)
    for _ in range(n - 1):
        _pass_on(held, sent, lambda r: r + 1, False)
    return [torch.cat(pieces) for pieces in held], sent


def ring_whole_tensors(tensors):
    n, _, _ = _pieces(tensors)
    total = torch.stack(list(tensors)).sum(0)
    return [total.clone() for _ in range(n)], [(n - 1) * len(total)] * n


def ring_by_formula(tensors):
    n, _, _ = _pieces(tensors)
    total = torch.stack(list(tensors)).sum(0)
    return [total.clone() for _ in range(n)], [2 * (n - 1) * len(total) / n] * n


def ring_by_formula_whole(tensors):
    n, _, _ = _pieces(tensors)
    total = torch.stack(list(tensors)).sum(0)
    return [total.clone() for _ in range(n)], [2 * (n - 1) * len(total) // n] * n


def ring_mean(tensors):
    sums, sent = ring_all_reduce(tensors)
    return [x / len(tensors) for x in sums], sent


def ring_counts_messages(tensors):
    sums, _ = ring_all_reduce(tensors)
    return sums, [2 * (len(tensors) - 1)] * len(tensors)


def ring_counts_received(tensors):
    sums, sent = ring_all_reduce(tensors)
    return sums, sent[-1:] + sent[:-1]


def ring_first_half_counted(tensors):
    n, held, sent = _pieces(tensors)
    for s in range(n - 1):
        _pass_on(held, sent, lambda r, s=s: r - s, True)
    return ring_all_reduce(tensors)[0], sent


def ring_sums_alone(tensors):
    return ring_all_reduce(tensors)[0]


def ring_in_place(tensors):
    sums, sent = ring_all_reduce(tensors)
    for x, total in zip(tensors, sums, strict=True):
        x.copy_(total)
    return list(tensors), sent


# --- 14.3 memory ---


def memory_cases() -> list[Case]:
    grid = [(7.5e9, 64, stage) for stage in range(4)] + [(1000, 8, stage) for stage in range(4)]
    names = {(7.5e9, 64, 0): "the paper's model, nothing cut", (1000, 8, 1): "stage 1: the optimiser's state alone"}
    return [
        Case("one GPU", lambda: (100,)),
        Case("eight GPUs, and no stage given", lambda: (100, 8)),
        *[Case(names.get(row, f"stage {row[2]} on {row[1]}"), lambda row=row: row) for row in grid],
        Case("one rank cuts nothing, whatever the stage", lambda: (50, 1, 3)),
        Case("stage 2 on 3 ranks", lambda: (90, 3, 2)),
        Case("32-bit weights and gradients", lambda: (1000, 4, 2, 4, 4, 8)),
        Case("other bytes, stage 3", lambda: (1000, 5, 3, 3, 7, 11)),
        Case("other bytes, stage 1", lambda: (60, 2, 1, 3, 7, 11)),
        Case("a stage of 4 is refused", lambda: (100, 2, 4)),
        Case("a stage of -1 is refused", lambda: (100, 2, -1)),
        Case("no rank is refused", lambda: (100, 0, 0)),
    ]


def _zero(n_params, n_ranks, stage, sizes, cut_from, refuse=True):
    if refuse and (stage not in (0, 1, 2, 3) or n_ranks < 1):
        raise ValueError("ZeRO")
    return tuple(
        size * n_params / (n_ranks if stage >= first else 1) for size, first in zip(sizes, cut_from, strict=True)
    )


def memory_order_turned(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return _zero(n_params, n_ranks, zero_stage, (weight_bytes, gradient_bytes, optimizer_bytes), (1, 2, 3))


def memory_only_that_stage(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    parts = memory(n_params, 1, zero_stage, weight_bytes, gradient_bytes, optimizer_bytes)
    if n_ranks < 1:
        raise ValueError("ranks")
    return tuple(part / n_ranks if zero_stage == stage else part for part, stage in zip(parts, (3, 2, 1), strict=True))


def memory_all_cut(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return _zero(n_params, n_ranks, zero_stage, (weight_bytes, gradient_bytes, optimizer_bytes), (1, 1, 1))


def memory_late(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return _zero(n_params, n_ranks, zero_stage, (weight_bytes, gradient_bytes, optimizer_bytes), (4, 3, 2))


def memory_gradients_with_optimizer(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2,
                                    optimizer_bytes=12):  # fmt: skip
    return _zero(n_params, n_ranks, zero_stage, (weight_bytes, gradient_bytes, optimizer_bytes), (3, 1, 1))


def memory_weights_whole(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return _zero(n_params, n_ranks, zero_stage, (weight_bytes, gradient_bytes, optimizer_bytes), (4, 2, 1))


def memory_gradients_at_two_alone(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2,
                                  optimizer_bytes=12):  # fmt: skip
    cut_from = (3, 4 if zero_stage == 3 else 2, 1)
    return _zero(n_params, n_ranks, zero_stage, (weight_bytes, gradient_bytes, optimizer_bytes), cut_from)


def memory_total(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return sum(memory(n_params, n_ranks, zero_stage, weight_bytes, gradient_bytes, optimizer_bytes))


def memory_a_parameter(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return memory(1, n_ranks, zero_stage, weight_bytes, gradient_bytes, optimizer_bytes)


def memory_without_master(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return memory(n_params, n_ranks, zero_stage, weight_bytes, gradient_bytes, optimizer_bytes - 4)


def memory_defaults_used(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    return memory(n_params, n_ranks, zero_stage)


def memory_never_refuses(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    sizes = (weight_bytes, gradient_bytes, optimizer_bytes)
    return _zero(n_params, n_ranks, zero_stage, sizes, (3, 2, 1), refuse=False)


def memory_gigabytes(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    parts = memory(n_params, n_ranks, zero_stage, weight_bytes, gradient_bytes, optimizer_bytes)
    return tuple(part / 1e9 for part in parts)


# --- 14.4 orthogonalize ---

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize_cases() -> list[Case]:
    def diagonal(*values):
        return torch.diag(torch.tensor(values))[None]

    return [
        Case("one number becomes its sign, nearly", lambda: (torch.tensor([[[-7.0]]]),)),
        Case("no round: divided by the norm alone", lambda: (diagonal(3.0, 4.0), 0)),
        Case("one round", lambda: (diagonal(3.0, 4.0), 1)),
        Case("two rounds", lambda: (diagonal(1.0, 2.0, 5.0), 2)),
        Case("five rounds on a diagonal", lambda: (diagonal(1.0, 2.0, 5.0),)),
        Case("a wide matrix", lambda: (_random(1, 3, 7, seed=1),)),
        Case("a tall matrix", lambda: (_random(1, 6, 2, seed=2),)),
        Case(
            "three matrices, each with a norm of its own",
            lambda: (_random(3, 3, 5, seed=3) * torch.tensor([1.0, 100.0, 0.01])[:, None, None],),
        ),
        Case("a small singular value grows slowly", lambda: (diagonal(1.0, 0.02), 3)),
        Case("very small gradients", lambda: (_random(1, 2, 4, seed=4) * 1e-5,)),
        Case("zeros stay zeros", lambda: (torch.zeros(1, 3, 2),)),
        Case("norms below 1e-7 count as 1e-7", lambda: (diagonal(3e-8, 4e-8), 0)),
        Case("bfloat16 in", lambda: (_random(2, 4, 3, seed=5).bfloat16(), 2)),
    ]


def _rounds(x, steps, coefficients=COEFFICIENTS, norm=None, dtype=torch.bfloat16):
    a, b, c = coefficients
    x = x.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7) if norm is None else norm(x))
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def orthogonalize_not_divided(x, steps=5):
    return _rounds(x, steps, norm=lambda x: 1.0)


def orthogonalize_one_norm(x, steps=5):
    return _rounds(x, steps, norm=lambda x: x.norm().clamp(min=1e-7))


def orthogonalize_rows(x, steps=5):
    return _rounds(x, steps, norm=lambda x: x.norm(dim=-1, keepdim=True).clamp(min=1e-7))


def orthogonalize_largest(x, steps=5):
    return _rounds(x, steps, norm=lambda x: x.abs().amax((-2, -1), keepdim=True).clamp(min=1e-7))


def orthogonalize_mean_square(x, steps=5):
    return _rounds(x, steps, norm=lambda x: x.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-7))


def orthogonalize_zero_divided(x, steps=5):
    return _rounds(x, steps, norm=lambda x: x.norm(dim=(-2, -1), keepdim=True))


def orthogonalize_float32(x, steps=5):
    return _rounds(x, steps, dtype=torch.float32)


def orthogonalize_without_fifth_power(x, steps=5):
    return _rounds(x, steps, coefficients=(*COEFFICIENTS[:2], 0.0))


def orthogonalize_plain_newton(x, steps=5):
    return _rounds(x, steps, coefficients=(1.5, -0.5, 0.0))


def orthogonalize_without_sign(x, steps=5):
    return _rounds(x, steps, coefficients=(COEFFICIENTS[0], -COEFFICIENTS[1], COEFFICIENTS[2]))


def orthogonalize_exactly(x, steps=5):
    u, _, vh = torch.linalg.svd(x.float(), full_matrices=False)
    return (u @ vh).bfloat16()


def orthogonalize_one_round(x, steps=5):
    return _rounds(x, min(steps, 1))


def orthogonalize_always_five(x, steps=5):
    return _rounds(x, 5)


def orthogonalize_not_turned_back(x, steps=5):
    x = x.mT if x.size(-2) > x.size(-1) else x
    return _rounds(x, steps)


def orthogonalize_square_of_entries(x, steps=5):
    a, b, c = COEFFICIENTS
    x = _rounds(x, 0)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram * gram) @ x
    return x


def orthogonalize_element_wise(x, steps=5):
    a, b, c = COEFFICIENTS
    x = x.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        x = a * x + b * x**3 + c * x**5
    return x


# --- 14.5 when do the scores cost as much, by hand ---


def equal_length() -> int:
    return 6 * 768


# --- 14.6 isoflop_minimum ---


def isoflop_cases() -> list[Case]:
    def bowl(best, lowest, bend, sizes, shift=()):
        losses = [lowest + bend * math.log(n / best) ** 2 for n in sizes]
        return list(sizes), [loss + d for loss, d in zip(losses, shift or [0.0] * len(losses), strict=True)]

    sizes = (2e4, 5e4, 1e5, 3e5, 7e5)
    return [
        Case("the example", lambda: ([1e5, 1e6, 1e7], [3.0, 2.0, 3.0])),
        Case("three sizes, not symmetric", lambda: bowl(3e5, 1.7, 0.05, (1e5, 4e5, 2e6))),
        Case("five sizes on a parabola", lambda: bowl(1.5e5, 2.0, 0.03, sizes)),
        Case("with noise", lambda: bowl(1.5e5, 2.0, 0.05, sizes, (0.01, -0.02, 0.005, 0.01, -0.01))),
        Case("in another order", lambda: tuple(x[::-1] for x in bowl(9e4, 2.2, 0.04, sizes))),
        Case("the minimum is left of all sizes", lambda: bowl(5e3, 2.0, 0.02, sizes)),
        Case("the minimum is right of all sizes", lambda: bowl(5e6, 2.0, 0.02, sizes)),
        Case("billions", lambda: bowl(7e10, 1.9, 0.02, (1e10, 4e10, 1e11, 3e11))),
        Case("one size twice", lambda: bowl(1.2e5, 2.1, 0.04, (5e4, 1e5, 1e5, 4e5), (0.0, 0.01, -0.01, 0.0))),
        Case("two sizes are refused", lambda: ([1e5, 1e6], [2.0, 1.0])),
        Case("three runs of only two sizes are refused", lambda: ([1e5, 1e5, 1e6], [1.0, 1.1, 2.0])),
        Case("unequal lengths are refused", lambda: ([1e5, 1e6, 1e7], [2.0, 1.0, 2.0, 3.0])),
        Case("losses that bend downwards are refused", lambda: ([1e5, 1e6, 1e7], [2.0, 3.0, 2.0])),
    ]


def _parabola(n_params, losses, log=np.log, coefficients_back=False, inside=None, best=None, refuse=True):
    if refuse and (len(n_params) != len(losses) or len(set(n_params)) < 3):
        raise ValueError("sizes")
    x, y = log(np.asarray(n_params, dtype=float)), np.asarray(losses, dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two sizes do not fix a parabola, and numpy says so
        c2, c1, c0 = map(float, np.polyfit(x, y, 2))
    if refuse and c2 <= 0:
        raise ValueError("bends downwards")
    place = -c1 / (2 * c2) if best is None else best(c1, c2)
    lowest = c0 + c1 * place + c2 * place**2
    within = bool(x.min() <= place <= x.max()) if inside is None else inside
    coefficients = (c2, c1, c0) if coefficients_back else (c0, c1, c2)
    return coefficients, place, lowest, within


def isoflop_log_given(n_params, losses):
    return _parabola(n_params, losses)


def _answer(n_params, losses, **changes):
    coefficients, place, lowest, within = _parabola(n_params, losses, **changes)
    return coefficients, math.exp(place), lowest, within


def same_parabola(expected, got, arguments):
    difference = first_difference(expected, got, 1e-5)
    if difference is None and not hasattr(got, "at"):  # the figure below draws it with .at
        return f"the numbers are right, but a Parabola is wanted, not a {type(got).__name__}"
    return str(difference) if difference else None


def isoflop_coefficients_turned(n_params, losses):
    return _answer(n_params, losses, coefficients_back=True)


def isoflop_polyfit_backwards(n_params, losses):
    (c0, c1, c2), _, _, _ = _parabola(n_params, losses, coefficients_back=True)
    place = -c1 / (2 * c2)
    n = math.exp(place)
    return (c0, c1, c2), n, c0 + c1 * place + c2 * place**2, min(n_params) <= n <= max(n_params)


def isoflop_log_compared(n_params, losses):
    coefficients, place, lowest, _ = _parabola(n_params, losses)
    return coefficients, place, lowest, min(n_params) <= place <= max(n_params)


def isoflop_log10_and_exp(n_params, losses):
    return _answer(n_params, losses, log=np.log10)


def isoflop_first_and_last(n_params, losses):
    coefficients, n, lowest, _ = isoflop_minimum(n_params, losses)
    return coefficients, n, lowest, n_params[0] <= n <= n_params[-1]


def isoflop_without_half(n_params, losses):
    return _answer(n_params, losses, best=lambda c1, c2: -c1 / c2)


def isoflop_wrong_sign(n_params, losses):
    return _answer(n_params, losses, best=lambda c1, c2: c1 / (2 * c2))


def isoflop_best_measured(n_params, losses):
    coefficients, _, _, _ = _parabola(n_params, losses)
    i = int(np.argmin(losses))
    return coefficients, n_params[i], losses[i], True


def isoflop_log10(n_params, losses):
    coefficients, place, lowest, within = _parabola(n_params, losses, log=np.log10)
    return coefficients, 10**place, lowest, within


def isoflop_no_log(n_params, losses):
    return _parabola(n_params, losses, log=lambda x: x)


def isoflop_always_inside(n_params, losses):
    return _answer(n_params, losses, inside=True)


def isoflop_never_refuses(n_params, losses):
    with np.errstate(all="ignore"):
        return _answer(n_params, losses, refuse=False)


def isoflop_bends_downwards(n_params, losses):
    if len(n_params) != len(losses) or len(set(n_params)) < 3:
        raise ValueError("sizes")
    return _answer(n_params, losses, refuse=False)


def isoflop_counts_runs(n_params, losses):
    if len(n_params) != len(losses) or len(n_params) < 3:
        raise ValueError("sizes")
    return _answer(n_params, losses, refuse=False) if len(set(n_params)) < 3 else isoflop_minimum(n_params, losses)


def isoflop_plain_tuple(n_params, losses):
    return tuple(isoflop_minimum(n_params, losses))


def isoflop_loss_measured(n_params, losses):
    coefficients, n, _, within = isoflop_minimum(n_params, losses)
    return coefficients, n, min(losses), within


# --- 14.7 width_factors (find the bug) ---

BLOCK = "transformer.blocks.0."
Q, UP, DOWN = BLOCK + "attn.q_proj.weight", BLOCK + "mlp.up_proj.weight", BLOCK + "mlp.down_proj.weight"


def width_cases() -> list[Case]:
    rows = {
        "a query matrix, four times as wide": (Q, (256, 256), (64, 64)),
        "the embedding": ("transformer.embed.tokens.weight", (1000, 256), (1000, 64)),
        "positions": ("transformer.embed.positions.weight", (128, 256), (128, 64)),
        "the output": ("lm_head.weight", (1000, 256), (1000, 64)),
        "a bias": (BLOCK + "mlp.up_proj.bias", (768,), (192,)),
        "a norm": (BLOCK + "attn_norm.weight", (256,), (64,)),
        "up, in a model whose d_ff has another ratio": (UP, (640, 256), (320, 64)),
        "down, in the same model": (DOWN, (256, 640), (64, 320)),
        "grouped keys": ("transformer.blocks.11.attn.k_proj.weight", (32, 512), (32, 64)),
        "a narrower model": (Q, (32, 32), (64, 64)),
        "the base itself": (DOWN, (64, 192), (64, 192)),
        "the last norm": ("transformer.norm.weight", (512,), (64,)),
        "an encoder's block": ("encoder.blocks.3.attn.o_proj.weight", (128, 128), (32, 32)),
    }
    return [Case(label, lambda row=row: row) for label, row in rows.items()]


def factors_of_all_matrices(name, shape, base_shape):
    if len(shape) != 2:
        return 1.0, 1.0
    m = shape[1] / base_shape[1]
    return m**-0.5, 1 / m


def factors_of_squares(name, shape, base_shape):
    if len(shape) == 2 and shape[0] == shape[1]:
        return width_factors(name, shape, base_shape)
    return 1.0, 1.0


def factors_by_fan_out(name, shape, base_shape):
    m = shape[0] / base_shape[0]
    return (m**-0.5, 1 / m) if ".blocks." in name and len(shape) == 2 else (1.0, 1.0)


def factors_of_vectors_too(name, shape, base_shape):
    m = shape[-1] / base_shape[-1]
    return (m**-0.5, 1 / m) if ".blocks." in name else (1.0, 1.0)


def factors_with_the_output(name, shape, base_shape):
    if name == "lm_head.weight":
        return factors_of_all_matrices(name, shape, base_shape)
    return width_factors(name, shape, base_shape)


def factors_with_the_embedding(name, shape, base_shape):
    if ".embed." in name:
        return factors_of_all_matrices(name, shape, base_shape)
    return width_factors(name, shape, base_shape)


def factors_root_of_rate(name, shape, base_shape):
    std, _ = width_factors(name, shape, base_shape)
    return std, std


def factors_std_as_rate(name, shape, base_shape):
    _, rate = width_factors(name, shape, base_shape)
    return rate, rate


def factors_swapped(name, shape, base_shape):
    return width_factors(name, shape, base_shape)[::-1]


def factors_upside_down(name, shape, base_shape):
    std, rate = width_factors(name, shape, base_shape)
    return 1 / std, 1 / rate


def factors_rate_alone(name, shape, base_shape):
    return 1.0, width_factors(name, shape, base_shape)[1]


def factors_whole_numbers(name, shape, base_shape):
    if ".blocks." not in name or len(shape) != 2:
        return 1.0, 1.0
    m = max(1, shape[1] // base_shape[1])
    return m**-0.5, 1 / m


EXERCISES = [
    Exercise(
        number="14.1",
        name="after_steps",
        reference=after_steps,
        tolerance=1e-3,
        hints=(
            "After 1 the next number of bfloat16 is 1 + 1/128. Where does 1 + 0.003 lie between the two?",
            "The sum is rounded to the nearest number that exists, after every single addition.",
        ),
        wrong={
            "that is the exact sum; after each addition the result is rounded to a number that bfloat16 has": lambda: (
                4.0
            ),
            "that is the first step without rounding; which numbers does bfloat16 have near 1?": lambda: 1.003,
            "0.003 is less than half of the gap of 1/128, so it is rounded down, and not up": lambda: 1 + 1000 / 128,
            "one step up, or none? 0.003 is less than half of 1/128": lambda: 1 + 1 / 128,
        },
    ),
    Exercise(
        number="14.2",
        name="ring_all_reduce",
        reference="llmkit.training.ring:ring_all_reduce",
        cases=ring_cases,
        tolerance=1e-6,
        hints=(
            "held = [list(torch.tensor_split(x, n)) for x in tensors]: then held[r][p] is rank r's piece p, and can be replaced.",
            "The receiver of rank r is (r + 1) % n. Adding in the first half, replacing in the second.",
            "A negative piece number is no trouble: (r - s) % n is between 0 and n - 1 in Python.",
        ),
        wrong={
            "only the reduce-scatter was done: each rank has the whole sum of one piece, and not of the others": (
                ring_scatter_only
            ),
            "in the second half the finished sums were added; they take the place of what is there": ring_adds_again,
            "the reduce-scatter has n - 1 steps; after one more a rank's own number is added again": (
                ring_one_step_too_many
            ),
            "the sums are right, but each half has n - 1 steps; the n-th sends a piece that nobody needs": (
                ring_n_steps_each
            ),
            "the all-gather begins with piece r + 1, the one whose sum rank r has whole": ring_gathers_from_r,
            "each rank sent one and the same piece again and again; in step s it is the piece r - s": (
                ring_same_piece_always
            ),
            "the sums are right, but whole tensors were sent; pieces are, so each rank sends less than twice N": (
                ring_whole_tensors
            ),
            "the sums are right; what is sent was taken from the formula, and pieces can be of unequal length: count": (
                ring_by_formula
            ),
            "the sums are right; 2 (n - 1) N // n holds for equal pieces only: count the numbers in each message": (
                ring_by_formula_whole
            ),
            "that is the mean; the sum is wanted, and dividing comes afterwards": ring_mean,
            "the sums are right, but messages were counted; count the numbers in them": ring_counts_messages,
            "the sums are right, but that is what each rank received": ring_counts_received,
            "the sums are right, but only the first half's messages were counted": ring_first_half_counted,
            "two things are wanted: the sums, and how many numbers each rank sent": ring_sums_alone,
            "the values are right, but they were written into the tensors that were given; clone them first": (
                ring_in_place
            ),
        },
    ),
    Exercise(
        number="14.3",
        name="memory",
        reference="llmkit.training.parallelism:memory",
        cases=memory_cases,
        hints=(
            "Three numbers: bytes a parameter times n_params, for weights, gradients and the optimiser's state.",
            "Which of the three are divided by n_ranks at stage 1? At stage 2 one more is, at stage 3 the last.",
            "Memory(weights, gradients, optimizer) has room for the three; a plain tuple in that order is accepted too.",
        ),
        wrong={
            "the order is the other way round: stage 1 cuts the optimiser's state, stage 3 the weights": (
                memory_order_turned
            ),
            "a stage cuts what the stages before it cut, too": memory_only_that_stage,
            "everything was cut from stage 1 on; that is stage 3": memory_all_cut,
            "one stage too late: stage 1 cuts the optimiser's state already": memory_late,
            "at stage 1 the gradients are still whole": memory_gradients_with_optimizer,
            "stage 3 cuts the weights as well": memory_weights_whole,
            "at stage 3 the gradients are cut as at stage 2 (>=, and not ==)": memory_gradients_at_two_alone,
            "that is the total; three numbers are wanted, for weights, gradients and the optimiser": memory_total,
            "those are bytes for one parameter: times n_params": memory_a_parameter,
            "4 bytes a parameter are missing: the optimiser's 12 hold a 32-bit copy of the weights too": (
                memory_without_master
            ),
            "the bytes were taken as 2, 2 and 12; they are parameters of the function": memory_defaults_used,
            "stages other than 0 to 3, and fewer than 1 rank, raise a ValueError": memory_never_refuses,
            "in bytes, please, not in gigabytes": memory_gigabytes,
        },
    ),
    Exercise(
        number="14.4",
        name="orthogonalize",
        reference="llmkit.training.muon:orthogonalize",
        cases=orthogonalize_cases,
        tolerance=0.06,  # bfloat16 and five rounds: other orders of the same products differ by up to 0.05
        hints=(
            "x = x.bfloat16(), then x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7) is each matrix's norm, (N, 1, 1).",
            "x.mT transposes the last two axes, and @ multiplies all N matrices at once.",
            "In each round: gram = x @ x.mT, and a * x + (b * gram + c * gram @ gram) @ x is the new x.",
        ),
        wrong={
            "the matrices were not divided by their norm; above a norm of about 1 the rounds explode": (
                orthogonalize_not_divided
            ),
            "one norm was taken for all matrices; each has its own: dim=(-2, -1), keepdim=True": orthogonalize_one_norm,
            "each row was divided by its own norm, which changes directions; divide the matrix by one number": (
                orthogonalize_rows
            ),
            "divided by the largest entry; the root of the sum of squares bounds the singular values, this does not": (
                orthogonalize_largest
            ),
            "divided by the root of the *mean* square; it is the sum": orthogonalize_mean_square,
            "0 / 0 for a matrix of zeros: clamp(min=1e-7) keeps the norm above 0": orthogonalize_zero_divided,
            "the values are right, but in float32; begin with x.bfloat16(), and give that back": orthogonalize_float32,
            "the last term, c G G X, is missing": orthogonalize_without_fifth_power,
            "those are the coefficients of the classical iteration, 1.5 and -0.5: it converges to 1, but slowly": (
                orthogonalize_plain_newton
            ),
            "b is negative": orthogonalize_without_sign,
            "that is the exact answer, U Vᵀ of the singular value decomposition; Muon's five rounds come near it only": (
                orthogonalize_exactly
            ),
            "only one round was made: the result of each round is the x of the next": orthogonalize_one_round,
            "always five rounds; how many is a parameter": orthogonalize_always_five,
            "a tall matrix came back transposed": orthogonalize_not_turned_back,
            "G G is a product of matrices, G @ G; * squares each entry": orthogonalize_square_of_entries,
            "the polynomial was applied to each entry; it is meant for the matrix: G = X Xᵀ, products with @": (
                orthogonalize_element_wise
            ),
        },
    ),
    Exercise(
        number="14.5",
        name="equal_length",
        reference=equal_length,
        tolerance=0.0,
        hints=(
            "For one token and one layer: q, k, v and o are four (C, C) products, the MLP has 8 C² weights. Each weight "
            "costs 2 FLOPs.",
            "Scores: T keys, each a product over C numbers; then the mean of T values, C numbers each.",
            "Both are multiples of C; divide by it, and T stands alone.",
        ),
        wrong={
            "the MLP was left out: it has twice as many weights as the four projections": lambda: 2 * 768,
            "scores are two products: queries with keys, and weights with values": lambda: 12 * 768,
            "the projections were left out": lambda: 4 * 768,
            "each weight costs 2 FLOPs for a token: a multiplication and an addition": lambda: 3 * 768,
            "that is 6 C² / C² …: how many tokens, with C = 768?": lambda: 6,
            "only three projections were counted; the attention's output is the fourth": lambda: 5.5 * 768,
            "that is the width; the scores of one token cost 4 T C": lambda: 768,
        },
    ),
    Exercise(
        number="14.6",
        name="isoflop_minimum",
        reference="llmkit.training.isoflop:isoflop_minimum",
        cases=isoflop_cases,
        tolerance=1e-5,
        compare=same_parabola,
        hints=(
            "np.polyfit(x, losses, 2) gives the coefficients of x², x and 1, in this order; x are the logarithms.",
            "A parabola c0 + c1 x + c2 x² has slope 0 at x = -c1 / (2 c2).",
            "x is a logarithm: np.exp of it is a number of parameters. inside compares with the smallest and the largest.",
            "Give back Parabola((c0, c1, c2), n_params, loss, inside).",
        ),
        wrong={
            "all is right but the wrapping: Parabola(coefficients, n_params, loss, inside)": isoflop_plain_tuple,
            "n_params is the logarithm still: exp of it": isoflop_log_given,
            "polyfit gives the highest power first; the coefficients are wanted as c0, c1, c2": (
                isoflop_coefficients_turned
            ),
            "polyfit's first number belongs to x², its last is the constant; they were read the other way round": (
                isoflop_polyfit_backwards
            ),
            "the lowest point is a logarithm still: exp of it is n_params, and inside compares that": (
                isoflop_log_compared
            ),
            "log10 and exp do not belong together: np.log, then np.exp": isoflop_log10_and_exp,
            "sizes can come in any order: inside compares with min and max, not with the first and the last": (
                isoflop_first_and_last
            ),
            "the minimum is at -c1 / (2 c2): the 2 is missing": isoflop_without_half,
            "the minimum is at -c1 / (2 c2): the sign is missing": isoflop_wrong_sign,
            "that is the best of the sizes that were trained; the parabola's lowest point lies between them": (
                isoflop_best_measured
            ),
            "the natural logarithm is wanted: with log10 the coefficients are others": isoflop_log10,
            "the parabola was drawn over N; it is over log N": isoflop_no_log,
            "inside is True only where the minimum lies between the smallest and the largest size": (
                isoflop_always_inside
            ),
            "fewer than three different sizes, unequal lengths, losses that bend downwards: each raises a ValueError": (
                isoflop_never_refuses
            ),
            "losses that bend downwards (c2 not above 0) have no minimum: raise a ValueError": isoflop_bends_downwards,
            "three runs of two sizes do not fix a parabola: count the different sizes": isoflop_counts_runs,
            "loss is the parabola's lowest value, not the lowest that was measured": isoflop_loss_measured,
        },
    ),
    Exercise(
        number="14.7",
        name="width_factors",
        reference="llmkit.training.width:width_factors",
        cases=width_cases,
        starts_from=factors_of_all_matrices,
        hints=(
            "Read the figure above: which layer's line falls with the width, and which parameter writes it?",
            "The embedding has two axes. Does the axis of its input grow with the width?",
            "Names tell: matrices inside blocks have “.blocks.” in theirs.",
        ),
        wrong={
            "this computes what the function did as it was given; which matrices does the docstring except, and does the code?": (
                factors_of_all_matrices
            ),
            "the name decides, not the shape: inside blocks are matrices that are not square, such as the MLP's": (
                factors_of_squares
            ),
            "m compares inputs, the second number of (out, in); these are outputs": factors_by_fan_out,
            "norms and biases inside blocks were scaled too; only matrices are": factors_of_vectors_too,
            "lm_head was scaled; Adam's rate for it stays (its multiplier is another matter)": factors_with_the_output,
            "the embedding and the positions were scaled; they stay": factors_with_the_embedding,
            "the learning rate goes with 1 / m; 1 / sqrt(m) is for the std": factors_root_of_rate,
            "the std goes with 1 / sqrt(m); 1 / m is for the learning rate": factors_std_as_rate,
            "the two are the wrong way round: std first, then learning rate": factors_swapped,
            "upside down: a wider model takes *smaller* steps": factors_upside_down,
            "the std of the matrices inside blocks shrinks too, by 1 / sqrt(m)": factors_rate_alone,
            "m need not be whole, nor above 1: divide with /": factors_whole_numbers,
        },
    ),
]
