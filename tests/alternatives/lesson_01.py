"""Lesson 01: right answers written differently, and mutants that compute the same."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import torch
from torch.nn import functional as F


def counts_with_defaultdict(documents, n):
    counts = defaultdict(Counter)
    for document in documents:
        history = ("<start>",) * (n - 1)
        for token in document:
            counts[history][token] += 1
            history = (*history, token)[1:]
    return counts


def counts_with_plain_dicts(documents, n):
    counts = {}
    for document in documents:
        padded = ["<start>" for _ in range(n - 1)] + document
        for gram in zip(*(padded[i:] for i in range(n)), strict=False):
            followers = counts.setdefault(gram[:-1], {})
            followers[gram[-1]] = followers.get(gram[-1], 0) + 1
    return counts


def counts_grams_first(documents, n):
    grams = Counter(tuple((["<start>"] * (n - 1) + list(d))[i : i + n]) for d in documents for i in range(len(d)))
    return {
        context: Counter({g[-1]: c for g, c in grams.items() if g[:-1] == context})
        for context in {g[:-1] for g in grams}
    }


def pick_with_accumulate(probs, u):
    possible = [(token, p) for token, p in probs.items() if p > 0]
    if not possible:
        raise ValueError("nothing to pick")
    sums = list(itertools.accumulate(p for _, p in possible))
    return next((token for (token, _), s in zip(possible, sums, strict=True) if u < s), possible[-1][0])


def pick_by_subtraction(probs, u):
    last = None
    for token, p in probs.items():
        if p <= 0:
            continue
        last = token
        u -= p
        if u < 0:
            return token
    if last is None:
        raise ValueError("nothing to pick")
    return last


def pick_with_numpy(probs, u):
    tokens = [t for t in probs if probs[t] > 0]
    if len(tokens) == 0:
        raise ValueError
    i = np.searchsorted(np.cumsum([probs[t] for t in tokens]), u, side="right")
    return tokens[min(i, len(tokens) - 1)]


def bits_with_log2(log_probs, text):
    if len(text) == 0:
        raise ValueError("empty")
    return sum(-p * math.log2(math.e) for p in log_probs) / len(bytes(text, "utf8"))


def bits_with_numpy(log_probs, text):
    if not text.encode():
        raise ValueError
    return float(-np.sum(log_probs) / np.log(2) / len(text.encode()))


def bits_with_torch(log_probs, text):
    if text == "":
        raise ValueError
    return -torch.tensor(log_probs, dtype=torch.float64).sum() / math.log(2) / len(list(text.encode()))


def witten_bell_as_mixture(count, total, distinct, lower):
    trust = total / (total + distinct)
    return trust * (count / total) + (1 - trust) * lower


def witten_bell_two_fractions(count, total, distinct, lower):
    return count / (total + distinct) + distinct * lower / (total + distinct)


def witten_bell_numpy(count, total, distinct, lower):
    return np.float64(count + distinct * lower) / (distinct + total)


def gradient_with_autograd(table, x, y):
    table = table.clone().requires_grad_(True)
    F.cross_entropy(table[x], y).backward()
    return table.grad


def gradient_with_a_loop(table, x, y):
    gradient = torch.zeros_like(table)
    for i, j in zip(x.tolist(), y.tolist(), strict=True):
        gradient[i] += torch.softmax(table[i], 0) / len(x)
        gradient[i, j] -= 1 / len(x)
    return gradient


def gradient_from_counts(table, x, y):
    v = len(table)
    counts = torch.bincount(x * v + y, minlength=v * v).view(v, v).to(table.dtype)
    return (counts.sum(1, keepdim=True) * torch.softmax(table, 1) - counts) / len(x)


def continuation_with_sets(counts):
    before = defaultdict(set)
    for context, followers in counts.items():
        for token in followers:
            before[context[1:], token].add(context[0])
    lower = defaultdict(dict)
    for (context, token), firsts in before.items():
        lower[context][token] = len(firsts)
    return dict(lower)


def continuation_with_loops(counts):
    lower = {}
    for context in counts:
        for token in counts[context]:
            lower.setdefault(context[1:], Counter())[token] += 1
    return lower


def continuation_one_counter(counts):
    flat = Counter((context[1:], token) for context, followers in counts.items() for token in followers)
    lower = {}
    for (context, token), number in flat.items():
        lower.setdefault(context, {})[token] = number
    return lower


RIGHT = {
    "count_ngrams": [counts_with_defaultdict, counts_with_plain_dicts, counts_grams_first],
    "pick": [pick_with_accumulate, pick_by_subtraction, pick_with_numpy],
    "bits_per_byte": [bits_with_log2, bits_with_numpy, bits_with_torch],
    "witten_bell": [witten_bell_as_mixture, witten_bell_two_fractions, witten_bell_numpy],
    "bigram_gradient": [gradient_with_autograd, gradient_with_a_loop, gradient_from_counts],
    "continuation_counts": [continuation_with_sets, continuation_with_loops, continuation_one_counter],
}

EQUIVALENT = {
    "bigram_gradient": {
        "-1  ->  without USub": "table[x] has two axes, so axis 1 is the last one",
        "1  ->  0 (#2)": "the table is square: shape[0] is shape[1]",
    }
}
