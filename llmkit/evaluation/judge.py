"""A judge says which of two answers is better. Judges have biases; two of them can be cured, and here is how well.

Real judges are language models, whose biases nobody knows. This one's are set, and the answers are toyland's, whose
truth is known: so it can be measured what a cure brings back, and what it does not. Sources: Zheng et al. 2023 (MT-
Bench), section 3.3, for the biases and the swap; Dubois et al. 2024 (length-controlled AlpacaEval), section 3, and
alpaca_eval's `metrics/glm_winrate.py` for the control of length.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llmkit.data.toyland.instruction_families import questions
from llmkit.data.toyland.scenes import scene


class Answers(NamedTuple):
    """Answers of one system to N questions: the texts, whether each is right, (N,) of 0 and 1, and the questions."""

    texts: list[str]
    right: np.ndarray
    questions: Sequence[str] = ()

    @property
    def n_words(self) -> np.ndarray:
        """(N,): words of each answer."""
        return np.array([len(text.split()) for text in self.texts])


def system_answers(
    n: int, accuracy: float, wordy: float, seed: int = 0, wordy_when_wrong: float | None = None, name: str = ""
) -> Answers:
    """What a system says to questions about n scenes; the same seed 0, 1, … asks the same questions of each system.

    accuracy           chance of a right answer; a wrong one would be right for the same question about another scene
    wordy              chance of a whole sentence ("The goose sits on the wall.") instead of "on the wall"
    wordy_when_wrong   the chance for wrong answers, where it is another
    name               tells two systems of equal accuracy and wordiness apart, which would draw the same otherwise
    """
    drawn = random.Random(f"{seed} {accuracy} {wordy} {name}".rstrip())
    texts, right = [], []
    asked = _asked(n, seed)
    for true, untrue in asked:
        is_right = drawn.random() < accuracy or true[1] == untrue[1]  # the short answers may happen to be the same
        _, short, sentence = true if is_right else untrue
        chance = wordy if is_right or wordy_when_wrong is None else wordy_when_wrong
        texts.append(sentence if drawn.random() < chance else short)
        right.append(is_right)
    return Answers(texts, np.array(right, dtype=float), [true[0] for true, _ in asked])


@lru_cache(maxsize=2)
def _asked(n: int, seed: int) -> list[tuple[tuple[str, str, str], tuple[str, str, str]]]:
    """Each question with its answer, short and as a sentence; and the same for the next scene."""
    rng = random.Random(seed)
    scenes = [questions(scene(rng).trace[-1].memory) for _ in range(n + 1)]
    numbers = [rng.randrange(2, len(asked)) for asked in scenes]  # from 2 on every scene is asked the same things
    return [(here[k], there[k]) for here, there, k in zip(scenes, scenes[1:], numbers, strict=False)]


@dataclass(frozen=True)
class Judge:
    """P(it says the first answer is better) = sigmoid(sharpness · (right₁ - right₂) + position + length · (n₁ - n₂)).

    n₁, n₂ are words. Without biases a judge is still noisy: two equal answers are a coin toss to it.
    """

    sharpness: float = 4.0
    position: float = 0.0
    length: float = 0.0

    def first_wins(self, first: Answers, second: Answers, rng: np.random.Generator) -> np.ndarray:
        """(N,) of 0 and 1, one verdict a question."""
        bias = self.position + self.length * (first.n_words - second.n_words)
        return (rng.random(len(bias)) < sigmoid(self.sharpness * (first.right - second.right) + bias)).astype(float)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def true_wins(a: Answers, b: Answers) -> np.ndarray:
    """(N,): 1 where only a is right, 0 where only b is, a half where there is nothing between them."""
    return (1 + a.right - b.right) / 2


def both_orders(judge: Judge, a: Answers, b: Answers, rng: np.random.Generator) -> np.ndarray:
    """(N,) of 0, 0.5 and 1: a's share of the verdicts when it stands first and when it stands second."""
    return (judge.first_wins(a, b, rng) + 1 - judge.first_wins(b, a, rng)) / 2


def length_controlled(wins: np.ndarray, more_words: np.ndarray, n_rounds: int = 30) -> float:
    """a's win rate if its answers were as long as b's.

    wins         (N,) from 0 to 1: a's share of each question's verdicts
    more_words   (N,): words of a's answer minus words of b's

    Fits wins ≈ sigmoid(θ + φ · tanh(more_words / their standard deviation)) and gives sigmoid(θ), what is predicted at
    no difference. It needs answers of several lengths on both sides: if a's were always longer by as much, nothing
    could tell its quality from its length. Raises ValueError for unequal numbers, NaN or infinity, and where all
    differences are equal.
    """
    wins, more_words = np.asarray(wins, dtype=float), np.asarray(more_words, dtype=float)
    if wins.shape != more_words.shape:
        raise ValueError(f"one difference in length a verdict, got {len(wins)} and {len(more_words)}")
    if not (np.isfinite(wins).all() and np.isfinite(more_words).all()):
        raise ValueError("there are verdicts or differences in length that are NaN or infinite")
    if not len(wins) or np.ptp(more_words) == 0:
        raise ValueError("the differences in length are all equal: quality and length cannot be told apart")
    x = np.column_stack([np.ones(len(wins)), np.tanh(more_words / more_words.std())])  # (N, 2)
    weights = np.zeros(2)
    for _ in range(n_rounds):  # Newton's method; the small ridge keeps a perfect separation finite
        p = sigmoid(x @ weights)
        gradient = x.T @ (wins - p) - 1e-3 * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, gradient)
    return float(sigmoid(weights[0]))
