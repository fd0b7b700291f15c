"""Lesson 11: cross-attention, span corruption and its trap, infilling, what the decoder reads."""

import numpy as np
import torch
from torch.nn import functional as F

from llmkit.course.exercise import Case, Exercise
from llmkit.data.bart_noise import replace_spans
from llmkit.data.span_corruption import noise_mask, repair_spans, span_corruption, t5_noise_mask
from llmkit.training.losses import IGNORE, shift_right

# --- 11.1 shapes, by hand ---


def shapes() -> list:
    return [[2, 3, 4, 7], [2, 3, 7, 16]]


# --- 11.2 span corruption, by hand ---


def by_hand() -> list[str]:
    return ["The <X> on the <Y> .", "<X> cat sat <Y> mat"]


# --- 11.3 span_corruption ---

SENTINELS = [99, 98, 97, 96]


def corruption_cases() -> list[Case]:
    def case(noise, seed=None, sentinels=SENTINELS, end_id=1):
        n = len(noise)
        ids = list(range(10, 10 + n)) if seed is None else np.random.default_rng(seed).integers(10, 60, n).tolist()
        return ids, [bool(int(c)) for c in noise], list(sentinels), end_id

    def drawn(length, seed):
        rng = np.random.default_rng(seed)
        return rng.integers(10, 60, length).tolist(), noise_mask(length, rng), list(range(999, 900, -1)), 1

    return [
        Case("one token is missing", lambda: case("010")),
        Case("a span of two", lambda: case("0110")),
        Case("two spans", lambda: case("01101")),
        Case("the first token is missing", lambda: case("1001")),
        Case("three spans, one at each end", lambda: case("11010011", seed=0)),
        Case("nothing is missing", lambda: case("000")),
        Case("everything is missing", lambda: case("111")),
        Case("other sentinels, another end", lambda: case("010110", sentinels=[7, 5, 3], end_id=2)),
        Case("the same token inside and outside", lambda: ([5, 5, 5, 5], [False, True, False, True], [99, 98], 1)),
        Case("no tokens at all", lambda: ([], [], [99], 1)),
        Case("as many spans as sentinels", lambda: case("10101", sentinels=[99, 98, 97])),
        Case("more spans than sentinels is refused", lambda: case("10101", sentinels=[99, 98])),
        Case("a mask of another length is refused", lambda: ([10, 11, 12], [False, True], [99], 1)),
        *(Case(f"{n} tokens, a mask from noise_mask", lambda n=n: drawn(n, n)) for n in (20, 64, 90)),
    ]


def _corrupt(ids, noise, sentinels, end_id, *, each=False, same=False, in_targets=True, ends=(True, True),
             last=False, keep=False, late=False, refuse=True):  # fmt: skip
    """span_corruption with one choice made wrongly."""
    if refuse and len(ids) != len(noise):
        raise ValueError("length")
    inputs, targets, n, inside = [], [], 0, False
    for token, missing in zip(ids, noise, strict=False):
        if missing and (each or not inside):
            if refuse and n == len(sentinels):
                raise ValueError("sentinels")
            sentinel = sentinels[0 if same else min(n, len(sentinels) - 1)]
            inputs.append(sentinel)
            if in_targets and not late:
                targets.append(sentinel)
            n += 1
        if late and inside and not missing:
            targets.append(sentinels[n - 1])
        if missing or keep:
            targets.append(token)
        if not missing:
            inputs.append(token)
        inside = bool(missing)
    if late and inside:
        targets.append(sentinels[n - 1])
    if last:
        targets.append(sentinels[min(n, len(sentinels) - 1)])
    return inputs + [end_id] * ends[0], targets + [end_id] * ends[1]


def corruption_each_token(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, each=True)


def corruption_one_sentinel(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, same=True)


def corruption_bare_targets(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, in_targets=False)


def corruption_no_ends(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, ends=(False, False))


def corruption_targets_end_only(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, ends=(False, True))


def corruption_inputs_end_only(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, ends=(True, False))


def corruption_plain_text(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id)[0], [*ids, end_id]


def corruption_runs_out(ids, noise, sentinels, end_id):
    if len(ids) != len(noise):
        raise ValueError("length")
    left = iter(sentinels)
    begins = [i for i, missing in enumerate(noise) if missing and not (i and noise[i - 1])]
    try:
        return span_corruption(ids, noise, [next(left) for _ in begins], end_id)
    except StopIteration as error:
        raise IndexError("list index out of range") from error


def corruption_last_sentinel(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, last=True)


def corruption_whole_text(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, keep=True)


def corruption_sentinel_after(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, late=True)


def corruption_never_refuses(ids, noise, sentinels, end_id):
    return _corrupt(ids, noise, sentinels, end_id, refuse=False)


def corruption_swapped(ids, noise, sentinels, end_id):
    return span_corruption(ids, noise, sentinels, end_id)[::-1]


# --- 11.4 the longest text with one span, by hand ---


def longest() -> int:
    def n_spans(length: int) -> int:
        return max(round(round(0.15 * length) / 3), 1)

    return max(length for length in range(2, 100) if n_spans(length) == 1)


# --- 11.5 hidden_share ---


def _fixed(length, rng):
    return np.arange(length) % 3 == 0


def _one_place(length, rng):
    return np.arange(length) == rng.integers(length)


def share_cases() -> list[Case]:
    def case(make, length, n, seed=0):
        return make, length, n, np.random.default_rng(seed)

    return [
        Case("one draw of a mask that is always the same", lambda: case(_fixed, 5, 1)),
        Case("ten draws of it", lambda: case(_fixed, 7, 10)),
        Case("one random token of four, 50 draws", lambda: case(_one_place, 4, 50)),
        Case("t5_noise_mask, 20 tokens", lambda: case(t5_noise_mask, 20, 30, 1)),
        Case("t5_noise_mask, 64 tokens", lambda: case(t5_noise_mask, 64, 40, 2)),
        Case("noise_mask, 16 tokens", lambda: case(noise_mask, 16, 200, 3)),
        Case("noise_mask, 40 tokens", lambda: case(noise_mask, 40, 25, 4)),
    ]


def share_as_counts(make_mask, length, n_draws, rng):
    return np.sum([make_mask(length, rng) for _ in range(n_draws)], axis=0).astype(float)


def share_as_whole_counts(make_mask, length, n_draws, rng):
    return np.sum([make_mask(length, rng) for _ in range(n_draws)], axis=0)


def share_of_any(make_mask, length, n_draws, rng):
    return np.any([make_mask(length, rng) for _ in range(n_draws)], axis=0)


def share_as_list(make_mask, length, n_draws, rng):
    return np.mean([make_mask(length, rng) for _ in range(n_draws)], axis=0).tolist()


def share_by_length(make_mask, length, n_draws, rng):
    return np.sum([make_mask(length, rng) for _ in range(n_draws)], axis=0) / length


def share_of_each_mask(make_mask, length, n_draws, rng):
    return np.mean([make_mask(length, rng) for _ in range(n_draws)], axis=1)


def share_of_everything(make_mask, length, n_draws, rng):
    return float(np.mean([make_mask(length, rng) for _ in range(n_draws)]))


def share_of_one_draw(make_mask, length, n_draws, rng):
    return make_mask(length, rng).astype(float)


def share_with_the_same_rng(make_mask, length, n_draws, rng):
    return np.mean([make_mask(length, np.random.default_rng(0)) for _ in range(n_draws)], axis=0)


def share_that_stays(make_mask, length, n_draws, rng):
    return 1 - np.mean([make_mask(length, rng) for _ in range(n_draws)], axis=0)


# --- 11.6 replace_spans ---


def replace_cases() -> list[Case]:
    def case(n, *spans, mask_id=99):
        return list(range(10, 10 + n)), list(spans), mask_id

    return [
        Case("one span of two", lambda: case(5, (1, 2))),
        Case("nothing is taken", lambda: case(4)),
        Case("a span of none adds a mask", lambda: case(4, (2, 0))),
        Case("two spans", lambda: case(8, (1, 2), (5, 1))),
        Case("at both ends", lambda: case(6, (0, 2), (4, 2))),
        Case("none before the first and none after the last", lambda: case(3, (0, 0), (3, 0))),
        Case("two that touch: two masks", lambda: case(6, (1, 2), (3, 2))),
        Case("one of none, then one of two, at the same place", lambda: case(6, (2, 0), (2, 2))),
        Case("all of it", lambda: case(3, (0, 3))),
        Case("no tokens", lambda: case(0)),
        Case("no tokens, one mask", lambda: case(0, (0, 0), mask_id=7)),
        Case("spans that overlap are refused", lambda: case(6, (1, 3), (2, 1))),
        Case("spans out of order are refused", lambda: case(6, (4, 1), (1, 1))),
        Case("a span beyond the end is refused", lambda: case(4, (3, 2))),
        Case("a span that ends at the end", lambda: case(4, (3, 1))),
        Case("one that begins one too early is refused", lambda: case(6, (1, 3), (3, 2))),
    ]


def _replaced(ids, spans, mask_id, *, masks=lambda size: 1, skip_empty=False, merge=False, refuse=True, moved=False):
    """replace_spans with one choice made wrongly."""
    if refuse:
        replace_spans(ids, spans, mask_id)
    out, end = [], 0
    for start, size in spans:
        out += ids[end:start]
        touching = merge and out and out[-1] == mask_id and end == start
        if not (skip_empty and size == 0) and not touching:
            out += [mask_id] * masks(size)
        end = start + size
    return [*out, *ids[end:]]


def replace_each_token(ids, spans, mask_id):
    return _replaced(ids, spans, mask_id, masks=lambda size: size)


def replace_at_least_one_each(ids, spans, mask_id):
    return _replaced(ids, spans, mask_id, masks=lambda size: max(size, 1))


def replace_skips_empty(ids, spans, mask_id):
    return _replaced(ids, spans, mask_id, skip_empty=True)


def replace_merges(ids, spans, mask_id):
    return _replaced(ids, spans, mask_id, merge=True)


def replace_never_refuses(ids, spans, mask_id):
    return _replaced(ids, spans, mask_id, refuse=False)


def replace_in_place(ids, spans, mask_id):
    replace_spans(ids, spans, mask_id)
    out = list(ids)
    for start, size in spans:  # the places of later spans have moved
        out[start : start + size] = [mask_id]
    return out


def replace_in_place_and_takes_all(ids, spans, mask_id):
    out = list(ids)
    for start, size in spans:
        out[start : start + size] = [mask_id]
    return out


def replace_end_as_size(ids, spans, mask_id):
    replace_spans(ids, spans, mask_id)
    out, end = [], 0
    for start, last in spans:
        out += [*ids[end:start], mask_id]
        end = last
    return [*out, *ids[end:]]


def replace_loses_one(ids, spans, mask_id):
    replace_spans(ids, spans, mask_id)
    out, end = [], 0
    for start, size in spans:
        out += [*ids[end:start], mask_id]
        end = start + max(size, 1)
    return [*out, *ids[end:]]


def replace_refuses_touching(ids, spans, mask_id):
    if any(start + size >= following for (start, size), (following, _) in zip(spans, spans[1:], strict=False)):
        raise ValueError("spans")
    return replace_spans(ids, spans, mask_id)


def replace_refuses_the_end(ids, spans, mask_id):
    if any(start >= len(ids) for start, _ in spans):
        raise ValueError("spans")
    return replace_spans(ids, spans, mask_id)


def replace_without_rest(ids, spans, mask_id):
    replace_spans(ids, spans, mask_id)
    out, end = [], 0
    for start, size in spans:
        out += [*ids[end:start], mask_id]
        end = start + size
    return out


# --- 11.7 shift_right (find the bug) ---


def shift_cases() -> list[Case]:
    def labels(*rows):
        return torch.tensor(rows)

    def drawn(B, T, seed):
        return torch.randint(3, 50, (B, T), generator=torch.Generator().manual_seed(seed))

    return [
        Case("one answer of three tokens", lambda: (labels([5, 6, 1]), 0, 0)),
        Case("BART's start and padding", lambda: (labels([5, 6, 2]), 2, 1)),
        Case("one token", lambda: (labels([7]), 2, 1)),
        Case("padding in the labels", lambda: (labels([5, 6, 1, -100], [8, 1, -100, -100]), 2, 0)),
        Case("the last label is padding", lambda: (labels([5, 1, -100]), 0, 3)),
        Case("three answers of five", lambda: (drawn(3, 5, 0), 2, 1)),
        Case("two answers of seven, one padded", lambda: (drawn(2, 7, 1).index_fill(1, torch.tensor([5, 6]), IGNORE), 4, 6)),
        Case("the padding id stands in the text too", lambda: (labels([3, 0, 5, 1]), 2, 0)),
        Case("a label -100 in the middle", lambda: (labels([3, -100, 5, 1]), 2, 9)),
    ]  # fmt: skip


def not_shifted(labels, start_id, pad_id):
    ids = labels.masked_fill(labels == IGNORE, pad_id)
    return ids


def shifted_left(labels, start_id, pad_id):
    ids = labels.masked_fill(labels == IGNORE, pad_id)
    return F.pad(ids[:, 1:], (0, 1), value=pad_id)


def shifted_and_longer(labels, start_id, pad_id):
    return F.pad(labels.masked_fill(labels == IGNORE, pad_id), (1, 0), value=start_id)


def shifted_with_minus_hundred(labels, start_id, pad_id):
    return F.pad(labels[:, :-1], (1, 0), value=start_id)


def shifted_from_padding(labels, start_id, pad_id):
    return shift_right(labels, pad_id, pad_id)


def shifted_padded_with_start(labels, start_id, pad_id):
    return shift_right(labels, start_id, start_id)


def shifted_over_the_first(labels, start_id, pad_id):
    ids = labels.masked_fill(labels == IGNORE, pad_id)
    ids[:, 0] = start_id
    return ids


def shifted_round(labels, start_id, pad_id):
    return labels.masked_fill(labels == IGNORE, pad_id).roll(1, dims=1)


def shifted_padded_by_labels(labels, start_id, pad_id):
    return shift_right(labels, start_id, pad_id).masked_fill(labels == IGNORE, pad_id)


def shifted_in_place(labels, start_id, pad_id):
    labels[labels == IGNORE] = pad_id
    return shift_right(labels, start_id, pad_id)


# --- 11.8 repair_spans ---


def repair_cases() -> list[Case]:
    def drawn(length, seed):
        rng = np.random.default_rng(seed)
        sentinels = list(range(999, 900, -1))
        ids = rng.integers(10, 60, length).tolist()
        return *span_corruption(ids, noise_mask(length, rng), sentinels, 1), sentinels, 1

    return [
        Case("one span", lambda: ([10, 99, 12, 1], [99, 11, 1], [99, 98], 1)),
        Case("two spans", lambda: ([10, 99, 13, 98, 1], [99, 11, 12, 98, 14, 1], [99, 98], 1)),
        Case("nothing is missing", lambda: ([10, 11, 1], [1], [99, 98], 1)),
        Case("answers in another order", lambda: ([99, 12, 98, 1], [98, 13, 99, 10, 11, 1], [99, 98], 1)),
        Case("a sentinel without an answer", lambda: ([10, 99, 12, 98, 1], [98, 13, 1], [99, 98], 1)),
        Case("an empty answer", lambda: ([10, 99, 12, 98, 1], [99, 98, 13, 1], [99, 98], 1)),
        Case("words before the first sentinel", lambda: ([10, 99, 12, 1], [7, 8, 99, 11, 1], [99, 98], 1)),
        Case("the answer goes on after its end", lambda: ([10, 99, 12, 98, 1], [99, 11, 1, 98, 5], [99, 98], 1)),
        Case("the text goes on after its end", lambda: ([10, 99, 1, 98, 12], [99, 11, 98, 5, 1], [99, 98], 1)),
        Case("no end at all", lambda: ([10, 99, 12], [99, 11, 5], [99, 98], 1)),
        Case("two answers for one sentinel", lambda: ([10, 99, 12, 1], [99, 11, 99, 5, 6, 1], [99, 98], 1)),
        Case("an answer for a sentinel that the text lacks", lambda: ([10, 99, 1], [99, 11, 98, 5, 1], [99, 98], 1)),
        Case("another end", lambda: ([10, 99, 1, 2], [99, 1, 11, 2], [99, 98], 2)),
        *(Case(f"{n} tokens, from span_corruption", lambda n=n: drawn(n, n)) for n in (20, 64)),
    ]


def _repaired(inputs, targets, sentinels, end_id, *, by_order=False, keep=False, stop=True, end=False, add=False):
    """repair_spans with one choice made wrongly."""
    spans, order, current = {}, [], []
    for token in targets:
        if stop and token == end_id:
            break
        if token in sentinels:
            if not (add and token in spans):
                spans[token] = []
                order.append(token)
            current = spans[token]
        elif token != end_id:
            current.append(token)
    text, n = [], 0
    for token in inputs:
        if token == end_id:
            break
        if token in sentinels:
            name = order[n] if by_order and n < len(order) else token
            text += [token] * keep + spans.get(name, [])
            n += 1
        else:
            text.append(token)
    return text + [end_id] * end


def repair_by_order(inputs, targets, sentinels, end_id):
    return _repaired(inputs, targets, sentinels, end_id, by_order=True)


def repair_keeps_sentinels(inputs, targets, sentinels, end_id):
    return _repaired(inputs, targets, sentinels, end_id, keep=True)


def repair_reads_on(inputs, targets, sentinels, end_id):
    return _repaired(inputs, targets, sentinels, end_id, stop=False)


def repair_with_end(inputs, targets, sentinels, end_id):
    return _repaired(inputs, targets, sentinels, end_id, end=True)


def repair_adds_up(inputs, targets, sentinels, end_id):
    return _repaired(inputs, targets, sentinels, end_id, add=True)


def repair_only_the_answer(inputs, targets, sentinels, end_id):
    return [token for token in targets if token not in sentinels and token != end_id]


def repair_keeps_the_first(inputs, targets, sentinels, end_id):
    seen, kept, writing = set(), [], True
    for token in targets:
        if token == end_id:
            break
        if token in sentinels:
            writing = token not in seen
            seen.add(token)
        kept += [token] * writing
    return repair_spans(inputs, kept, sentinels, end_id)


def repair_with_ends_inside(inputs, targets, sentinels, end_id):
    spans, current = {}, []
    for token in targets:
        if token in sentinels:
            current = spans[token] = []
        else:
            current.append(token)
    text = inputs[: inputs.index(end_id)] if end_id in inputs else inputs
    return [t for token in text for t in (spans.get(token, []) if token in sentinels else [token])]


def repair_wants_all_answers(inputs, targets, sentinels, end_id):
    stop = targets.index(end_id) if end_id in targets else len(targets)
    text = inputs[: inputs.index(end_id)] if end_id in inputs else inputs
    for token in text:
        if token in sentinels and token not in targets[:stop]:
            raise KeyError(token)
    return repair_spans(inputs, targets, sentinels, end_id)


def repair_unknown_stays(inputs, targets, sentinels, end_id):
    answered = repair_spans(sentinels, targets, [], end_id) and {t for t in targets if t in sentinels}
    kept = [t for t in sentinels if t not in (answered or set())]
    inner = [t for t in sentinels if t not in kept]
    return repair_spans(inputs, targets, inner, end_id)


EXERCISES = [
    Exercise(
        number="11.1",
        name="shapes",
        reference=shapes,
        hints=(
            "One weight for each text, each head, each query and each key. Who asks here, and who is asked?",
            "Queries come from the answer so far, keys and values from the text that was read.",
            "A head has d_model / n_heads numbers. The kept keys have no axis for the answer's tokens.",
        ),
        wrong={
            "queries and keys are exchanged: the answer asks, the text is asked": lambda: [[2, 3, 7, 4], [2, 3, 4, 16]],
            "you have let the answer look at itself; here it looks at the text": lambda: [[2, 3, 4, 4], [2, 3, 4, 16]],
            "these are the weights of the encoder: the text looking at itself": lambda: [[2, 3, 7, 7], [2, 3, 7, 16]],
            "the keys are right; but the answer asks and the text is asked, so there are 4 rows of 7 weights": lambda: [
                [2, 3, 7, 4],
                [2, 3, 7, 16],
            ],
            "the keys are right; but the answer looks at the text, so there are 7 weights in each of the 4 rows": lambda: [
                [2, 3, 4, 4],
                [2, 3, 7, 16],
            ],
            "the weights are right; split_heads puts the heads in front of the tokens": lambda: [
                [2, 3, 4, 7],
                [2, 7, 3, 16],
            ],
            "the keys still have all 48 numbers in each head; the heads share them": lambda: [
                [2, 3, 4, 7],
                [2, 3, 7, 48],
            ],
            "the weights are right; the keys belong to the text's tokens, not the answer's": lambda: [
                [2, 3, 4, 7],
                [2, 3, 4, 16],
            ],
            "the heads are missing: each has weights and keys of its own": lambda: [[2, 4, 7], [2, 7, 48]],
            "the weights are right; after split_heads the keys are in heads of 16 numbers": lambda: [
                [2, 3, 4, 7],
                [2, 7, 48],
            ],
            "the weights are right; the keys are not turned over yet: a row for each token of the text": lambda: [
                [2, 3, 4, 7],
                [2, 3, 16, 7],
            ],
            "the axis of the two texts is missing, in front": lambda: [[3, 4, 7], [3, 7, 16]],
        },
    ),
    Exercise(
        number="11.2",
        name="by_hand",
        reference=by_hand,
        hints=(
            "In the input each missing *span* leaves one sentinel; <X> stands for two words here.",
            "The target says each sentinel, and after it the words that it stands for.",
        ),
        wrong={
            "one sentinel for each span, not for each word: 'cat sat' is one span": lambda: [
                "The <X> <Y> on the <Z> .",
                "<X> cat <Y> sat <Z> mat",
            ],
            "the target must say which words belong to which sentinel": lambda: ["The <X> on the <Y> .", "cat sat mat"],
            "each span needs a sentinel of its own": lambda: ["The <X> on the <X> .", "<X> cat sat <X> mat"],
            "the target has only what is missing; writing the whole text is BART's way": lambda: [
                "The <X> on the <Y> .",
                "The cat sat on the mat .",
            ],
            "input and target are exchanged": lambda: ["<X> cat sat <Y> mat", "The <X> on the <Y> ."],
            "without end tokens, please": lambda: ["The <X> on the <Y> . </s>", "<X> cat sat <Y> mat </s>"],
            "no sentinel closes the target here; there are two spans and two sentinels": lambda: [
                "The <X> on the <Y> .",
                "<X> cat sat <Y> mat <Z>",
            ],
            "one space between any two tokens: the full stop is a token too": lambda: [
                "The <X> on the <Y>.",
                "<X> cat sat <Y> mat",
            ],
            "the sentinels must stay in the input: where something is missing is told to the model": lambda: [
                "The on the .",
                "<X> cat sat <Y> mat",
            ],
        },  # fmt: skip
    ),
    Exercise(
        number="11.3",
        name="span_corruption",
        reference="llmkit.data.span_corruption:span_corruption",
        cases=corruption_cases,
        hints=(
            "Walk through tokens and mask together. A token that stays goes to the inputs, one that is missing to the "
            "targets.",
            "Remember whether the token before was missing. A sentinel is written only where a span begins, to both "
            "lists.",
            "Count the spans: the count is the index of the next sentinel, and tells when there are too few.",
        ),
        wrong={
            "every missing token gets a sentinel; a span gets one, at its first token": corruption_each_token,
            "all spans have the same sentinel; each needs the next one": corruption_one_sentinel,
            "the targets lack the sentinels, so nobody can tell which words belong where": corruption_bare_targets,
            "the end token is missing: both lists are closed by end_id": corruption_no_ends,
            "the inputs are not closed by end_id; both lists are": corruption_targets_end_only,
            "the targets are not closed by end_id; both lists are": corruption_inputs_end_only,
            "the targets have one sentinel more at their end (as the paper's figure has); here end_id closes them": corruption_last_sentinel,
            "the tokens that stay are in the targets as well; they hold only what is missing": corruption_whole_text,
            "the targets are the whole text (BART's way); T5's hold each sentinel and what is missing": corruption_plain_text,
            "too few sentinels should raise ValueError, not IndexError: compare their number with the spans first": corruption_runs_out,
            "in the targets a sentinel stands before its span, not after it": corruption_sentinel_after,
            "more spans than sentinels, and a mask of another length, should raise ValueError": corruption_never_refuses,
            "the pair is (inputs, targets), in this order": corruption_swapped,
        },
    ),
    Exercise(
        number="11.4",
        name="longest",
        reference=longest,
        hints=(
            "There is one span as long as n_noise / 3 rounds to 1. Which n_noise are these?",
            "4 / 3 rounds to 1, 5 / 3 rounds to 2. So: up to which length does 0.15 · length round to 4 or less?",
            "Python and numpy round a half to the even neighbour: 4.5 becomes 4.",
        ),
        wrong={
            "0.15 · length is rounded, too: not only 4, all up to 4.5 becomes 4 tokens": lambda: 26,
            "0.15 · 20 is 3 tokens and one span, but 4 tokens are still one span: 4 / 3 rounds to 1": lambda: 20,
            "close: 0.15 · 30 is 4.5, and a half is rounded to the even neighbour, 4": lambda: 29,
            "0.15 · 31 is 4.65, which rounds to 5 tokens, and 5 / 3 to two spans": lambda: 31,
            "that is the shortest text with two whole spans of 3; rounding makes two of them earlier": lambda: 40,
            "you rounded 0.15 · 33 = 4.95 down to 4 tokens; it is 5, and 5 / 3 rounds to two spans": lambda: 33,
            "you rounded 5 / 3 down to one span; it rounds to 2": lambda: 36,
            "you rounded down both times; 0.15 · length and the third of it go to the nearest whole number": lambda: 39,
            "up to 23 there are 3 tokens of noise; but 4 tokens are still one span: 4 / 3 rounds to 1": lambda: 23,
        },
    ),
    Exercise(
        number="11.5",
        name="hidden_share",
        reference="llmkit.data.span_corruption:hidden_share",
        cases=share_cases,
        hints=(
            "A mask is an array of booleans; make_mask(length, rng) gives another one each time.",
            "For one place: in how many of the masks is it true, divided by the number of masks.",
            "np.mean(list_of_masks, axis=0) does that for all places at once.",
        ),
        wrong={
            "these are counts; divide by the number of draws": share_as_counts,
            "these are counts, whole numbers; divide by the number of draws": share_as_whole_counts,
            "that says whether a token is ever hidden; asked is in which share of the masks": share_of_any,
            "the values are right, but in a list; an array is asked for": share_as_list,
            "divide by the number of draws, not by the length": share_by_length,
            "the mean runs over the places of each mask; it must run over the masks, for each place": share_of_each_mask,
            "that is one number for everything; each place has its own": share_of_everything,
            "that is one draw; the mean is taken over n_draws of them": share_of_one_draw,
            "each draw begins with a new rng, so that all masks are the same; hand on the one you were given": share_with_the_same_rng,
            "that is the share of masks in which a token stays": share_that_stays,
        },
    ),
    Exercise(
        number="11.6",
        name="replace_spans",
        reference="llmkit.data.bart_noise:replace_spans",
        cases=replace_cases,
        hints=(
            "Keep `end`, the place up to which the text is done. For each span: copy ids[end:start], then one mask.",
            "Then end becomes start + size. After the last span the rest of the text follows.",
            "A span is wrong where it begins before `end`, or ends after the text.",
        ),
        wrong={
            "a span leaves one mask, however long it is: how many are missing is not told": replace_each_token,
            "a span of several tokens leaves one mask, not one for each of them": replace_at_least_one_each,
            "a span of 0 tokens adds a mask too; it was left out": replace_skips_empty,
            "two spans that touch leave two masks; they were melted into one": replace_merges,
            "spans that overlap, are out of order or reach beyond the text should raise ValueError": replace_never_refuses,
            "after the first span is replaced, the others have moved: read from ids, write to a new list": replace_in_place,
            "after one span is replaced the next have moved: work from the last to the first, or write a new list": replace_in_place_and_takes_all,
            "the second number of a span is how many tokens it takes, not where it ends": replace_end_as_size,
            "the text after the last span is missing": replace_without_rest,
            "a span of 0 tokens takes nothing away; the token after its mask is lost": replace_loses_one,
            "two spans may touch: each leaves its mask": replace_refuses_touching,
            "a span of 0 tokens may stand at the end, at len(ids)": replace_refuses_the_end,
        },
    ),
    Exercise(
        number="11.7",
        name="shift_right",
        reference="llmkit.training.losses:shift_right",
        cases=shift_cases,
        starts_from=not_shifted,
        hints=(
            "At place t the decoder has to write labels[:, t]. Which token may it have read there, at the latest?",
            "Place 0 reads start_id, place 1 reads the first label, and so on; the last label is read by nobody.",
            "F.pad(x, (1, 0), value=v) puts one column in front. Which column has to go, so that the width stays?",
        ),
        wrong={
            "nothing is shifted: at each place the decoder reads the very token that it has to write": not_shifted,
            "the shift goes the wrong way: the decoder reads the token after the one that it has to write": shifted_left,
            "the result is one token longer than the labels; the last label is read by nobody": shifted_and_longer,
            "-100 is left in the ids, where it is no token: it becomes pad_id": shifted_with_minus_hundred,
            "the first token is start_id, which need not be the padding": shifted_from_padding,
            "-100 becomes pad_id, not start_id": shifted_padded_with_start,
            "start_id has replaced the first label; it must push all of them one place on": shifted_over_the_first,
            "the last label has come round to the front; start_id stands there": shifted_round,
            "padding was put where the labels have -100; ids and -100 move together, one place later": shifted_padded_by_labels,
            "the labels were changed in place: the loss would count their padding; work on a copy": shifted_in_place,
        },
    ),
    Exercise(
        number="11.8",
        name="repair_spans",
        reference="llmkit.data.span_corruption:repair_spans",
        cases=repair_cases,
        hints=(
            "First read the targets into a dict: sentinel -> the tokens that follow it. Stop at end_id.",
            "Then walk through the inputs: an ordinary token is copied, a sentinel is looked up, and end_id ends it.",
            "spans.get(token, []) gives nothing for a sentinel that was never answered.",
        ),
        wrong={
            "the answers were put in by their order; each belongs to the sentinel before it": repair_by_order,
            "the sentinels are still in the text": repair_keeps_sentinels,
            "a model's answer may go on after its end_id; that does not count": repair_reads_on,
            "the result has no end_id": repair_with_end,
            "end_id was taken for a part of an answer; targets are read up to it only": repair_with_ends_inside,
            "of two answers for one sentinel the last counts; here the first did": repair_keeps_the_first,
            "a sentinel may be without an answer: it leaves nothing, and that is no error": repair_wants_all_answers,
            "of two answers for one sentinel the last counts; here they were joined": repair_adds_up,
            "these are the missing tokens alone; put them into the text": repair_only_the_answer,
            "a sentinel without an answer leaves nothing; here it stays in the text": repair_unknown_stays,
        },
    ),
]
