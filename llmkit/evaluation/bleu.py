"""BLEU: which share of a translation's words, pairs, triples, … occurs in the reference?"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmkit.evaluation.overlap import check_corpus, check_text, ngrams

MAX_N = 4
HTML = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
SPLITS = (  # in this order: each sees what the one before made
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # ASCII symbols, but not ' , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # 3.5 and 1,000 stay whole
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


class Bleu(NamedTuple):
    """score and precisions in percent (0 to 100), lengths in tokens."""

    score: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    hypothesis_length: int
    reference_length: int


def tokenize_13a(text: str) -> list[str]:
    """Cut as the NIST script mteval-v13a does: what every published WMT score uses.

    Only ASCII punctuation is split off. Source: sacrebleu `Tokenizer13a`; Post 2018 (arXiv 1804.08771) tells why BLEU
    on home-made tokens cannot be compared with anyone's.

    >>> tokenize_13a("It's 3.5 kg, isn't it?")
    ["It's", '3.5', 'kg', ',', "isn't", 'it', '?']
    """
    text = text.rstrip()  # before the next line: a hyphen at the very end is none of a broken word
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in HTML:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, apart in SPLITS:
        text = pattern.sub(apart, text)
    return text.split()


def clipped_counts(hypothesis: Sequence[str], references: Sequence[Sequence[str]], n: int) -> tuple[int, int]:
    """How many n-grams of the hypothesis occur in a reference, and how many it has.

    An n-gram counts at most as often as in the reference that has it most: saying "the" seven times is no better
    than saying it as often as somebody did. Source: Papineni et al. 2002, section 2.1, whose example this is.

    >>> clipped_counts(["the"] * 7, ["the cat is on the mat".split(), "there is a cat on the mat".split()], 1)
    (2, 7)
    """
    most: Counter = Counter()
    for reference in references:
        most |= ngrams(reference, n)  # | of counters is the larger count of each
    said = ngrams(hypothesis, n)
    return (said & most).total(), said.total()


def closest_length(hypothesis_length: int, reference_lengths: Sequence[int]) -> int:
    """The reference length next to the hypothesis' own; of two equally near ones the shorter.

    >>> closest_length(10, [12, 8, 15])
    8
    """
    return min(reference_lengths, key=lambda length: (abs(length - hypothesis_length), length))


def brevity_penalty(length: int, reference_length: int) -> float:
    """exp(1 - r / c) for c tokens where the references have r, more than c; 1 where c is enough; 0 for c = 0.

    Precision alone would reward saying only what is certain. Over a corpus c and r are sums over all sentences, so
    that one short sentence does no harm. Source: Papineni et al. 2002, section 2.2.

    >>> brevity_penalty(12, 10), round(brevity_penalty(5, 10), 4)
    (1.0, 0.3679)
    """
    if length >= reference_length:
        return 1.0
    return math.exp(1 - reference_length / length) if length else 0.0


def bleu_counts(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """All that corpus BLEU needs to know of one sentence, as (10,) whole numbers that may be added up.

    hypothesis  its tokens
    references  for each reference its tokens
    result      the two lengths, n-grams that match for n = 1 to 4, n-grams there are for n = 1 to 4

    >>> bleu_counts("a b c".split(), ["a b d e".split()])
    array([3, 4, 2, 1, 0, 0, 3, 2, 1, 0])
    """
    check_text(hypothesis, references, list)
    pairs = [clipped_counts(hypothesis, references, n) for n in range(1, MAX_N + 1)]
    lengths = [len(hypothesis), closest_length(len(hypothesis), [len(r) for r in references])]
    return np.array([*lengths, *(matching for matching, _ in pairs), *(total for _, total in pairs)])


def bleu_from_counts(counts: Sequence[int], smoothing: str = "none") -> Bleu:
    """BLEU from (10,) counts of `bleu_counts`, of one sentence or added up over many.

    smoothing  "none": a precision of 0 makes the score 0
               "exp": the first n whose n-grams never match gets half a match, the next a quarter, and so on
               (sacrebleu's default; method 3 of Chen and Cherry 2014). If nothing matches at all, or no text is
               4 tokens long, the score is 0 all the same.

    score = brevity penalty x geometric mean of the four precisions. Raises ValueError for another smoothing.
    Source: Papineni et al. 2002, section 2.3.

    >>> round(bleu_from_counts([6, 6, 5, 3, 2, 1, 6, 5, 4, 3]).score, 4)   # (5/6 · 3/5 · 2/4 · 1/3)^(1/4)
    53.7285
    >>> bleu_from_counts([5, 5, 4, 1, 0, 0, 5, 4, 3, 2], "exp").precisions   # 1/4; half of 1/3; a quarter of 1/2
    (80.0, 25.0, 16.666666666666668, 12.5)
    """
    if smoothing not in ("none", "exp"):
        raise ValueError(f'smoothing must be "none" or "exp", got {smoothing!r}')
    length, reference_length, *numbers = (int(c) for c in counts)
    matching, total = numbers[:MAX_N], numbers[MAX_N:]
    precisions = [100 * m / t if t else 0.0 for m, t in zip(matching, total, strict=True)]
    if smoothing == "exp" and any(matching):
        for n in range(MAX_N):
            if total[n] and not matching[n]:
                misses = matching[: n + 1].count(0)
                precisions[n] = 100 / (2**misses * total[n])
    penalty = brevity_penalty(length, reference_length)
    mean = math.exp(sum(math.log(p) for p in precisions) / MAX_N) if all(precisions) else 0.0
    return Bleu(penalty * mean, tuple(precisions), penalty, length, reference_length)


def bleu(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], smoothing: str = "none"
) -> Bleu:
    """Corpus BLEU, 0 to 100.

    hypotheses  for each sentence the tokens of its translation
    references  for each sentence its references, each a list of tokens (sacrebleu's list is the other way round:
                for each reference translation of the whole text, its sentences)
    smoothing   see `bleu_from_counts`

    Counts are added up over sentences, then divided: the score is not the mean of the sentences' scores, and of
    sentences shorter than 4 tokens only the corpus can make something. Raises ValueError as `check_corpus` does.

    >>> hypothesis = "the cat sat on a mat".split()
    >>> round(bleu([hypothesis], [["the cat sat on the mat".split()]]).score, 1)
    53.7
    """
    check_corpus(hypotheses, references, list)
    rows = [bleu_counts(h, refs) for h, refs in zip(hypotheses, references, strict=True)]
    return bleu_from_counts(np.sum(rows, axis=0), smoothing)
