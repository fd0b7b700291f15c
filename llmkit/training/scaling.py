"""Scaling laws: how loss falls with parameters N and tokens D, and how to spend a budget of C FLOPs on both."""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Law(NamedTuple):
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats a token.

    E   what is left when model and data are without limit: the entropy of the text, if the models can learn it all
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n_params: float, n_tokens: float) -> float:
        return self.E + self.A / n_params**self.alpha + self.B / n_tokens**self.beta

    @property
    def exponent(self) -> float:
        """a in N_opt ~ C^a; D_opt ~ C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    def optimal(self, budget: float, flops: float = 6.0) -> tuple[float, float]:
        """The N and D of the lowest loss that a budget in FLOPs buys, where training costs flops * N * D.

        Source: Hoffmann et al. 2022, equation 4.

        >>> n, d = CHINCHILLA_REFIT.optimal(5.76e23)     # what Gopher was trained with: 280e9 parameters
        >>> round(n / 1e9), round(d / 1e12, 2)
        (72, 1.33)
        """
        if not budget > 0:
            raise ValueError(f"a budget must be above 0 FLOPs, got {budget}")
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        n_params = g * (budget / flops) ** self.exponent
        return n_params, budget / flops / n_params


# Hoffmann et al. 2022, equation 10, rounded, and the same numbers from the paper's TeX source (Besiroglu et al. 2024)
CHINCHILLA_ROUNDED = Law(1.69, 406.4, 410.7, 0.34, 0.28)
CHINCHILLA = Law(1.6934, 406.4, 410.7, 0.3392, 0.2849)
# Besiroglu et al. 2024, "Chinchilla scaling: a replication attempt", table 1: the same points, fitted to convergence
CHINCHILLA_REFIT = Law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)

# Hoffmann et al. 2022, appendix D.2: log A and log B, log E, alpha and beta of the starts
_LOG_FACTORS, _LOG_E, _EXPONENTS = (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2)


def fit_law(
    n_params: Sequence[float], n_tokens: Sequence[float], losses: Sequence[float], starts: Sequence[Law] = (),
    n_starts: int = 24, delta: float = 1e-3,
) -> Law:  # fmt: skip
    """The law whose log L is nearest to the measured one: sum of Huber losses, made smallest by L-BFGS.

    starts     laws to begin from; without them, the paper's grid of 4,500
    n_starts   how many of the grid are followed to the end: those with the least loss, no two with the same exponents
               and E
    delta      beyond this error in log L a point pulls with constant force, so that an outlier cannot rule the fit

    Written with log-sum-exp, log L = LSE(log A - alpha log N, log B - beta log D, log E), so that nothing overflows and
    E, A and B stay above 0. Sums, not means, in float64: with means the paper's optimiser stopped too early (Besiroglu
    et al. 2024). Raises ValueError for fewer points than the five unknowns, unequal lengths, and numbers not above 0.
    Source: Hoffmann et al. 2022, section 3.3 and appendix D.2.
    """
    columns = [torch.as_tensor(list(column), dtype=torch.float64) for column in (n_params, n_tokens, losses)]
    if len({len(column) for column in columns}) != 1 or len(columns[0]) < 5:
        raise ValueError(f"5 unknowns need at least 5 points (N, D, L), got {[len(column) for column in columns]}")
    if not all(bool((column > 0).all() and column.isfinite().all()) for column in columns):
        raise ValueError("N, D and L must all be above 0 and finite: leave out runs that broke down")
    points = torch.stack(columns).log()  # (3, points)
    if starts:
        begin = torch.tensor([[*map(math.log, (law.A, law.B, law.E)), law.alpha, law.beta] for law in starts])
    else:
        begin = _best_of_grid(points, n_starts, delta)
    ends = [_descend(theta.double(), points, delta) for theta in begin]
    a, b, e, alpha, beta = min(ends, key=lambda end: float(_objective(end, points, delta))).tolist()
    return Law(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def _objective(theta: Tensor, points: Tensor, delta: float) -> Tensor:
    """theta (…, 5): log A, log B, log E, alpha, beta -> sum over points (…)."""
    log_n, log_d, log_l = points
    a, b, e, alpha, beta = theta[..., None].unbind(-2)  # each (…, 1)
    terms = torch.stack([a - alpha * log_n, b - beta * log_d, e.expand(*e.shape[:-1], len(log_l))])
    error = (terms.logsumexp(0) - log_l).abs()
    return torch.where(error < delta, error.square() / 2, delta * (error - delta / 2)).sum(-1)


def _best_of_grid(points: Tensor, n_starts: int, delta: float) -> Tensor:
    grid = torch.tensor(list(product(_LOG_FACTORS, _LOG_FACTORS, _LOG_E, _EXPONENTS, _EXPONENTS))).double()
    chosen, seen = [], set()
    for i in _objective(grid, points, delta).argsort():
        kind = tuple(grid[i, 2:].tolist())
        if kind not in seen:
            seen.add(kind)
            chosen.append(grid[i])
    return torch.stack(chosen[:n_starts])


def _descend(theta: Tensor, points: Tensor, delta: float) -> Tensor:
    # Exponents are a tenth as large as the logarithms, and far steeper: descend in units in which they are alike.
    units = torch.tensor([1.0, 1.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    x = (theta / units).requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=400, history_size=10, tolerance_grad=1e-7, tolerance_change=1e-9,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        # Huber losses of errors of a thousandth are of the order of 1e-6, below the optimiser's usual tolerances.
        value = _objective(x * units, points, delta) / delta**2
        value.backward()
        return value

    optimizer.step(closure)
    return (x * units).detach()


def bootstrap_laws(
    n_params: Sequence[float], n_tokens: Sequence[float], losses: Sequence[float], n_resamples: int = 100,
    seed: int = 0, law: Law | None = None,
) -> list[Law]:  # fmt: skip
    """Laws fitted to resamples of the points, drawn with replacement: how far they scatter is how little is known.

    law   fit_law of all points, where it is there already

    Each is fitted from the law of all points, and from that with four fifths of its E. A resample with fewer than five
    different points is drawn again. Source: Hoffmann et al. 2022, appendix D.2; Besiroglu et al. 2024.
    """
    table = np.array([n_params, n_tokens, losses], dtype=float)
    law, generator, laws = law or fit_law(*table), np.random.default_rng(seed), []
    starts = [law, law._replace(E=0.8 * law.E)]
    while len(laws) < n_resamples:
        chosen = generator.integers(table.shape[1], size=table.shape[1])
        if len(set(chosen.tolist())) >= 5:
            laws.append(fit_law(*table[:, chosen], starts=starts))
    return laws


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentiles that hold the middle `level` of bootstrapped values.

    >>> interval(range(201), 0.5)
    (50.0, 150.0)
    """
    low, high = np.quantile(np.asarray(list(values), dtype=float), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
