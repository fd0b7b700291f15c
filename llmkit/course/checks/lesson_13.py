"""Lesson 13: resemblance and its estimate, test items in the data, packed rows, accumulation, WSD, what a checkpoint holds."""

import math
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from llmkit.course.compare import first_difference
from llmkit.course.exercise import Case, Exercise
from llmkit.data.decontamination import gram_words, overlap_share
from llmkit.data.dedup import _keys
from llmkit.data.hashing import hash64, mix
from llmkit.training.losses import packed_loss

IGNORE = -100

# --- 13.1 Jaccard by hand ---


def resemblance() -> float:
    return 3 / 7


# --- 13.2 minhash ---


def minhash_cases() -> list[Case]:
    def words(n, seed):
        return [str(number) for number in random.Random(seed).sample(range(10**6), n)]

    return [
        Case("one item, one hash", lambda: (["cat"], 1)),
        Case("one item, five hashes", lambda: (["cat"], 5)),
        Case("the example's first set", lambda: ({"x", "y", "z"},)),
        Case("three items, eight hashes", lambda: (["x", "y", "z"], 8)),
        Case("an item that comes twice counts once", lambda: (["x", "y", "x"], 8)),
        Case("another seed", lambda: (["x", "y", "z"], 8, 3)),
        Case("no item", lambda: ([], 4)),
        Case("no item, from an iterator", lambda: (iter(()), 4)),
        Case("items that can be read only once", lambda: (iter(("a", "b", "c")), 6)),
        Case("letters beyond ASCII", lambda: ({"größe", "naïve"}, 7)),
        Case("forty items", lambda: (words(40, 0), 120)),
        Case("5,000 items", lambda: (words(5000, 1), 3, 2)),
        Case("no hash is refused", lambda: (["x"], 0)),
    ]


def _values(items, n_hashes, seed):
    hashes = np.array([hash64(item) for item in set(items)], dtype=np.uint64)
    return mix(hashes[:, None] ^ _keys(n_hashes, seed))


def _none(n_hashes):
    return np.full(n_hashes, np.iinfo(np.uint64).max)


def minhash_largest(items, n_hashes=120, seed=0):
    values = _values(items, n_hashes, seed)
    return values.max(axis=0) if len(values) else _none(n_hashes)


def minhash_wrong_axis(items, n_hashes=120, seed=0):
    values = _values(items, n_hashes, seed)
    return values.min(axis=1) if len(values) else _none(n_hashes)


def minhash_wrong_axis_in_order(items, n_hashes=120, seed=0):
    hashes = np.array([hash64(item) for item in items], dtype=np.uint64)
    values = mix(hashes[:, None] ^ _keys(n_hashes, seed))
    return values.min(axis=1) if len(values) else _none(n_hashes)


def minhash_read_for_each_function(items, n_hashes=120, seed=0):
    best = _none(n_hashes)
    for h, key in enumerate(_keys(n_hashes, seed)):
        hashes = np.array([hash64(item) for item in items], dtype=np.uint64)
        best[h] = mix(hashes ^ key).min() if len(hashes) else best[h]
    return best


def minhash_empty_by_truth(items, n_hashes=120, seed=0):
    keys = _keys(n_hashes, seed)
    if not items:
        return _none(n_hashes)
    return mix(np.array([hash64(item) for item in items], dtype=np.uint64)[:, None] ^ keys).min(axis=0)


def minhash_not_mixed(items, n_hashes=120, seed=0):
    hashes = np.array([hash64(item) for item in set(items)], dtype=np.uint64)
    values = hashes[:, None] ^ _keys(n_hashes, seed)
    return values.min(axis=0) if len(values) else _none(n_hashes)


def minhash_mixed_before(items, n_hashes=120, seed=0):
    hashes = np.array([hash64(item) for item in set(items)], dtype=np.uint64)
    values = mix(hashes)[:, None] ^ _keys(n_hashes, seed)
    return values.min(axis=0) if len(values) else _none(n_hashes)


def minhash_added(items, n_hashes=120, seed=0):
    hashes = np.array([hash64(item) for item in set(items)], dtype=np.uint64)
    values = mix(hashes[:, None] + _keys(n_hashes, seed))
    return values.min(axis=0) if len(values) else _none(n_hashes)


def minhash_seed_forgotten(items, n_hashes=120, seed=0):
    values = _values(items, n_hashes, 0)
    return values.min(axis=0) if len(values) else _none(n_hashes)


def minhash_one_function(items, n_hashes=120, seed=0):
    """The n smallest values of one function: a bottom-k sketch, cut or filled up to n."""
    _keys(n_hashes, seed)
    smallest = np.sort(_values(items, 1, seed)[:, 0])[:n_hashes]
    return np.concatenate([smallest, _none(n_hashes - len(smallest))])


def minhash_nothing_breaks(items, n_hashes=120, seed=0):
    return _values(items, n_hashes, seed).min(axis=0)


def minhash_nothing_is_zero(items, n_hashes=120, seed=0):
    values = _values(items, n_hashes, seed)
    return values.min(axis=0) if len(values) else np.zeros(n_hashes, dtype=np.uint64)


def minhash_as_list(items, n_hashes=120, seed=0):
    values = _values(items, n_hashes, seed)
    return (values.min(axis=0) if len(values) else _none(n_hashes)).tolist()


# --- 13.3 overlap_share ---


def overlap_cases() -> list[Case]:
    item = "Is the moon made of green cheese?"

    def text(length, seed, kinds):
        return " ".join(random.Random(seed).choices("abcdefgh"[:kinds], k=length))

    cases = [
        Case("the example", lambda: ("He asked: is the MOON made of green cheese", item, 5)),
        Case("nothing in common", lambda: ("A cat sat there all day long.", item, 3)),
        Case("the item itself", lambda: (item, item, 4)),
        Case("one run of exactly n words", lambda: ("x a b c y", "p a b c q", 3)),
        Case("n - 1 words in common", lambda: ("x a b y", "p a b q", 3)),
        Case("the same words in another order", lambda: ("cheese green of made moon the is", item, 3)),
        Case("two runs apart", lambda: ("a b c x y z p q r", "a b c 1 2 p q r", 3)),
        Case("runs that overlap", lambda: ("x a b c d e y z", "a b c d e", 3)),
        Case("a run that comes twice in the document", lambda: ("a b c x a b c", "a b c", 3)),
        Case("n = 1: words", lambda: ("a b c d", "d a", 1)),
        Case("n = 2", lambda: ("a b c d", "b c a", 2)),
        Case("a document shorter than n", lambda: ("a b", "a b c d", 3)),
        Case("an item shorter than n", lambda: ("a b c d", "a b", 3)),
        Case("an empty document", lambda: ("", "a b", 1)),
        Case("an empty item", lambda: ("a b", "", 1)),
        Case("n left out: 13", lambda: (text(40, 0, 8) + " " + text(20, 9, 8), text(20, 9, 8))),
        Case("n left out: 12 words in common", lambda: ("x " + text(12, 9, 8) + " y", text(12, 9, 8))),
        Case("n = 0 is refused", lambda: ("a b", "a b", 0)),
    ]
    for seed, (n, kinds) in enumerate(((2, 3), (3, 3), (4, 2))):
        cases.append(
            Case(
                f"random words, n = {n}", lambda seed=seed, n=n, k=kinds: (text(30, seed, k), text(9, seed + 50, k), n)
            )
        )
    return cases


def _overlap_parts(document, item, n):
    if n < 1:
        raise ValueError("n")
    words, others = gram_words(document), gram_words(item)
    return words, {tuple(others[i : i + n]) for i in range(len(others) - n + 1)}


def overlap_starts_only(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    hits = sum(tuple(words[i : i + n]) in wanted for i in range(len(words)))
    return hits / len(words) if words else 0.0


def overlap_counted_often(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    hits = sum(tuple(words[i : i + n]) in wanted for i in range(len(words)))
    return n * hits / len(words) if words else 0.0


def overlap_share_of_runs(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return sum(run in wanted for run in runs) / len(runs) if runs else 0.0


def overlap_of_the_item(document, item, n=13):
    return overlap_share(item, document, n)


def overlap_single_words(document, item, n=13):
    words, _ = _overlap_parts(document, item, n)
    known = set(gram_words(item))
    return sum(word in known for word in words) / len(words) if words else 0.0


def overlap_plain_split(document, item, n=13):
    if n < 1:
        raise ValueError("n")
    words, others = document.split(), item.split()
    wanted = {tuple(others[i : i + n]) for i in range(len(others) - n + 1)}
    covered = {j for i in range(len(words) - n + 1) if tuple(words[i : i + n]) in wanted for j in range(i, i + n)}
    return len(covered) / len(words) if words else 0.0


def overlap_split_in_lower_case(document, item, n=13):
    return overlap_plain_split(document.lower(), item.lower(), n)


def overlap_different_words(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len({word for run in runs if run in wanted for word in run}) / len(set(words)) if words else 0.0


def overlap_different_hit_words(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len({word for run in runs if run in wanted for word in run}) / len(words) if words else 0.0


def overlap_jumps_on(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    i = hits = 0
    while i + n <= len(words):
        hit = tuple(words[i : i + n]) in wanted
        hits, i = hits + n * hit, i + (n if hit else 1)
    return hits / len(words) if words else 0.0


def overlap_last_run_missed(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    covered = {j for i in range(len(words) - n) if tuple(words[i : i + n]) in wanted for j in range(i, i + n)}
    return len(covered) / len(words) if words else 0.0


def overlap_yes_or_no(document, item, n=13):
    return float(overlap_share(document, item, n) > 0)


def overlap_empty_divides(document, item, n=13):
    words, wanted = _overlap_parts(document, item, n)
    covered = {j for i in range(len(words) - n + 1) if tuple(words[i : i + n]) in wanted for j in range(i, i + n)}
    return len(covered) / len(words)


# --- 13.4 mark_documents ---


def marking_cases() -> list[Case]:
    def row(*ids, eos=9):
        ids = torch.tensor(ids)
        return ids[:-1], ids[1:].clone(), eos  # else targets that are changed in place would change the ids

    def rows(n_rows, length, seed, eos=2):
        ids = torch.randint(5, (n_rows, length + 1), generator=torch.Generator().manual_seed(seed))
        return ids[:, :-1], ids[:, 1:].clone(), eos

    return [
        Case("the example", lambda: row(5, 6, 9, 7, 9, 8, 8)),
        Case("one document", lambda: row(1, 2, 3, 4)),
        Case("an end in the middle", lambda: row(1, 2, 9, 4, 5)),
        Case("the end is the last token", lambda: row(1, 2, 9, 4)),
        Case("the row begins with an end", lambda: row(9, 1, 2, 3)),
        Case("two ends in a row: an empty document", lambda: row(1, 9, 9, 2, 3)),
        Case("the end's id is 0", lambda: row(3, 0, 4, 0, 5, eos=0)),
        Case("one token", lambda: row(4, 5)),
        Case("two rows, each with its own documents", lambda: rows(2, 7, 0)),
        Case("three rows", lambda: rows(3, 11, 1)),
        Case("targets that are left out already", lambda: (torch.tensor([1, 9, 2]), torch.tensor([9, 2, IGNORE]), 9)),
    ]


def _same_marks(expected, got, arguments):
    if not isinstance(got, tuple | list) or len(got) != 2:
        return f"expected two tensors, targets and documents, got {type(got).__name__}"
    difference = first_difference(expected[0], got[0], 0.0, "targets") or first_difference(
        expected[1], got[1], 0.0, "documents"
    )
    return str(difference) if difference else None


def marks_end_in_the_next(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends, IGNORE), ends.cumsum(-1)


def marks_targets_kept(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.clone(), ends.cumsum(-1) - ends.long()


def marks_end_not_learned(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(targets == eos_id, IGNORE), ends.cumsum(-1) - ends.long()


def marks_wrong_axis(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends, IGNORE), ends.cumsum(0) - ends.long()


def marks_by_targets(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends, IGNORE), (targets == eos_id).cumsum(-1)


def marks_from_one(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends, IGNORE), ends.cumsum(-1) - ends.long() + 1


def marks_only_ends(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends, IGNORE), ends.long()


def marks_zero(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends, 0), ends.cumsum(-1) - ends.long()


def marks_first_of_next_ignored(ids, targets, eos_id):
    ends = ids == eos_id
    after = F.pad(ends, (1, 0))[..., :-1]
    return targets.masked_fill(after, IGNORE), ends.cumsum(-1) - ends.long()


def marks_end_in_the_next_and_targets_kept(ids, targets, eos_id):
    return targets.clone(), (ids == eos_id).cumsum(-1)


def marks_counted_on(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends, IGNORE), ends.flatten().cumsum(0).view_as(ids) - ends.long()


def marks_both_left_out(ids, targets, eos_id):
    ends = ids == eos_id
    return targets.masked_fill(ends | (targets == eos_id), IGNORE), ends.cumsum(-1) - ends.long()


def marks_ids_filled(ids, targets, eos_id):
    ends = ids == eos_id
    return ids.masked_fill(ends, IGNORE), ends.cumsum(-1) - ends.long()


def marks_in_place(ids, targets, eos_id):
    ends = ids == eos_id
    targets[ends] = IGNORE
    return targets, ends.cumsum(-1) - ends.long()


# --- 13.5 accumulated_gradients (find the bug) ---


class Small(nn.Sequential):
    """A model with a name that fits into a line of the report."""

    def __repr__(self) -> str:
        return f"model of {self[0].num_embeddings} tokens"


def _model(vocab=7, width=5, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Small(nn.Embedding(vocab, width), nn.Linear(width, vocab))


def accumulation_cases() -> list[Case]:
    def part(rows, length, counted, seed, vocab=7):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(vocab, (rows, length), generator=generator)
        targets = torch.randint(vocab, (rows, length), generator=generator)
        for row, n in enumerate(counted):
            targets[row, n:] = IGNORE
        return ids, targets

    def with_old_gradients():
        model = _model()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return model, [part(2, 4, [4, 1], 0)]

    def one_frozen():
        model = _model(seed=2)
        model[0].weight.requires_grad_(False)
        return model, [part(2, 3, [3, 3], 1), part(2, 3, [1, 0], 2)]

    return [
        Case("one part", lambda: (_model(), [part(2, 4, [4, 4], 0)])),
        Case("two equal parts", lambda: (_model(), [part(2, 4, [4, 4], 0), part(2, 4, [4, 4], 1)])),
        Case("one part with padding", lambda: (_model(), [part(2, 5, [5, 2], 3)])),
        Case("9 tokens and 2", lambda: (_model(), [part(3, 3, [3, 3, 3], 4), part(3, 3, [1, 1, 0], 5)])),
        Case("1 token, 4 and 12", lambda: (_model(), [part(2, 6, n, 6 + n[0]) for n in ([1, 0], [3, 1], [6, 6])])),
        Case("parts of different shapes", lambda: (_model(), [part(1, 7, [7], 7), part(3, 2, [2, 1, 2], 8)])),
        Case("a part that counts for nothing", lambda: (_model(), [part(2, 3, [3, 2], 9), part(2, 3, [0, 0], 10)])),
        Case("gradients are left from the step before", with_old_gradients),
        Case("a part of the model is frozen", one_frozen),
        Case("nothing is counted at all: refused", lambda: (_model(), [part(2, 3, [0, 0], 11)])),
    ]


def _same_accumulation(expected, got, arguments):
    if not isinstance(got, tuple | list) or len(got) != 2:
        return f"expected the loss and a list of gradients, got {type(got).__name__}"
    difference = first_difference(expected[0], got[0], 1e-5, "the loss") or first_difference(
        expected[1], list(got[1]), 1e-5, "the gradients"
    )
    return str(difference) if difference else None


def accumulated_by_means(model, parts):
    model.zero_grad()
    total = 0.0
    for part in parts:
        counted = (part[1] != IGNORE).sum()
        loss = packed_loss(model, *part).nats / counted
        (loss / len(parts)).backward()
        total += loss.item()
    return total / len(parts), [p.grad for p in model.parameters()]


def accumulated_guarded_means(model, parts):
    if not any((part[1] != IGNORE).any() for part in parts):
        raise ValueError("nothing")
    model.zero_grad()
    total = 0.0
    for part in parts:
        loss = packed_loss(model, *part).nats / (part[1] != IGNORE).sum().clamp(min=1)
        (loss / len(parts)).backward()
        total += loss.item()
    return total / len(parts), [p.grad for p in model.parameters()]


def _divided(model, parts, divisor, reported=None):
    if not any((part[1] != IGNORE).any() for part in parts):
        raise ValueError("nothing")
    model.zero_grad()
    total = 0.0
    for i, part in enumerate(parts):
        nats = packed_loss(model, *part).nats
        (nats / divisor(i)).backward()
        total += nats.item() / (reported or divisor)(i)
    return total, [p.grad for p in model.parameters()]


def accumulated_by_all_places(model, parts):
    return _divided(model, parts, lambda i: sum(part[1].numel() for part in parts))


def accumulated_not_over_parts(model, parts):
    return _divided(model, parts, lambda i: max(1, int((parts[i][1] != IGNORE).sum())))


def accumulated_sums(model, parts):
    return _divided(model, parts, lambda i: 1)


def accumulated_tokens_and_parts(model, parts):
    n = sum(int((part[1] != IGNORE).sum()) for part in parts)
    return _divided(model, parts, lambda i: max(1, n) * len(parts))


def accumulated_loss_only(model, parts):
    n = sum(int((part[1] != IGNORE).sum()) for part in parts)
    own = [max(1, int((part[1] != IGNORE).sum())) * len(parts) for part in parts]
    return _divided(model, parts, lambda i: own[i], lambda i: max(1, n))


def accumulated_gradients_of_the_sum(model, parts):
    n = sum(int((part[1] != IGNORE).sum()) for part in parts)
    return _divided(model, parts, lambda i: 1, lambda i: n)


def accumulated_gradients_over_parts_too(model, parts):
    n = sum(int((part[1] != IGNORE).sum()) for part in parts)
    return _divided(model, parts, lambda i: n * len(parts), lambda i: n)


def accumulated_last_part_only(model, parts):
    n = sum(int((part[1] != IGNORE).sum()) for part in parts)
    if n == 0:
        raise ValueError("nothing")
    total = 0.0
    for part in parts:
        model.zero_grad()
        nats = packed_loss(model, *part).nats
        (nats / n).backward()
        total += nats.item() / n
    return total, [p.grad for p in model.parameters()]


def accumulated_on_old(model, parts):
    n = sum(int((part[1] != IGNORE).sum()) for part in parts)
    if n == 0:
        raise ValueError("nothing")
    total = 0.0
    for part in parts:
        nats = packed_loss(model, *part).nats
        (nats / n).backward()
        total += nats.item() / n
    return total, [p.grad for p in model.parameters()]


# --- 13.6 warmup_stable_decay ---


def wsd_cases() -> list[Case]:
    cases = [
        Case("the plateau", lambda: (5, 10, 1.0, 2, 3)),
        Case("the first step of a warm-up", lambda: (0, 10, 1.0, 1, 4)),
        Case("without warm-up", lambda: (0, 10, 0.5)),
        Case("the last step of the plateau", lambda: (6, 10, 1.0, 1, 4)),
        Case("a quarter of the way down", lambda: (7, 10, 1.0, 1, 4)),
        Case("half of the way down, with a floor", lambda: (8, 10, 2.0, 1, 4, 0.1)),
        Case("step n_steps is at the floor", lambda: (10, 10, 1.0, 1, 4, 0.2)),
        Case("beyond the end it stays there", lambda: (13, 10, 1.0, 1, 4, 0.2)),
        Case("decay left out: a fifth", lambda: (9, 10, 1.0, 1)),
        Case("decay left out, 57 steps", lambda: (50, 57, 1.0, 4)),
        Case("decay left out in a run of 3 steps", lambda: (2, 3, 1.0)),
        Case("decay left out in a run of 3 steps, at its end", lambda: (3, 3, 1.0)),
        Case("decay 0: never down before the end", lambda: (9, 10, 1.0, 2, 0)),
        Case("decay 0, step n_steps: still at the peak", lambda: (10, 10, 1.0, 2, 0)),
    ]
    for steps, peak, warmup, decay, floor in ((40, 0.03, 5, 10, 0.0), (40, 3e-4, 0, 40, 0.1)):
        for step in range(0, steps + 3, 3):
            cases.append(
                Case(
                    f"step {step} of {steps}, decay {decay}, floor {floor}",
                    lambda s=step, n=steps, p=peak, w=warmup, d=decay, f=floor: (s, n, p, w, d, f),
                )
            )
    cases.append(Case("the warm-up reaches into the way down: it goes first", lambda: (7, 10, 1.0, 8, 5)))
    cases.append(Case("… and is over", lambda: (8, 10, 1.0, 8, 5)))
    return cases


def _wsd(step, n_steps, peak, warmup, decay, floor, shape, first=None):
    decay = max(1, n_steps // 5) if decay is None else decay
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    begin = n_steps - decay if first is None else first(n_steps, decay)
    done = min(1.0, max(0, step - begin) / max(1, decay))
    return peak * (floor + (1 - floor) * shape(done))


def wsd_linear(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay, floor, lambda done: 1 - done)


def wsd_cosine(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay, floor, lambda done: 0.5 * (1 + math.cos(math.pi * done)))


def wsd_root_of_rest(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay, floor, lambda done: math.sqrt(1 - done))


def wsd_floor_not_scaled(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    value = _wsd(step, n_steps, peak, 0, decay, 0.0, lambda done: 1 - math.sqrt(done))
    return max(floor, value)


def wsd_floor_as_limit(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return max(floor * peak, _wsd(step, n_steps, peak, 0, decay, 0.0, lambda done: 1 - math.sqrt(done)))


def wsd_floor_forgotten(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay, 0.0, lambda done: 1 - math.sqrt(done))


def wsd_after_the_end(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay, floor, lambda d: 1 - math.sqrt(d), lambda n, d: n)


def wsd_down_one_late(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay, floor, lambda d: 1 - math.sqrt(d), lambda n, d: n - d + 1)


def wsd_warmup_from_zero(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    if step < warmup:
        return peak * step / warmup
    return _wsd(step, n_steps, peak, 0, decay, floor, lambda done: 1 - math.sqrt(done))


def wsd_warmup_to_the_peak(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    return _wsd(step, n_steps, peak, 0, decay, floor, lambda done: 1 - math.sqrt(done))


def wsd_decay_none_is_zero(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay or 0, floor, lambda done: 1 - math.sqrt(done))


def wsd_zero_is_none(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay or max(1, n_steps // 5), floor, lambda done: 1 - math.sqrt(done))


def wsd_fifth_can_be_zero(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    decay = n_steps // 5 if decay is None else decay
    return _wsd(step, n_steps, peak, warmup, decay, floor, lambda done: 1 - math.sqrt(done))


def wsd_zero_divides(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    decay = max(1, n_steps // 5) if decay is None else decay
    if step < max(warmup, n_steps - decay):
        return _wsd(step, n_steps, peak, warmup, decay, floor, lambda done: 1 - math.sqrt(done))
    return peak * (floor + (1 - floor) * (1 - math.sqrt(min(1.0, (step - n_steps + decay) / decay))))


def wsd_way_down_first(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    decay = max(1, n_steps // 5) if decay is None else decay
    first = 0 if step > n_steps - decay else warmup
    return _wsd(step, n_steps, peak, first, decay, floor, lambda done: 1 - math.sqrt(done))


def wsd_goes_on_falling(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    decay = max(1, n_steps // 5) if decay is None else decay
    if step <= n_steps:
        return _wsd(step, n_steps, peak, warmup, decay, floor, lambda done: 1 - math.sqrt(done))
    return peak * (floor + (1 - floor) * (1 - math.sqrt((step - n_steps + decay) / max(1, decay))))


def wsd_down_one_early(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    return _wsd(step, n_steps, peak, warmup, decay, floor, lambda d: 1 - math.sqrt(d), lambda n, d: n - d - 1)


def wsd_ends_at_floor(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + (peak - floor) * _wsd(step, n_steps, 1.0, 0, decay, 0.0, lambda done: 1 - math.sqrt(done))


# --- 13.7 what may be left out ---


def not_needed() -> set[str]:
    return {"learning rate", "random state"}


EXERCISES = [
    Exercise(
        number="13.1",
        name="similarity",
        reference=resemblance,
        tolerance=5e-3,
        hints=(
            "Write down both sets: the first has five pairs of neighbouring words, and so has the second.",
            "A pair that stands in both sets counts once in the union.",
        ),
        wrong={
            "that is the share of the first sentence's pairs; the union is larger": lambda: 3 / 5,
            "the pairs that both have were counted twice in the union": lambda: 3 / 10,
            "that is for single words; take pairs of neighbours": lambda: 5 / 6,
            "that is how many they have in common; divide by how many there are": lambda: 3,
            "pairs that only one of them has belong to the union, not to what they have in common": lambda: 4 / 7,
            "that is the share of words that are at the same place; compare the sets of pairs": lambda: 4 / 6,
        },
    ),
    Exercise(
        number="13.2",
        name="minhash",
        reference="llmkit.data.dedup:minhash",
        cases=minhash_cases,
        hints=(
            "np.array([hash64(item) for item in set(items)], dtype=np.uint64) has the shape (N,), the keys (H,).",
            "hashes[:, None] ^ keys has the shape (N, H): every item under every function; mix scrambles all of it.",
            "One axis is the items. What is the smallest of no numbers? Begin with the largest uint64 there is.",
        ),
        wrong={
            "the largest value was taken; the smallest is wanted": minhash_largest,
            "that is the smallest over the functions, one for each item; wanted is one for each function": (
                minhash_wrong_axis
            ),
            "that is one value for each item, in the order of the items; wanted is the smallest over the items, one for "
            "each function": minhash_wrong_axis_in_order,
            "the items were read again for each function, and an iterator is empty the second time: read them once": (
                minhash_read_for_each_function
            ),
            "an iterator without items is not False: look at how many hashes came out": minhash_empty_by_truth,
            "xor with a key alone puts items that are alike in their first bits next to each other in every order: mix "
            "after it": minhash_not_mixed,
            "mix must come after the key; before it, all functions share one order but for a flip of bits": (
                minhash_mixed_before
            ),
            "the key was added; the docstring says xor (^)": minhash_added,
            "the seed was not handed on to _keys": minhash_seed_forgotten,
            "those are the smallest values of one function; wanted is the smallest of each": minhash_one_function,
            "no item at all should give the largest uint64 everywhere; min of nothing raises": minhash_nothing_breaks,
            "no item at all should give the largest uint64, not 0, which no set could beat": minhash_nothing_is_zero,
            "that is a list; give back the array": minhash_as_list,
        },
    ),
    Exercise(
        number="13.3",
        name="overlap_share",
        reference="llmkit.data.decontamination:overlap_share",
        cases=overlap_cases,
        hints=(
            "gram_words(item) gives the words; a set of tuples of n neighbours holds all of the item's runs.",
            "Where a run of the document begins at word i and is in that set, the words i … i + n - 1 are covered.",
            "Keep the covered places in a set, so that overlapping runs count a word once.",
        ),
        wrong={
            "only the first word of each run was counted; all n of them lie in it": overlap_starts_only,
            "a word that lies in several runs was counted several times": overlap_counted_often,
            "that is the share of the document's runs; the share of its words is wanted": overlap_share_of_runs,
            "the wrong way round: that is the share of the test item's words": overlap_of_the_item,
            "single words were compared; n of them in the same order are wanted": overlap_single_words,
            "punctuation and capitals hide a run: take the words from gram_words": overlap_plain_split,
            "split leaves the punctuation on, which hides a run: take the words from gram_words": (
                overlap_split_in_lower_case
            ),
            "different words were counted, above and below; every place in the document counts": overlap_different_words,
            "a word that comes twice in the document was counted once; every place counts": overlap_different_hit_words,
            "behind a run that was found the search went on n words later; runs may overlap": overlap_jumps_on,
            "the document's last run was not looked at": overlap_last_run_missed,
            "that says whether there is a run; how much of the document lies in runs?": overlap_yes_or_no,
            "an empty document has a share of 0.0; here it divides by 0": overlap_empty_divides,
        },
    ),
    Exercise(
        number="13.4",
        name="mark_documents",
        reference="llmkit.data.packing:mark_documents",
        cases=marking_cases,
        compare=_same_marks,
        tolerance=0.0,
        hints=(
            "ends = ids == eos_id is True at the last token of each document. What comes after that is another text.",
            "ends.cumsum(-1) counts the ends up to and with each place.",
            "The end token itself belongs to the document that it ends, so it must not be counted for itself yet.",
        ),
        wrong={
            "the end token was given to the next document; it belongs to the one it ends": marks_end_in_the_next,
            "the targets at end tokens are still there: the model is asked to guess how an unrelated text begins": (
                marks_targets_kept
            ),
            "the targets that *are* end tokens were left out: the model would never learn to stop": (
                marks_end_not_learned
            ),
            "ends were counted down the rows; each row counts for itself, along the last axis": marks_wrong_axis,
            "the count runs on from row to row; in each row it begins at 0": marks_counted_on,
            "left out where ids has an end token, as asked, but the targets that *are* end tokens too: those stay": (
                marks_both_left_out
            ),
            "those are the ids with -100 in them; it is the targets that come back": marks_ids_filled,
            "ends were looked for among the targets, one place too early": marks_by_targets,
            "documents are counted from 0": marks_from_one,
            "that marks the end tokens; each token needs the number of its document": marks_only_ends,
            "0 is a token like any other; a target that is not counted is -100": marks_zero,
            "one place too late: the first token of the next document was left out": marks_first_of_next_ignored,
            "the end token was given to the next document, and the targets at end tokens are still there": (
                marks_end_in_the_next_and_targets_kept
            ),
            "the result is right, but it was written into the targets that were given; masked_fill makes new ones": (
                marks_in_place
            ),
        },
    ),
    Exercise(
        number="13.5",
        name="accumulated_gradients",
        reference="llmkit.training.losses:accumulated_gradients",
        cases=accumulation_cases,
        compare=_same_accumulation,
        starts_from=accumulated_by_means,
        hints=(
            "One part has 1 token, another 99. How much does the lone token weigh in the mean of the two means?",
            "packed_loss gives a sum. Which number must every part's sum be divided by to make one mean of all?",
            "That number is known only when all targets have been looked at: count before the loop.",
        ),
        wrong={
            "the mean of the parts' means: a token in a part of few tokens weighs more than others": (
                accumulated_by_means
            ),
            "the mean of the parts' means (and a part without tokens counts as a loss of 0)": accumulated_guarded_means,
            "divided by all places, padding too: only targets that are not -100 count": accumulated_by_all_places,
            "the parts' means were added up: with twice as many parts, twice the loss": accumulated_not_over_parts,
            "the sums were not divided by anything": accumulated_sums,
            "divided by the tokens of all parts and then by the number of parts too": accumulated_tokens_and_parts,
            "the loss is right, but the gradients are still those of the mean of means": accumulated_loss_only,
            "the loss is right, but the gradients are those of the sum: divide before `backward` too": (
                accumulated_gradients_of_the_sum
            ),
            "the loss is right, but the gradients were divided by the number of parts too": (
                accumulated_gradients_over_parts_too
            ),
            "zero_grad inside the loop forgets the parts before: only the last one's gradients are left": (
                accumulated_last_part_only
            ),
            "gradients of an earlier step are still in there: zero_grad once, before the first part": accumulated_on_old,
        },
    ),
    Exercise(
        number="13.6",
        name="warmup_stable_decay",
        reference="llmkit.training.schedules:warmup_stable_decay",
        cases=wsd_cases,
        hints=(
            "Three parts, as in warmup_cosine: before step warmup, on the plateau, and from step n_steps - decay on.",
            "done = (step - (n_steps - decay)) / decay, kept between 0 and 1, makes plateau, way down and end one formula.",
            "1 - sqrt(done) goes from 1 to 0; stretch it to go from peak to floor * peak.",
        ),
        wrong={
            "the way down is a straight line; wanted is 1 - sqrt(share done)": wsd_linear,
            "that is half a cosine; wanted is 1 - sqrt(share done)": wsd_cosine,
            "that is sqrt(1 - share done), which falls late; wanted is 1 - sqrt(share done), which falls early": (
                wsd_root_of_rest
            ),
            "the floor is a share of the peak, not a learning rate": wsd_floor_not_scaled,
            "the way was cut off at the floor; it should end there, stretched": wsd_floor_as_limit,
            "the floor is not used": wsd_floor_forgotten,
            "the way down begins at n_steps; it should end there": wsd_after_the_end,
            "the way down begins one step late": wsd_down_one_late,
            "the warm-up begins at 0, so the first step is lost": wsd_warmup_from_zero,
            "the last step of the warm-up is at the peak already; divide by warmup + 1": wsd_warmup_to_the_peak,
            "decay left out means a fifth of n_steps": wsd_decay_none_is_zero,
            "decay 0 was taken for decay None: `or` treats both alike; ask `is None`": wsd_zero_is_none,
            "a fifth of 3 steps, rounded down, is 0; decay left out means at least 1": wsd_fifth_can_be_zero,
            "with decay 0 the share done is 0 / 0 at step n_steps; the rate is the peak there": wsd_zero_divides,
            "the way down was looked at before the warm-up; the warm-up goes first": wsd_way_down_first,
            "beyond step n_steps the share done grows above 1; it stays at 1": wsd_goes_on_falling,
            "the way down begins one step early": wsd_down_one_early,
            "the way ends at `floor`; it should end at floor * peak": wsd_ends_at_floor,
        },
    ),
    Exercise(
        number="13.7",
        name="may_be_left_out",
        reference=not_needed,
        hints=(
            "What can be computed from the number of the step needs no place on the disk.",
            "`train_step` sets two things anew at each step before it uses them. Which?",
        ),
        wrong={
            "one of them is right. Look at the first lines of `train_step` once more: what is set from seed and step?": (
                lambda: {"learning rate"}
            ),
            "one of them is right. Look where `train_step` gets its `lr` from": lambda: {"random state"},
            "these are two of the three that AdamW keeps for every parameter; it can recompute none of them": (
                lambda: {"squares", "step counts"}
            ),
            "how often each parameter was moved stands in AdamW's correction, 1 - beta^step: it is needed": (
                lambda: {"step counts", "learning rate", "random state"}
            ),
            "the sampler's order follows from the seed, but not how far it has come": (
                lambda: {"place in the data", "learning rate", "random state"}
            ),
            "the step itself is what the other two are worked out from": (
                lambda: {"step", "learning rate", "random state"}
            ),
            "one of them is right, but the step is needed: what would the schedule be asked with?": (
                lambda: {"step", "learning rate"}
            ),
            "that is what must be kept; what may be left out?": (
                lambda: {"weights", "means", "squares", "step counts", "step", "place in the data"}
            ),
            "the names are right, in a list; a set is asked for, in braces": lambda: ["learning rate", "random state"],
            "right names, but a list; a set has braces": lambda: ["random state", "learning rate"],
            "those come back after a few dozen steps, but not as they were: not bit for bit": (
                lambda: {"means", "squares", "learning rate", "random state"}
            ),
        },
    ),
]
