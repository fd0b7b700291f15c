"""Lesson 12: right answers written differently, and mutants that compute the same."""

from collections import Counter
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F


def rates_with_numpy(sizes, limit=None, temperature=1.0):
    if len(sizes) == 0 or any(n < 1 for n in sizes.values()) or temperature <= 0 or (limit or 1) < 1 or limit == 0:
        raise ValueError("no")
    n = np.array(list(sizes.values()), dtype=float)
    n = np.minimum(n, np.inf if limit is None else limit) ** (1 / temperature)
    return dict(zip(sizes, (n / n.sum()).tolist(), strict=True))


def rates_by_logarithms(sizes, limit=None, temperature=1.0):
    if not sizes or min(sizes.values()) < 1 or not temperature > 0 or (limit is not None and limit < 1):
        raise ValueError("no")
    logs = torch.tensor([min(n, limit or n) for n in sizes.values()], dtype=torch.float64).log() / temperature
    return {task: p.item() for task, p in zip(sizes, logs.softmax(0), strict=True)}


def rates_in_a_loop(sizes, limit=None, temperature=1.0):
    if not sizes:
        raise ValueError("no task")
    if limit is not None and limit < 1:
        raise ValueError("limit")
    if temperature <= 0:
        raise ValueError("temperature")
    weights, total = {}, 0.0
    for task in sizes:
        if sizes[task] < 1:
            raise ValueError(task)
        size = sizes[task]
        if limit is not None and size > limit:
            size = limit
        weights[task] = size ** (1.0 / temperature)
        total += weights[task]
    for task in weights:
        weights[task] /= total
    return weights


def answers_by_cross_entropy(logits, labels):
    B, T, V = logits.shape
    loss = F.cross_entropy(logits.float().reshape(-1, V), labels.reshape(-1), ignore_index=-100, reduction="none")
    return -loss.reshape(B, T).sum(1)


def answers_in_loops(logits, labels):
    sums = []
    for rows, answer in zip(torch.log_softmax(logits.float(), dim=2), labels.tolist(), strict=True):
        sums.append(sum((row[y] for row, y in zip(rows, answer, strict=True) if y != -100), torch.tensor(0.0)))
    return torch.stack(sums)


def answers_with_logsumexp(logits, labels):
    logits = logits.to(torch.float32)
    index = torch.where(labels == -100, torch.zeros_like(labels), labels)
    picked = torch.gather(logits, 2, index.unsqueeze(-1))[..., 0] - logits.logsumexp(-1)
    return torch.where(labels == -100, torch.zeros_like(picked), picked).sum(dim=1)


def counts_in_a_loop(hypothesis, references, n):
    grams = [tuple(hypothesis[i : i + n]) for i in range(max(0, len(hypothesis) - n + 1))]
    matching = 0
    for gram in set(grams):
        most = 0
        for r in references:
            most = max(most, sum(tuple(r[i : i + n]) == gram for i in range(len(r) - n + 1)))
        matching += min(grams.count(gram), most)
    return matching, len(grams)


def counts_with_counters(hypothesis, references, n):
    def grams(words):
        return Counter(zip(*(words[i:] for i in range(n)), strict=False))

    said, limit = grams(hypothesis), Counter()
    for reference in references:
        for gram, count in grams(reference).items():
            limit[gram] = max(limit[gram], count)
    return sum(min(count, limit[gram]) for gram, count in said.items()), sum(said.values())


def counts_by_crossing_out(hypothesis, references, n):
    per_reference = [[tuple(r[i : i + n]) for i in range(len(r) - n + 1)] for r in references]
    grams = [tuple(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1)]
    right = 0
    for gram in grams:
        hit = False
        for left in per_reference:
            if gram in left:
                left.remove(gram)
                hit = True
        right += hit
    return [right, len(grams)]


def brevity_with_numpy(length, reference_length):
    if length == 0:
        return float(reference_length == 0)
    return float(np.exp(min(0.0, 1 - reference_length / length)))


def brevity_nested(length, reference_length):
    if length > reference_length:
        return 1
    if length == reference_length:
        return 1
    if length == 0:
        return 0
    return 2.718281828459045 ** (1 - reference_length / length)


def brevity_with_torch(c, r):
    if c >= r:
        return 1.0
    return 0.0 if c == 0 else torch.exp(torch.tensor(1 - r / c, dtype=torch.float64)).item()


def share_in_a_loop(weights, links):
    if len(links) == 0:
        raise ValueError("no links")
    right, outputs = 0, sorted({j for _, j in links})
    for j in outputs:
        right += (int(weights[j].argmax()), j) in links
    return right / len(outputs)


def share_by_matrix(weights, links):
    if not links:
        raise ValueError("no links")
    truth = torch.zeros_like(weights, dtype=torch.bool)
    for i, j in links:
        truth[j, i] = True
    linked = truth.any(-1)
    hit = truth.gather(-1, weights.argmax(-1, keepdim=True)).squeeze(-1)
    return (hit & linked).sum().item() / linked.sum().item()


def share_with_lists(weights, links):
    if not list(links):
        raise ValueError("no links")
    rows = weights.tolist()
    results = {}
    for i, j in links:
        results[j] = results.get(j, False) or rows[j].index(max(rows[j])) == i
    return sum(results.values()) / len(results)


def lcs_recursive(a, b):
    @lru_cache(None)
    def longest(i, j):
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


def lcs_full_table(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            table[i, j] = table[i - 1, j - 1] + 1 if same else max(table[i - 1, j], table[i, j - 1])
    return table[-1, -1]


def lcs_in_one_row(a, b):
    best = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j in range(len(b)):
            above = best[j + 1]
            best[j + 1] = max(above, best[j], diagonal + (x == b[j]))
            diagonal = above
    return best[len(b)]


RIGHT = {
    "mixing_rates": [rates_with_numpy, rates_by_logarithms, rates_in_a_loop],
    "answer_log_probs": [answers_by_cross_entropy, answers_in_loops, answers_with_logsumexp],
    "clipped_counts": [counts_in_a_loop, counts_with_counters, counts_by_crossing_out],
    "brevity_penalty": [brevity_with_numpy, brevity_nested, brevity_with_torch],
    "aligned_share": [share_in_a_loop, share_by_matrix, share_with_lists],
    "lcs_length": [lcs_recursive, lcs_full_table, lcs_in_one_row],
}
EQUIVALENT = {
    "answer_log_probs": {
        "-1  ->  without USub (#3)": "what is summed has two axes, so axis 1 is the last one",
        "0  ->  1": "which token stands in for padding does not matter: it is not counted",
    },
    "aligned_share": {"-1  ->  without USub": "weights have two axes, so axis 1 is the last one"},
    "lcs_length": {
        "1  ->  2": "a zero too many in the first row is never read",
        "max(above[j + 1], row[j])  ->  arguments 0 and 1 swapped": "the larger of two is the same both ways",
    },
}
