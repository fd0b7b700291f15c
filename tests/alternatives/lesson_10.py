"""Lesson 10: right answers written differently, and mutants that compute the same."""

import math

import torch
from torch.nn import functional as F

from llmkit.evaluation.spans import Span


def pool_in_a_loop(hidden, attention_mask=None):
    if attention_mask is None:
        attention_mask = torch.ones(hidden.shape[:2])
    rows = []
    for states, real in zip(hidden, attention_mask.bool(), strict=True):
        kept = states[real]
        rows.append(kept.mean(0) if len(kept) else 0 * states.sum(0))
    return torch.stack(rows)


def pool_with_masked_fill(hidden, attention_mask=None):
    if attention_mask is None:
        return torch.mean(hidden, dim=1)
    real = attention_mask.bool().unsqueeze(-1)
    total = hidden.masked_fill(~real, 0.0).sum(dim=1)
    return total / real.sum(dim=1).clamp_min(1)


def pool_by_product(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.sum(1) / hidden.shape[1]
    share = attention_mask.to(hidden.dtype)
    share = share / torch.maximum(share.sum(1, keepdim=True), torch.ones((), dtype=hidden.dtype))
    return torch.einsum("btc,bt->bc", hidden, share)


def _refuse(logits, labels, low, high):
    if low <= 0 or high <= low or len(labels) == 0 or len(labels) != len(logits):
        raise ValueError("cannot fit")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError("labels")


def temperature_on_a_grid(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    n = 3000
    grid = [math.exp(math.log(low) + i * (math.log(high) - math.log(low)) / n) for i in range(n + 1)]
    return min(grid, key=lambda T: F.cross_entropy(logits.double() / T, labels).item())


def temperature_by_thirds(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    z = logits.double()

    def loss(T):
        return -(z / T).log_softmax(-1)[torch.arange(len(labels)), labels].mean().item()

    a, b = low, high
    while b - a > 1e-6:
        one, two = a + (b - a) / 3, b - (b - a) / 3
        if loss(one) <= loss(two):
            b = two
        else:
            a = one
    return (a + b) / 2


def temperature_by_the_slope(logits, labels, low=0.05, high=20.0):
    """The loss is convex in 1 / T, so its slope changes sign once: halve the interval there."""
    _refuse(logits, labels, low, high)
    z = logits.double()
    right = z.gather(1, labels[:, None]).squeeze(1)

    def slope(beta):
        return ((z * beta).softmax(1) * z).sum(1).sub(right).mean().item()

    a, b = 1 / high, 1 / low
    for _ in range(80):
        middle = (a + b) / 2
        if slope(middle) > 0:
            b = middle
        else:
            a = middle
    return torch.tensor(2 / (a + b))


def align_with_enumerate(labels, words):
    aligned = [-100] * len(words)
    for i, word in enumerate(words):
        if word is None:
            continue
        if word < 0 or word >= len(labels):
            raise ValueError(f"word {word} has no label")
        if i == 0 or words[i - 1] != word:
            aligned[i] = labels[word]
    return aligned


def align_with_zip(labels, words):
    numbers = range(len(labels))
    if any(word is not None and word not in numbers for word in words):
        raise ValueError("no label")
    return [
        labels[word] if word is not None and word != before else -100
        for word, before in zip(words, [None, *words], strict=False)
    ]


def align_with_groups(labels, words):
    from itertools import groupby

    aligned = []
    for word, group in groupby(words):
        n = len(list(group))
        if word is None:
            aligned += n * [-100]
        elif 0 <= word < len(labels):
            aligned += [labels[word]] + (n - 1) * [-100]
        else:
            raise ValueError("no label")
    return tuple(aligned)


def _type(tag):
    if tag == "O":
        return None
    if tag[:2] not in ("B-", "I-") or len(tag) < 3:
        raise ValueError(tag)
    return tag[2:]


def spans_by_lists(tags, strict=False):
    types = [_type(tag) for tag in tags]
    spans, open_span = [], None
    for i, tag in enumerate(tags):
        if tag == "O":
            open_span = None
        elif tag.startswith("I") and open_span is not None and open_span[2] == types[i]:
            open_span[1] = i + 1
        elif tag.startswith("B") or not strict:
            open_span = [i, i + 1, types[i]]
            spans.append(open_span)
        else:
            open_span = None
    return [Span(*span) for span in spans]


def spans_by_looking_ahead(tags, strict=False):
    kinds = [_type(tag) for tag in tags]
    spans, i = [], 0
    while i < len(tags):
        begins = tags[i][0] == "B" or (tags[i][0] == "I" and not strict)
        if not begins:
            i += 1
            continue
        j = i + 1
        while j < len(tags) and tags[j] == f"I-{kinds[i]}":
            j += 1
        spans.append(Span(i, j, kinds[i]))
        i = j
    return spans


def spans_by_ends(tags, strict=False):
    kinds = [_type(tag) for tag in tags] + [None]
    tags = [*tags, "O"]
    found, start = [], None
    for i in range(len(tags)):
        goes_on = start is not None and tags[i][0] == "I" and kinds[i] == kinds[i - 1]
        if start is not None and not goes_on:
            found.append(Span(start, i, kinds[start]))
            start = None
        if start is None and tags[i] != "O" and (tags[i][0] == "B" or not strict):
            start = i
    return found


RIGHT = {
    "mean_pool": [pool_in_a_loop, pool_with_masked_fill, pool_by_product],
    "fit_temperature": [temperature_on_a_grid, temperature_by_thirds, temperature_by_the_slope],
    "align_labels": [align_with_enumerate, align_with_zip, align_with_groups],
    "bio_spans": [spans_by_lists, spans_by_looking_ahead, spans_by_ends],
}
ROUNDS = "one round more or less of sixty does not show"
EQUIVALENT = {
    "fit_temperature": {
        "60  ->  61": ROUNDS,
        "60  ->  59": ROUNDS,
        "5  ->  6": "the inner points lie a little elsewhere, and the search ends at the same place",
        "0 < low < high  ->  LtE": "a low of 0 raises the ValueError of its logarithm",
        "0  ->  -1": "a low of 0 or below raises the ValueError of its logarithm",
        "'logits'  ->  'logitsx'": "only the words of an error",
        "dropped: logits, labels = (logits.detach().cpu().double(), labels.cpu().long())": "float32 does for 1%",
    },
    "bio_spans": {
        "0  ->  1": "where a span began is set before it is used",
        "0  ->  -1": "where a span began is set before it is used",
    },
}
