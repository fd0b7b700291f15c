"""Lesson 13: right answers written differently, and mutants that compute the same."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from llmkit.data.decontamination import gram_words
from llmkit.data.dedup import _keys
from llmkit.data.hashing import hash64, mix


def minhash_whole(items, n_hashes=120, seed=0):
    keys = _keys(n_hashes, seed)
    hashes = np.array([hash64(item) for item in set(items)], dtype=np.uint64)
    if not len(hashes):
        return np.full(n_hashes, 2**64 - 1, dtype=np.uint64)
    return mix(hashes[:, None] ^ keys[None, :]).min(axis=0)


def minhash_item_by_item(items, n_hashes=120, seed=0):
    keys = _keys(n_hashes, seed)
    best = np.full(n_hashes, np.iinfo(np.uint64).max, dtype=np.uint64)
    for item in items:
        best = np.minimum(best, mix(np.uint64(hash64(item)) ^ keys))
    return best


def minhash_function_by_function(items, n_hashes=120, seed=0):
    hashes = np.array([hash64(item) for item in sorted(set(items))] or [], dtype=np.uint64)
    smallest = [mix(hashes ^ key).min() if len(hashes) else np.uint64(2**64 - 1) for key in _keys(n_hashes, seed)]
    return np.array(smallest, dtype=np.uint64)


def overlap_with_flags(document, item, n=13):
    if n <= 0:
        raise ValueError("n")
    words, other = gram_words(document), gram_words(item)
    if len(words) < n or len(other) < n:
        return 0.0
    runs = set(zip(*(other[i:] for i in range(n)), strict=False))
    hit = [False] * len(words)
    for i in range(len(words) - n + 1):
        if tuple(words[i : i + n]) in runs:
            hit[i : i + n] = [True] * n
    return sum(hit) / len(words)


def overlap_by_word(document, item, n=13):
    if n < 1:
        raise ValueError("n")
    words, other = gram_words(document), gram_words(item)
    runs = [other[i : i + n] for i in range(len(other) - n + 1)]
    inside = 0
    for j in range(len(words)):
        starts = range(max(0, j - n + 1), min(j, len(words) - n) + 1)
        inside += any(words[i : i + n] in runs for i in starts)
    return inside / max(1, len(words))


def overlap_by_joining(document, item, n=13):
    if n < 1:
        raise ValueError("n")
    words, text = gram_words(document), " " + " ".join(gram_words(item)) + " "
    places = set()
    for i in range(len(words) - n + 1):
        if " " + " ".join(words[i : i + n]) + " " in text:
            places |= set(range(i, i + n))
    return len(places) / len(words) if words else 0


def marks_in_loops(ids, targets, eos_id):
    targets, documents = targets.clone(), torch.zeros_like(ids)
    rows = zip(
        ids.view(-1, ids.size(-1)), targets.view(-1, ids.size(-1)), documents.view(-1, ids.size(-1)), strict=True
    )
    for row, target, document in rows:
        number = 0
        for t, token in enumerate(row.tolist()):
            document[t] = number
            if token == eos_id:
                target[t] = -100
                number += 1
    return targets, documents


def marks_by_padding(ids, targets, eos_id):
    ends = (ids == eos_id).long()
    return torch.where(ends.bool(), -100, targets), F.pad(ends, (1, 0))[..., :-1].cumsum(-1)


def marks_by_roll(ids, targets, eos_id):
    ends = ids == eos_id
    begins = ends.roll(1, dims=-1)
    begins[..., 0] = False
    targets = targets.clone()
    targets[ends] = -100
    return targets, begins.long().cumsum(dim=-1)


def accumulated_by_logits(model, parts):
    n = sum((part[1] >= 0).sum().item() for part in parts)
    if not n:
        raise ValueError("nothing")
    model.zero_grad()
    loss = 0.0
    for ids, targets in parts:
        nats = F.cross_entropy(model(ids).flatten(0, -2), targets.flatten(), ignore_index=-100, reduction="sum") / n
        nats.backward()
        loss += nats.item()
    return loss, [p.grad for p in model.parameters()]


def accumulated_weighted_means(model, parts):
    counts = [int((targets != -100).sum()) for _, targets in parts]
    if sum(counts) == 0:
        raise ValueError("nothing")
    model.zero_grad()
    loss = 0.0
    for (ids, targets), count in zip(parts, counts, strict=True):
        if count:
            mean = F.cross_entropy(model(ids).flatten(0, -2), targets.flatten(), ignore_index=-100)
            weighted = mean * count / sum(counts)
            weighted.backward()
            loss = loss + weighted.detach()
    return loss, [p.grad for p in model.parameters()]


def accumulated_at_once(model, parts):
    for p in model.parameters():
        p.grad = None
    logits = torch.cat([model(ids).flatten(0, -2) for ids, _ in parts])
    targets = torch.cat([targets.flatten() for _, targets in parts])
    if (targets == -100).all():
        raise ValueError("nothing")
    loss = F.cross_entropy(logits, targets, ignore_index=-100)
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters()]


def wsd_in_three_parts(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    if decay is None:
        decay = max(n_steps // 5, 1)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if step <= n_steps - decay and step < n_steps:
        return peak
    if step >= n_steps:
        return floor * peak if decay or step > n_steps else peak
    return peak - (peak - floor * peak) * math.sqrt((step - n_steps + decay) / decay)


def wsd_by_interpolation(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    d = decay if decay is not None else max(1, int(n_steps / 5))
    if step + 1 <= warmup:
        return (step + 1) * peak / (warmup + 1)
    share = float(np.clip((step - n_steps + d) / max(d, 1), 0, 1))
    return float(np.interp(share**0.5, [0, 1], [peak, floor * peak]))


def wsd_with_tensors(step, n_steps, peak, warmup=0, decay=None, floor=0.0):
    decay = max(1, n_steps // 5) if decay is None else decay
    down = torch.tensor((step - (n_steps - decay)) / max(1, decay), dtype=torch.float64).clamp(0, 1).sqrt()
    stable = peak * ((1 - down) + floor * down)
    return peak * (step + 1) / (warmup + 1) if step < warmup else stable.item()


RIGHT = {
    "minhash": [minhash_whole, minhash_item_by_item, minhash_function_by_function],
    "overlap_share": [overlap_with_flags, overlap_by_word, overlap_by_joining],
    "mark_documents": [marks_in_loops, marks_by_padding, marks_by_roll],
    "accumulated_gradients": [accumulated_by_logits, accumulated_weighted_means, accumulated_at_once],
    "warmup_stable_decay": [wsd_in_three_parts, wsd_by_interpolation, wsd_with_tensors],
}
SYMMETRIC = "max and min do not care about the order"
PARTS = "into how many parts the items are cut does not matter, as long as there is one"
EQUIVALENT = {
    "minhash": {
        "len(hashes) // 4096  ->  Mod": PARTS,
        "4096  ->  4097": PARTS,
        "4096  ->  4095": PARTS,
        "1  ->  2": PARTS,
    },
    "mark_documents": {
        "result in another precision": "the result is a pair of tensors, which this mutant leaves alone"
    },
    "warmup_stable_decay": {
        "0  ->  -1": "no step is below 0 either, so there is no warm-up",
        "min(1.0, max(0, step - (n_steps - decay)) / max(1, decay))  ->  arguments 0 and 1 swapped": SYMMETRIC,
        "max(1, n_steps // 5)  ->  arguments 0 and 1 swapped": SYMMETRIC,
        "max(0, step - (n_steps - decay))  ->  arguments 0 and 1 swapped": SYMMETRIC,
        "max(1, decay)  ->  arguments 0 and 1 swapped": SYMMETRIC,
    },
}
