"""What encoder-decoders are pretrained to repair: T5's missing spans, and BART's five kinds of noise.

`rng` is a numpy generator (or a RandomState, where a reference has to be matched draw by draw).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Rng = np.random.Generator | np.random.RandomState


def random_segments(n_items: int, n_segments: int, rng: Rng) -> np.ndarray:
    """Cut n_items into n_segments pieces of at least 1, every way with equal probability: their lengths.

    >>> int(random_segments(10, 3, np.random.default_rng(0)).sum())
    10
    """
    if not 1 <= n_segments <= n_items:
        raise ValueError(f"{n_items} items cannot be cut into {n_segments} pieces of at least one")
    begins = np.arange(n_items - 1) < n_segments - 1
    rng.shuffle(begins)
    return np.diff(np.flatnonzero(np.concatenate([[True], begins, [True]])))


def t5_noise_mask(length: int, rng: Rng, density: float = 0.15, mean_span: float = 3.0) -> np.ndarray:
    """Which tokens T5 takes away: a mask (length,), true for noise, as the reference computes it.

    Counts are fixed by rounding: density * length tokens of noise in 1/mean_span as many spans; only where the spans
    lie is random. Spans alternate, beginning with text and so *ending with noise, always*; and a text of up to 30
    tokens has one span, which then is always the end (`noise_mask` mends both).
    Draw by draw the same as `random_spans_noise_mask` of google-research/text-to-text-transfer-transformer
    (t5/data/preprocessors.py) and of transformers' run_t5_mlm_flax.py.
    Raises ValueError for fewer than 2 tokens (one must stay and one must go), a density outside [0, 1), spans below 1.
    """
    _check(length, density, mean_span)
    n_noise, n_spans = _noise_counts(length, density, mean_span)
    noise = random_segments(n_noise, n_spans, rng)
    text = random_segments(length - n_noise, n_spans, rng)
    return _alternate(text, noise)


def _noise_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Tokens of noise and spans of `t5_noise_mask`, both at least 1."""
    n_noise = min(max(round(length * density), 1), length - 1)
    return n_noise, min(max(round(n_noise / mean_span), 1), length - n_noise)


def noise_mask(length: int, rng: Rng, density: float = 0.15, mean_span: float = 3.0) -> np.ndarray:
    """`t5_noise_mask` without its trap: a span may lie anywhere, also in a short text, and counts keep their mean.

    Numbers of tokens and spans are rounded up or down by chance, so that they are right on average; the text before
    the first span and after the last may be empty. (The very ends are still hidden less often than the middle: fewer
    spans reach them.) Raises as `t5_noise_mask` does.
    """
    _check(length, density, mean_span)
    n_noise = min(max(_round_by_chance(length * density, rng), 1), length - 1)
    n_text = length - n_noise
    n_spans = min(max(_round_by_chance(n_noise / mean_span, rng), 1), n_noise, n_text + 1)
    noise = random_segments(n_noise, n_spans, rng)
    text = random_segments(n_text + 2, n_spans + 1, rng)  # two more than there are: the outer ones may be empty
    text[0] -= 1
    text[-1] -= 1
    return _alternate(text, noise)


def hidden_share(make_mask: Callable[[int, Rng], np.ndarray], length: int, n_draws: int, rng: Rng) -> np.ndarray:
    """How often each of `length` tokens is hidden in n_draws masks: shares (length,), float64.

    make_mask   (length, rng) -> a mask (length,), true for noise; called n_draws times with the same rng, which goes on

    >>> hidden_share(t5_noise_mask, 4, 100, np.random.default_rng(0)).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    return np.mean([make_mask(length, rng) for _ in range(n_draws)], axis=0)


def _check(length: int, density: float, mean_span: float) -> None:
    if length < 2:
        raise ValueError(f"a text of {length} tokens cannot keep one and lose one")
    if not 0 <= density < 1:
        raise ValueError(f"density is a share of the tokens, at least 0 and below 1, got {density}")
    if mean_span < 1:
        raise ValueError(f"a span has at least 1 token, so mean_span cannot be {mean_span}")


def _round_by_chance(x: float, rng: Rng) -> int:
    return math.floor(x) + int(rng.random() < x - math.floor(x))


def _alternate(text: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Text, noise, text, noise, … of these lengths, as a mask of the noise."""
    lengths = np.zeros(len(text) + len(noise), dtype=int)
    lengths[::2], lengths[1::2] = text, noise
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def span_corruption(
    ids: Sequence[int], noise: Sequence[bool], sentinels: Sequence[int], end_id: int
) -> tuple[list[int], list[int]]:
    """T5's task: each span of noise becomes one sentinel in the text; the answer gives each sentinel with its span.

    sentinels   ids of <extra_id_0>, <extra_id_1>, …, one for each span, in order
    result      (inputs, targets), both closed by end_id

    Raises ValueError where there are more spans than sentinels, or a mask of another length than ids. Source: Raffel et
    al. 2020, section 3.1.4.

    >>> span_corruption([10, 11, 12, 13, 14], [False, True, True, False, True], sentinels=[99, 98], end_id=1)
    ([10, 99, 13, 98, 1], [99, 11, 12, 98, 14, 1])
    """
    if len(ids) != len(noise):
        raise ValueError(f"{len(ids)} tokens, but a mask for {len(noise)}")
    inputs, targets, n_spans, inside = [], [], 0, False
    for token, missing in zip(ids, noise, strict=True):
        if missing and not inside:
            if n_spans == len(sentinels):
                raise ValueError(f"more than {len(sentinels)} spans are missing, and each needs a sentinel of its own")
            inputs.append(sentinels[n_spans])
            targets.append(sentinels[n_spans])
            n_spans += 1
        (targets if missing else inputs).append(token)
        inside = bool(missing)
    return [*inputs, end_id], [*targets, end_id]


def repair_spans(inputs: Sequence[int], targets: Sequence[int], sentinels: Sequence[int], end_id: int) -> list[int]:
    """The way back from `span_corruption`: the text, each sentinel of `inputs` replaced by what `targets` give for it.

    Both are read up to their first end_id (what a model writes after it does not count). A sentinel without an answer
    leaves nothing; of two answers for one sentinel the last counts; tokens before the first sentinel of `targets` are
    no answer to anything. The result has no end_id.

    >>> repair_spans([10, 99, 13, 98, 1], [99, 11, 12, 98, 14, 1], sentinels=[99, 98], end_id=1)
    [10, 11, 12, 13, 14]
    """
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in targets:
        if token == end_id:
            break
        if token in sentinels:
            current = spans[token] = []
        else:
            current.append(token)
    text = []
    for token in inputs:
        if token == end_id:
            break
        text += spans.get(token, []) if token in sentinels else [token]
    return text


def span_corruption_lengths(length: int, density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """How long a text may be so that `t5_noise_mask` leaves it at most `length` tokens, and its targets' length.

    Both with the end token. Raises ValueError for a length below 3, which holds no token, sentinel and end.
    Source: `random_spans_helper` of T5 (t5/data/preprocessors.py), which forgets that a text of up to 9 tokens loses
    one as well.

    >>> span_corruption_lengths(512)
    (568, 114)
    """

    _check(2, density, mean_span)
    if length < 3:
        raise ValueError(f"a corrupted text has at least 3 tokens (a token, a sentinel, the end), not {length}")

    def lengths(n: int) -> tuple[int, int]:
        n_noise, n_spans = _noise_counts(n, density, mean_span)
        return n - n_noise + n_spans + 1, n_noise + n_spans + 1

    n = 2
    while lengths(n + 1)[0] <= length:
        n += 1
    inputs, targets = lengths(n)
    if density == 0.5 and targets > inputs:  # keeps the two equal, as the reference does
        n, targets = n - 1, targets - 1
    return n, targets


def infill(ids: Sequence[int], rng: Rng, mask_id: int, rate: float = 0.3, mean_span: float = 3.0) -> list[int]:
    """BART's text infilling: spans of Poisson length become one mask each; a span of length 0 adds a mask.

    rate of the tokens is taken away. The repaired text has to say how many were missing, sometimes none.
    Source: Lewis et al. 2019, section 2.2.
    """
    return replace_spans(ids, infill_spans(len(ids), rng, rate, mean_span), mask_id)


def infill_spans(length: int, rng: Rng, rate: float = 0.3, mean_span: float = 3.0) -> list[tuple[int, int]]:
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


def permute_sentences(sentences: Sequence[Sequence[int]], rng: Rng) -> list[int]:
    """BART's sentence permutation: all sentences, in a random order."""
    return [token for i in rng.permutation(len(sentences)) for token in sentences[i]]


def delete_tokens(ids: Sequence[int], rng: Rng, rate: float = 0.15) -> list[int]:
    """BART's token deletion: round(rate * n) tokens go without a trace, so that the model has to say where as well.

    Raises ValueError for a rate outside [0, 1].
    """
    gone = set(rng.permutation(len(ids))[: _share(rate, len(ids))].tolist())
    return [token for i, token in enumerate(ids) if i not in gone]


def _share(rate: float, length: int) -> int:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a share of the tokens, between 0 and 1, got {rate}")
    return round(rate * length)


def rotate(ids: Sequence[int], rng: Rng) -> list[int]:
    """BART's document rotation: begin at a random token, go round."""
    start = int(rng.integers(len(ids))) if len(ids) else 0
    return [*ids[start:], *ids[:start]]
