"""What BART is pretrained to repair: five kinds of noise. T5's span corruption is in span_corruption.py."""

from collections.abc import Sequence

import numpy as np


def infill(
    ids: Sequence[int], rng: np.random.Generator, mask_id: int, rate: float = 0.3, mean_span: float = 3.0
) -> list[int]:
    """BART's text infilling: spans of Poisson length become one mask each; a span of length 0 adds a mask.

    rate of the tokens is taken away. The repaired text has to say how many were missing, sometimes none.
    Source: Lewis et al. 2019, section 2.2.
    """
    return replace_spans(ids, infill_spans(len(ids), rng, rate, mean_span), mask_id)


def infill_spans(
    length: int, rng: np.random.Generator, rate: float = 0.3, mean_span: float = 3.0
) -> list[tuple[int, int]]:
    """Which spans infilling takes from a text of `length` tokens: (first token, number of tokens), in order.

    Numbers are drawn from Poisson(mean_span) until round(rate * length) tokens are gone (the last one is cut), then
    the places: before, between and after the tokens that stay. Raises ValueError for a rate outside [0, 1] and for a
    mean_span that is not above 0.

    >>> sum(n for _, n in infill_spans(20, np.random.default_rng(0)))
    6
    """
    n_gone, sizes = _share(rate, length), []
    if mean_span <= 0:
        raise ValueError(f"mean_span must be above 0, got {mean_span}: spans of 0 tokens take nothing away")
    while sum(sizes) < n_gone:
        sizes.append(min(int(rng.poisson(mean_span)), n_gone - sum(sizes)))
    if not sizes:
        return []
    places = np.sort(rng.integers(length - n_gone + 1, size=len(sizes)))  # how many of the kept tokens stand before
    gone_before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return [(int(start), size) for start, size in zip(places + gone_before, sizes, strict=True)]


def replace_spans(ids: Sequence[int], spans: Sequence[tuple[int, int]], mask_id: int) -> list[int]:
    """A text in which each span (first token, number of tokens) has become one mask_id.

    spans   in order and without overlap; a span of 0 tokens takes nothing away and puts a mask before its first token

    Raises ValueError for spans that overlap, are out of order, or reach beyond the text.

    >>> replace_spans([10, 11, 12, 13, 14], [(1, 2), (4, 0)], mask_id=99)
    [10, 99, 13, 99, 14]
    """
    out, end = [], 0
    for start, size in spans:
        if start < end or start + size > len(ids):
            raise ValueError(f"the span ({start}, {size}) begins before {end} or ends after {len(ids)}")
        out += [*ids[end:start], mask_id]
        end = start + size
    return [*out, *ids[end:]]


def permute_sentences(sentences: Sequence[Sequence[int]], rng: np.random.Generator) -> list[int]:
    """BART's sentence permutation: all sentences, in a random order."""
    return [token for i in rng.permutation(len(sentences)) for token in sentences[i]]


def delete_tokens(ids: Sequence[int], rng: np.random.Generator, rate: float = 0.15) -> list[int]:
    """BART's token deletion: round(rate * n) tokens go without a trace, so that the model has to say where as well.

    Raises ValueError for a rate outside [0, 1].
    """
    gone = set(rng.permutation(len(ids))[: _share(rate, len(ids))].tolist())
    return [token for i, token in enumerate(ids) if i not in gone]


def _share(rate: float, length: int) -> int:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a share of the tokens, between 0 and 1, got {rate}")
    return round(rate * length)


def rotate(ids: Sequence[int], rng: np.random.Generator) -> list[int]:
    """BART's document rotation: begin at a random token, go round."""
    start = int(rng.integers(len(ids))) if len(ids) else 0
    return [*ids[start:], *ids[:start]]
