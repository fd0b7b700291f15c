"""What T5 is pretrained to repair: texts with missing spans. BART's noise is in bart_noise.py.

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
