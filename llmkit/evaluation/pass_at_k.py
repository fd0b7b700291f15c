"""Is one of k tries right? Measured from n tries without bias."""

from collections.abc import Sequence

import numpy as np


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k tries, drawn without putting back from n of which c are right, hold a right one.

    1 - C(n - c, k) / C(n, k), as a product, so that nothing overflows. Its mean over samples is the true
    1 - (1 - p)^k, whereas 1 - (1 - c/n)^k is too low. Raises ValueError for k > n, where it cannot be estimated, and
    for c outside 0 … n. Source: Chen et al. 2021 (Codex), section 2.1 and figure 3.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 0, 4), pass_at_k(4, 3, 2)
    (0.25, 0.5, 0.0, 1.0)
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} tries: k must be between 1 and the number of tries")
    if not 0 <= c <= n:
        raise ValueError(f"{c} right answers among {n} tries")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def mean_pass_at_k(correct: Sequence[Sequence[bool]], k: int) -> float:
    """pass@k over problems, each with its own list of tries.

    >>> mean_pass_at_k([[True, False], [False, False]], 1)
    0.25
    """
    if not len(correct):
        raise ValueError("pass@k needs at least one problem")
    return float(np.mean([pass_at_k(len(tries), sum(map(bool, tries)), k) for tries in correct]))
