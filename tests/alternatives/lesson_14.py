"""Lesson 14: right answers written differently, and mutants that compute the same."""

import math

import numpy as np
import torch

from llmkit.training.isoflop import Parabola
from llmkit.training.parallelism import Memory


def ring_with_functions(tensors):
    n = len(tensors)
    if n == 0:
        raise ValueError("nobody")
    pieces = [[p.clone() for p in x.tensor_split(n)] for x in tensors]
    sent = [0 for _ in range(n)]

    def step(which, add):
        on_the_way = {}
        for r in range(n):
            p = which(r) % n
            on_the_way[(r + 1) % n] = p, pieces[r][p].clone()
            sent[r] += pieces[r][p].numel()
        for r, (p, message) in on_the_way.items():
            pieces[r][p] = pieces[r][p] + message if add else message

    for s in range(n - 1):
        step(lambda r, s=s: r - s, True)
    for s in range(n - 1):
        step(lambda r, s=s: r + 1 - s, False)
    return [torch.cat(p) for p in pieces], sent


def ring_with_a_matrix(tensors):
    if len(tensors) < 1:
        raise ValueError("nobody")
    n, N = len(tensors), len(tensors[0])
    held = torch.stack(list(tensors))
    bounds = [b for b in torch.arange(N).tensor_split(n)]
    sent = [0] * n
    for s in range(n - 1):
        before = held.clone()
        for r in range(n):
            at = bounds[(r - s) % n]
            held[(r + 1) % n, at] += before[r, at]
            sent[r] += at.numel()
    for s in range(n - 1):
        before = held.clone()
        for r in range(n):
            at = bounds[(r + 1 - s) % n]
            held[(r + 1) % n, at] = before[r, at]
            sent[r] += at.numel()
    return tuple(held), tuple(sent)


def ring_seen_by_the_receiver(tensors):
    n = len(tensors)
    if not n:
        raise ValueError
    state = [list(x.clone().tensor_split(n)) for x in tensors]
    sent = torch.zeros(n, dtype=torch.long)
    for half in (0, 1):
        for s in range(n - 1):
            new = [list(row) for row in state]
            for me in range(n):
                other = me - 1
                p = (other + half - s) % n
                sent[other] += len(state[other][p])
                new[me][p] = state[other][p] if half else state[me][p] + state[other][p]
            state = new
    return [torch.cat(row) for row in state], sent.tolist()


def memory_with_ifs(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    if zero_stage < 0 or zero_stage > 3:
        raise ValueError("stage")
    if n_ranks <= 0:
        raise ValueError("ranks")
    weights, gradients, state = n_params * weight_bytes, n_params * gradient_bytes, n_params * optimizer_bytes
    if zero_stage >= 1:
        state /= n_ranks
    if zero_stage >= 2:
        gradients /= n_ranks
    if zero_stage == 3:
        weights /= n_ranks
    return Memory(weights, gradients, state)


def memory_by_table(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    table = {0: (1, 1, 1), 1: (1, 1, n_ranks), 2: (1, n_ranks, n_ranks), 3: (n_ranks,) * 3}
    if zero_stage not in table or n_ranks < 1:
        raise ValueError("no")
    sizes = np.array([weight_bytes, gradient_bytes, optimizer_bytes]) * n_params
    return (sizes / np.array(table[zero_stage])).tolist()


def memory_with_exponents(n_params, n_ranks=1, zero_stage=0, weight_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    assert_ok = 0 <= zero_stage <= 3 and n_ranks >= 1
    if not assert_ok:
        raise ValueError(zero_stage, n_ranks)
    return tuple(
        n_params * size / n_ranks ** int(zero_stage + place > 2)
        for place, size in enumerate((weight_bytes, gradient_bytes, optimizer_bytes))
    )


def orthogonalize_other_side(x, steps=5):
    x = x.bfloat16()
    x = x / x.square().sum((-2, -1), keepdim=True).sqrt().clamp(min=1e-7)
    for _ in range(steps):
        gram = x.mT @ x
        x = 3.4445 * x + x @ (-4.775 * gram + 2.0315 * gram @ gram)
    return x


def orthogonalize_step_by_step(x, steps=5):
    x = x.to(torch.bfloat16)
    n = torch.linalg.matrix_norm(x, keepdim=True)
    x = x / torch.clamp(n, min=1e-7)
    for _ in range(steps):
        cube = x @ x.mT @ x
        x = 3.4445 * x - 4.7750 * cube + 2.0315 * (x @ x.mT @ cube)
    return x


def orthogonalize_one_by_one(x, steps=5):
    results = []
    for matrix in x:
        m = matrix.bfloat16()
        turned = m.shape[0] > m.shape[1]
        m = m.T if turned else m
        m = m / max(m.norm(), torch.tensor(1e-7))
        for _ in range(steps):
            g = m @ m.T
            m = torch.addmm(m, -4.7750 * g + 2.0315 * g @ g, m, beta=3.4445)
        results.append(m.T if turned else m)
    return torch.stack(results)


def isoflop_with_torch(n_params, losses):
    if len(set(n_params)) < 3 or len(n_params) != len(losses):
        raise ValueError("three sizes")
    x = torch.tensor(n_params, dtype=torch.float64).log()
    y = torch.tensor(losses, dtype=torch.float64)
    c = torch.linalg.lstsq(torch.stack([x**0, x, x**2], 1), y[:, None], driver="gelsd").solution[:, 0]
    if c[2] <= 0:
        raise ValueError("downwards")
    best = -c[1] / (2 * c[2])
    low = c[0] + c[1] * best + c[2] * best**2
    return Parabola(c.tolist(), best.exp().item(), low.item(), bool(min(x) <= best <= max(x)))


def isoflop_with_polynomial(n_params, losses):
    if len(n_params) != len(losses):
        raise ValueError("lengths")
    if len(np.unique(n_params)) < 3:
        raise ValueError("sizes")
    p = np.polynomial.Polynomial.fit(np.log(n_params), losses, 2).convert()
    if p.coef[2] <= 0:
        raise ValueError("downwards")
    place = float(p.deriv().roots()[0])
    size = math.exp(place)
    return Parabola(tuple(p.coef), size, float(p(place)), min(n_params) <= size <= max(n_params))


def isoflop_with_polyfit(n_params, losses):
    if not (len(n_params) == len(losses) and len(set(n_params)) >= 3):
        raise ValueError("no")
    x = np.log(n_params)
    fit = np.polyfit(x, losses, 2)
    if not fit[0] > 0:
        raise ValueError("no minimum")
    best = -fit[1] / 2 / fit[0]
    return Parabola(tuple(fit[::-1].tolist()), np.exp(best), np.polyval(fit, best), bool(x.min() <= best <= x.max()))


def factors_by_kind(name, shape, base_shape):
    hidden = len(shape) == 2 and not any(part in name for part in ("embed", "lm_head"))
    ratio = base_shape[-1] / shape[-1] if hidden else 1
    return math.sqrt(ratio), ratio


def factors_nested(name, shape, base_shape):
    if "blocks" in name.split("."):
        if len(shape) == 2:
            factor = base_shape[1] / shape[1]
            return [factor**0.5, factor]
    return [1, 1]


def factors_with_numpy(name, shape, base_shape):
    if np.ndim(np.zeros(shape)) < 2 or name.startswith(("lm_head", "transformer.embed")):
        return (1, 1)
    _, fan_in = shape
    return (np.sqrt(base_shape[1] / fan_in), base_shape[1] / fan_in)


RIGHT = {
    "ring_all_reduce": [ring_with_functions, ring_with_a_matrix, ring_seen_by_the_receiver],
    "memory": [memory_with_ifs, memory_by_table, memory_with_exponents],
    "orthogonalize": [orthogonalize_other_side, orthogonalize_step_by_step, orthogonalize_one_by_one],
    "isoflop_minimum": [isoflop_with_torch, isoflop_with_polynomial, isoflop_with_polyfit],
    "width_factors": [factors_by_kind, factors_nested, factors_with_numpy],
}
_SIDE = "which of the two sides is multiplied out makes no difference, but for time"
EQUIVALENT = {
    "ring_all_reduce": {"result in another precision": "it gives a pair, which has no precision"},
    "memory": {
        "1  ->  2": "how many ranks there are by default does not matter, because nothing is cut by default",
        "True  ->  False": "three parts and three answers are always of one length",
    },
    "orthogonalize": {
        "x.size(-2) > x.size(-1)  ->  GtE": _SIDE,
        "x.size(-2) > x.size(-1)  ->  Lt": _SIDE,
        "-2  ->  without USub": _SIDE,
        "-1  ->  without USub": _SIDE,
        "2  ->  3": _SIDE,
        "2  ->  1": _SIDE,
        "1  ->  2": _SIDE,
        "1  ->  0": _SIDE,
        "result in another precision": "there is no other precision listed for bfloat16",
    },
    "isoflop_minimum": {
        "c2 <= 0  ->  Lt": "a fit never gives exactly 0",
        "np.asarray(n_params, dtype=float)  ->  without dtype": "the logarithm takes whole numbers too",
        "np.asarray(losses, dtype=float)  ->  without dtype": "the fit takes whole numbers too",
        "x.min() <= best + middle <= x.max()  ->  Lt": "a minimum never lies exactly on a size",
    },
}
