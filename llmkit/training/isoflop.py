"""IsoFLOP: at one budget, which size is best? A parabola for each budget, and a power law through their minima."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Parabola(NamedTuple):
    """loss = c0 + c1 log N + c2 (log N)², by least squares, with its minimum.

    inside   whether the minimum lies between the sizes that were measured; if not, it is a guess: train more sizes
    """

    coefficients: tuple[float, float, float]
    n_params: float
    loss: float
    inside: bool

    def at(self, n_params: float) -> float:
        c0, c1, c2 = self.coefficients
        x = np.log(n_params)
        return c0 + c1 * x + c2 * x * x


def isoflop_minimum(n_params: Sequence[float], losses: Sequence[float]) -> Parabola:
    """The best size for one budget, between the sizes that were trained.

    Raises ValueError for fewer than three different sizes, and for a parabola that opens downwards: there is no
    minimum then. Source: Hoffmann et al. 2022, section 3.2 (approach 2).

    >>> best = isoflop_minimum([1e5, 1e6, 1e7], [3.0, 2.0, 3.0])
    >>> round(best.n_params), round(best.loss, 6), best.inside
    (1000000, 2.0, True)
    """
    if len(n_params) != len(losses) or len(set(n_params)) < 3:
        raise ValueError(f"a parabola needs three sizes with a loss each, got {len(n_params)} and {len(losses)}")
    x = np.log(np.asarray(n_params, dtype=float))
    c2, c1, c0 = np.polyfit(x - x.mean(), np.asarray(losses, dtype=float), 2)
    if c2 <= 0:
        raise ValueError("the losses bend downwards: there is no minimum between these sizes; train others")
    best, middle = -c1 / (2 * c2), x.mean()
    coefficients = (c0 - c1 * middle + c2 * middle**2, c1 - 2 * c2 * middle, c2)
    inside = bool(x.min() <= best + middle <= x.max())
    return Parabola(tuple(map(float, coefficients)), float(np.exp(best + middle)), float(c0 + c1 * best / 2), inside)


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """factor and exponent of y = factor * x^exponent, by least squares on the logarithms.

    >>> factor, exponent = power_law([1, 10, 100], [2, 20, 200])
    >>> round(factor, 6), round(exponent, 6)
    (2.0, 1.0)
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise ValueError(f"a power law needs two different x with a y each, got {len(x)} and {len(y)}")
    exponent, log_factor = np.polyfit(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)), 1)
    return float(np.exp(log_factor)), float(exponent)
