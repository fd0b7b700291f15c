"""What toyland's answers are really worth: measures that no training sees, beside the reward model's own.

B answers to B prompts, all as ids; an answer's last token is the end of text where it has one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llmkit.alignment.reward import RewardModel
from llmkit.data.batches import pad
from llmkit.data.toyland.preferences import Truth, truth
from llmkit.data.toyland.words import split
from llmkit.evaluation.bootstrap import Interval, bootstrap_interval
from llmkit.evaluation.diversity import distinct_n
from llmkit.finetuning.toyland_chat import END_OF_TEXT
from llmkit.tokenizers.byte_level import ByteLevelBPE

Ids = Sequence[Sequence[int]]


def end_id(tokenizer: ByteLevelBPE) -> int:
    """The token that stands between texts, and so begins a prompt and ends an answer."""
    return tokenizer.special_tokens[END_OF_TEXT]


def texts_of(tokenizer: ByteLevelBPE, rows: Ids) -> list[str]:
    """Each row as text, without the mark."""
    end = end_id(tokenizer)
    return [tokenizer.decode([i for i in ids if i != end]) for ids in rows]


def judge(tokenizer: ByteLevelBPE, prompts: Ids, answers: Ids) -> list[Truth]:
    """The truth about each answer. Raises ValueError for a prompt that is no opening."""
    both = zip(texts_of(tokenizer, prompts), texts_of(tokenizer, answers), strict=True)
    return [truth(opening, continuation) for opening, continuation in both]


def true_scores(tokenizer: ByteLevelBPE, prompts: Ids, answers: Ids) -> Tensor:
    """(B,): what the judge goes by."""
    return torch.tensor([found.score for found in judge(tokenizer, prompts, answers)])


@torch.no_grad()
def proxy_scores(model: RewardModel, prompts: Ids, answers: Ids, at_once: int = 256) -> Tensor:
    """(B,): what the reward model says."""
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    parts = [pad(rows[i : i + at_once]) for i in range(0, len(rows), at_once)]
    return torch.cat([model(ids, mask) for ids, mask in parts])


class Measured(NamedTuple):
    """Means over the answers, and in `scores` the true score of each."""

    proxy: float
    score: float
    sentiment: float
    grammatical: float  # share
    nats_per_word: float  # of the grammatical ones under the source, ends counted; nan where there are none
    distinct_2: float  # of words, over all answers; nan where no answer has two words
    words: float  # an answer
    kl: float  # nats an answer, from the SFT model, as it was given
    scores: list[float]

    def as_json(self) -> dict[str, Any]:
        """The figures by name, None for nan, which is no JSON."""
        return {key: None if value != value else value for key, value in self._asdict().items()}


def measure(tokenizer: ByteLevelBPE, prompts: Ids, answers: Ids, proxy: RewardModel, kl: float) -> Measured:
    """Judge answers; kl is passed on."""
    found = judge(tokenizer, prompts, answers)
    fine = [one for one in found if one.grammatical]
    n_words = sum(one.n_words + 1 for one in fine)
    said = [split(text) for text in texts_of(tokenizer, answers)]

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in found]))

    return Measured(
        proxy_scores(proxy, prompts, answers).mean().item(), mean("score"), mean("sentiment"), mean("grammatical"),
        -sum(one.log_prob for one in fine) / n_words if fine else float("nan"),
        distinct_n(said, 2) if any(len(words) > 1 for words in said) else float("nan"), mean("n_words"), kl,
        [one.score for one in found],
    )  # fmt: skip


def win_rate(a: Sequence[float], b: Sequence[float]) -> Interval:
    """How often a's answer is truly worth more than b's to the same prompt, equal ones counted half; 95% bootstrap.

    Raises ValueError for unequal numbers of scores, for none, and for NaN.
    """
    x, y = np.round(a, 6), np.round(b, 6)  # thirds, which floats may not agree on
    if x.shape != y.shape:
        raise ValueError(f"a score of a for each of b is needed, got {x.size} and {y.size}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("there are scores that are NaN: nothing is worth more or less than those")
    return bootstrap_interval((x > y) + (x == y) / 2)


def best_of_curve(proxy: Tensor, true: Tensor, ns: Sequence[int]) -> list[tuple[float, float]]:
    """Mean proxy and true score of the best of n by the proxy, for each n: (P, N) of N answers to P prompts.

    Over all choices of n among the N, not one: with the answers ranked from worst, the k-th (from 0) is the best of n
    in C(k, n - 1) of C(N, n) choices. Raises ValueError for an n above N. Source: Nakano et al. 2021 (WebGPT).
    """
    N = proxy.size(1)
    if max(ns) > N or min(ns) < 1:
        raise ValueError(f"best of n needs n from 1 to the {N} answers there are, got {list(ns)}")
    order = proxy.argsort(1)
    ranked = [x.gather(1, order).double().mean(0) for x in (proxy, true)]  # (N,)
    curve = []
    for n in ns:
        k = torch.arange(N, dtype=torch.float64)
        log_choices = torch.lgamma(k + 1) - torch.lgamma((k - n + 2).clamp(min=1))  # of C(k, n - 1), up to a constant
        weights = log_choices.masked_fill(k < n - 1, -torch.inf).softmax(0)
        curve.append(tuple(float((weights * x).sum()) for x in ranked))
    return curve


COLUMNS = ("proxy", "score", "grammatical", "nats_per_word", "distinct_2", "words", "kl")


def spread(runs: Sequence[dict], method: str, key: str) -> tuple[float, float, float]:
    """Mean, least and most of one figure of a method over the stored runs, one a seed; nan where a run has none."""
    values = [run["methods"][method][key] for run in runs]
    if None in values:
        return float("nan"), float("nan"), float("nan")
    return sum(values) / len(values), min(values), max(values)


def method_table(runs: Sequence[dict], methods: Sequence[str]) -> str:
    """Stored runs as lines of text: means over seeds, and under each line how far from them the seeds lie at most.

    The win rate stands with an interval that holds all of the seeds' bootstrap intervals: from the lowest of their ends
    to the highest. Where a seed has no such figure (no answer is grammatical, or has two words) stands nan.
    """
    heads = ("proxy", "true", "gramm.", "nats/w", "dist-2", "words", "KL")
    lines = [f"{'':24}" + "".join(f"{head:>8}" for head in heads) + "   wins against SFT"]
    for method in methods:
        found = [spread(runs, method, key) for key in COLUMNS]
        wins = list(zip(*(run["methods"][method]["win_rate"] for run in runs), strict=True))
        won = f"   {np.mean(wins[0]):.2f} [{min(wins[1]):.2f}, {max(wins[2]):.2f}]"
        lines.append(f"{method:24}" + "".join(f"{mean:8.2f}" for mean, _, _ in found) + won)
        if len(runs) > 1:
            lines.append(f"{'':24}" + "".join(f"{'±' + format(max(m - a, b - m), '.2f'):>8}" for m, a, b in found))
    return "\n".join(lines)
