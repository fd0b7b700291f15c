"""chrF: F-score of shared letter n-grams. No tokenizer, and a word with another ending still counts in part."""

from collections.abc import Sequence

import numpy as np

from llmkit.evaluation.overlap import check_corpus, check_text, ngrams

MAX_N = 6
BETA = 2  # recall counts beta times as much as precision


def chrf_counts(hypothesis: str, references: Sequence[str]) -> np.ndarray:
    """What corpus chrF needs to know of one text, (6, 3): n-grams of the hypothesis, of the reference, of both.

    Of several references the one that gives this text the best chrF, of equals the first. White space is taken
    out first. Where the reference has no n-grams (too short), the hypothesis' do not count either.

    >>> chrf_counts("ab c", ["abd"])[:3]
    array([[3, 3, 2],
           [2, 2, 1],
           [1, 1, 0]])
    """
    check_text(hypothesis, references, str)
    rows = [_counts(hypothesis, reference) for reference in references]
    return max(rows, key=chrf_from_counts)


def _counts(hypothesis: str, reference: str) -> np.ndarray:
    h, r = "".join(hypothesis.split()), "".join(reference.split())
    rows = []
    for n in range(1, MAX_N + 1):
        said, wanted = ngrams(h, n), ngrams(r, n)
        rows.append((said.total() if wanted else 0, wanted.total(), (said & wanted).total()))
    return np.array(rows)


def chrf_from_counts(counts: np.ndarray) -> float:
    """chrF2 in percent from (6, 3) counts of `chrf_counts`, of one text or added up over many.

    Precision and recall are averaged over those n for which both sides have n-grams; then
    F = (1 + beta²) P R / (beta² P + R) with beta 2. 0 where nothing matches.
    Source: Popović 2015 (chrF); 2016 for beta 2; sacrebleu's average over n.

    >>> round(chrf_from_counts([[4, 2, 2], [3, 1, 1], [2, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]), 4)   # P 5/12, R 1
    78.125
    """
    precision = recall = 0.0
    n_orders = 0
    for n_hypothesis, n_reference, n_both in np.asarray(counts).tolist():
        if n_hypothesis and n_reference:
            precision += n_both / n_hypothesis
            recall += n_both / n_reference
            n_orders += 1
    if not precision:
        return 0.0
    precision, recall = precision / n_orders, recall / n_orders
    return 100 * ((1 + BETA**2) * precision * recall / (BETA**2 * precision + recall))


def chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2, 0 to 100; of one sentence: chrf([hypothesis], [[reference]]).

    hypotheses  texts
    references  for each of them its list of references

    Counts are added up over texts before dividing, as in BLEU. Raises ValueError as `check_corpus` does.

    >>> round(chrf(["the cats"], [["the cat"]]), 1)
    93.3
    """
    check_corpus(hypotheses, references, str)
    rows = [chrf_counts(h, refs) for h, refs in zip(hypotheses, references, strict=True)]
    return chrf_from_counts(np.sum(rows, axis=0))
