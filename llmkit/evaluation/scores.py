"""Precision, recall and F1 from three counts: the same for spans, for classes and for n-grams.

In this folder the prediction is always the first argument, the truth the second.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Score(NamedTuple):
    """Shares between 0 and 1; support is the number of things that were to be found."""

    precision: float
    recall: float
    f1: float
    support: int


def score(n_correct: int, n_predicted: int, n_true: int) -> Score:
    """Precision, recall and F1, their harmonic mean.

    n_correct    how many are both predicted and true
    n_predicted  how many are predicted: precision is the correct share of these
    n_true       how many are true: recall is the correct share of these

    Where a share is of nothing (0 / 0) it is 0. Source: van Rijsbergen 1979, chapter 7.

    >>> score(2, 4, 2)
    Score(precision=0.5, recall=1.0, f1=0.6666666666666666, support=2)
    >>> score(0, 0, 3)
    Score(precision=0.0, recall=0.0, f1=0.0, support=3)
    """
    precision = n_correct / n_predicted if n_predicted else 0.0
    recall = n_correct / n_true if n_true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if n_correct else 0.0
    return Score(precision, recall, f1, n_true)


@dataclass(frozen=True)
class Report:
    """Scores for each class, and two ways to make one number of them.

    micro  all classes' counts in one pot: frequent classes decide
    macro  the mean of the classes' scores: rare classes weigh as much as frequent ones
    """

    per_class: dict[Hashable, Score]
    micro: Score
    macro: Score


def report(counts: Mapping[Hashable, tuple[int, int, int]]) -> Report:
    """Scores from (n_correct, n_predicted, n_true) of each class.

    A class that is neither predicted nor true does not count in macro, as in scikit-learn. Macro F1 is the mean
    of the F1s, not the F1 of the mean precision and recall: papers have both, see Opitz and Burst 2019
    (arXiv 1911.03347).

    >>> both = report({"PER": (8, 10, 8), "LOC": (0, 0, 2)})
    >>> both.micro
    Score(precision=0.8, recall=0.8, f1=0.8000000000000002, support=10)
    >>> both.macro
    Score(precision=0.4, recall=0.5, f1=0.4444444444444445, support=10)
    """
    per_class = {name: score(*three) for name, three in counts.items()}
    n_correct, n_predicted, n_true = (sum(three[i] for three in counts.values()) for i in range(3))
    seen = [per_class[name] for name, three in counts.items() if any(three)]
    macro = [sum(s[i] for s in seen) / max(len(seen), 1) for i in range(3)]
    return Report(per_class, score(n_correct, n_predicted, n_true), Score(*macro, n_true))
