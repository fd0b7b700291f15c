"""How much do a model's texts repeat each other?"""

from collections.abc import Sequence
from typing import Any


def distinct_n(texts: Sequence[Sequence[Any]], n: int = 2) -> float:
    """Distinct n-grams of all texts together, divided by all n-grams: 1 where nothing is said twice.

    texts   tokens of each; those with fewer than n have no n-gram

    It falls as there are more texts, so compare equal numbers of them. Raises ValueError for n below 1 and where there
    is no n-gram. Source: Li et al. 2016 (a diversity-promoting objective function), section 5.

    >>> distinct_n([["a", "b", "a", "b"], ["a", "b"]])   # ab, ba, ab, ab
    0.5
    """
    if n < 1:
        raise ValueError(f"an n-gram has at least one token, got n = {n}")
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    if not grams:
        raise ValueError(f"none of the {len(texts)} texts has {n} tokens, so there is nothing to count")
    return len(set(grams)) / len(grams)
