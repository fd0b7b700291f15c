"""Bootstrap: how much would a score change with another test set of the same size? Legend: N rows, R resamples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Statistic = Callable[[np.ndarray], float]


class Interval(NamedTuple):
    """The statistic of all rows, and the ends of the interval around it, in the statistic's own unit."""

    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """Statistic of a minus statistic of b, its interval, and how easily chance alone would give as much."""

    estimate: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(
    rows: np.ndarray,
    statistic: Statistic | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Interval:
    """Percentile bootstrap: draw N of the N rows with replacement, R times, and see how the statistic varies.

    rows         (N, …), one for each example of the test set: right or wrong (0 or 1), a loss, `bleu_counts`, …;
                 np.arange(N) if the statistic looks the examples up itself
    statistic    function of such an array to a number; None is the mean of rows (N,), done fast
    level        how often such intervals hold the true value; (1 - level) / 2 of the resamples lie on each side
    seed         or a generator: the same seed gives the same interval

    What varies is the choice of test examples only: not the training seed, not a test set unlike the real use. Below
    some 30 rows the interval is too narrow. Raises ValueError for no rows, a level outside 0 to 1, no resamples, and
    for rows of more than one number without a statistic. Source: Efron 1979; Efron and Tibshirani 1993, chapter 13.

    >>> right = np.array([1] * 80 + [0] * 20)
    >>> bootstrap_interval(right)
    Interval(estimate=0.8, low=0.72, high=0.88)
    """
    rows = _check(rows, statistic, level, n_resamples)
    values = _resampled(rows, statistic, n_resamples, seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(_value(rows, statistic)), float(low), float(high))


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    statistic: Statistic | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Difference:
    """Is system a better than system b on the same N examples? Interval and p-value of the difference.

    a, b    (N, …) rows of the two systems, row i of both for example i; all else as in `bootstrap_interval`

    Each resample takes the same examples from both, so what is hard for both cancels: two intervals that overlap say
    little, the interval of the difference says it. p-value, two-sided: the share of resamples whose difference is at
    least as far from the estimate as the estimate is from 0 (resamples moved to where there is no difference), with 1
    added above and below so that it is never 0. sacrebleu's differs a little: it takes absolute differences first.
    Raises ValueError as `bootstrap_interval` does, and where a and b have unequal numbers of rows.
    Source: Koehn 2004 for the resampling; Efron and Tibshirani 1993, chapter 16, for the p-value.

    >>> a, b = np.array([1, 1, 1, 0] * 25), np.array([1, 1, 0, 0] * 25)
    >>> paired_bootstrap(a, b)
    Difference(estimate=0.25, low=0.16, high=0.33, p_value=0.0004997501249375312)
    """
    a, b = (_check(rows, statistic, level, n_resamples) for rows in (a, b))
    if len(a) != len(b):
        raise ValueError(f"a and b must be about the same examples: {len(a)} rows and {len(b)}")

    def difference(chosen: np.ndarray) -> float:
        return statistic(a[chosen]) - statistic(b[chosen])

    # The difference of means is the mean of differences.
    rows, of_rows = (a - b, None) if statistic is None else (np.arange(len(a)), difference)
    estimate = float(_value(rows, of_rows))
    values = _resampled(rows, of_rows, n_resamples, seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    as_far = np.abs(values - estimate) >= abs(estimate) * (1 - 1e-9)  # equal despite rounding, for scores of 0 and 1
    return Difference(estimate, float(low), float(high), (1 + int(as_far.sum())) / (1 + n_resamples))


def _value(rows: np.ndarray, statistic: Statistic | None) -> float:
    return rows.mean() if statistic is None else statistic(rows)


def _resampled(
    rows: np.ndarray, statistic: Statistic | None, n_resamples: int, seed: int | np.random.Generator
) -> np.ndarray:
    """(R,): the statistic of each resample."""
    generator = np.random.default_rng(seed)  # a generator passes through
    n = len(rows)
    if statistic is not None:
        return np.array([statistic(rows[generator.integers(n, size=n)]) for _ in range(n_resamples)])
    at_once = max(1, 1_000_000 // n)  # resamples: some 8 MB of indices, however many rows there are
    sizes = [min(at_once, n_resamples - done) for done in range(0, n_resamples, at_once)]
    return np.concatenate([rows[generator.integers(n, size=(size, n))].mean(axis=1) for size in sizes])


def _check(rows: np.ndarray, statistic: Statistic | None, level: float, n_resamples: int) -> np.ndarray:
    rows = np.asarray(rows)
    if not rows.size:
        raise ValueError("the bootstrap needs at least one row")
    if statistic is None:
        if rows.ndim != 1:
            raise ValueError(f"rows of shape {rows.shape} need a statistic; without one they must be (N,)")
        rows = rows.astype(float)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    return rows
