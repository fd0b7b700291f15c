"""ROUGE: which share of the reference's words, pairs, or word order does a summary have?"""

import re
from collections.abc import Sequence

from llmkit.evaluation.overlap import ngrams
from llmkit.evaluation.scores import Score, score


def tokenize_rouge(text: str) -> list[str]:
    """Lower-case runs of a-z and 0-9; all else separates, so letters with accents are lost and cut a word in two.

    Source: the package rouge-score (without its stemmer), after Lin's ROUGE-1.5.5.

    >>> tokenize_rouge("The café's 3.5 km")
    ['the', 'caf', 's', '3', '5', 'km']
    """
    return re.findall("[a-z0-9]+", text.lower())


def rouge_n(hypothesis: str, reference: str, n: int) -> Score:
    """ROUGE-N: n-grams that both texts have, as a share of the hypothesis' (precision) and the reference's (recall).

    An n-gram counts as often as in the text that has it less. support is the number of the reference's n-grams. The
    paper knows recall only; today the F1 is reported. Several references: take the Score of the best F1. Over a corpus
    the mean of the texts' scores is reported (unlike BLEU). Raises ValueError for n < 1.
    Source: Lin 2004, section 2.

    >>> rouge_n("the cat sat", "the cat sat on the mat", 2)
    Score(precision=1.0, recall=0.4, f1=0.5714285714285715, support=5)
    """
    if n < 1:
        raise ValueError(f"rouge_n needs n of at least 1, got {n}")
    said, wanted = ngrams(tokenize_rouge(hypothesis), n), ngrams(tokenize_rouge(reference), n)
    return score((said & wanted).total(), said.total(), wanted.total())


def lcs_length(a: Sequence, b: Sequence) -> int:
    """Length of the longest common subsequence: items in both, in the same order, with gaps allowed.

    Row i of the table has at j the answer for a[:i] and b[:j]: one more than for both without their last item if
    these are equal, else the better of leaving out one of them. Only the row before is kept.

    >>> lcs_length("police killed the gunman".split(), "the gunman killed police".split())
    2
    """
    above = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
        above = row
    return above[-1]


def rouge_l(hypothesis: str, reference: str) -> Score:
    """ROUGE-L: the longest common subsequence of words, as a share of the hypothesis and of the reference.

    It rewards the order of words without asking them to be neighbours. The text is one sequence (rouge-score's
    "rougeL", not "rougeLsum", which goes line by line). Source: Lin 2004, section 3.1, with beta 1.

    >>> rouge_l("police kill the gunman", "police killed the gunman")
    Score(precision=0.75, recall=0.75, f1=0.75, support=4)
    """
    said, wanted = tokenize_rouge(hypothesis), tokenize_rouge(reference)
    return score(lcs_length(said, wanted), len(said), len(wanted))
