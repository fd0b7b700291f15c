"""Lesson 12: shares of tasks, probabilities of answers, BLEU's counts and brevity, alignment, ROUGE-L's subsequence."""

import math
import random
from collections import Counter

import torch
from torch.nn import functional as F

from llmkit.course.exercise import Case, Exercise
from llmkit.evaluation.alignment import aligned_share
from llmkit.evaluation.bleu import clipped_counts
from llmkit.evaluation.overlap import ngrams
from llmkit.evaluation.rouge import lcs_length
from llmkit.generation.choose import answer_log_probs

IGNORE = -100


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- 12.1 mixing_rates ---


def mixing_cases() -> list[Case]:
    sizes = {"translation": 9000, "sentiment": 1000}
    three = {"a": 100, "b": 400, "c": 900}
    return [
        Case("neither limit nor temperature", lambda: (dict(sizes),)),
        Case("one task", lambda: ({"alone": 7},)),
        Case("three tasks", lambda: (dict(three),)),
        Case("a limit", lambda: ({"translation": 8000, "sentiment": 1000}, 3000)),
        Case("a limit that nobody reaches", lambda: (dict(three), 5000)),
        Case("a limit of 1: all alike", lambda: (dict(three), 1)),
        Case("a size that is the limit", lambda: (dict(three), 400)),
        Case("temperature 2", lambda: (dict(sizes), None, 2.0)),
        Case("temperature 0.5 draws them apart", lambda: (dict(three), None, 0.5)),
        Case("limit, then temperature", lambda: (dict(three), 400, 2.0)),
        Case("four tasks", lambda: ({"a": 3, "b": 50, "c": 11, "d": 1}, 20, 3.0)),
        Case("no task is refused", lambda: ({},)),
        Case("a task without examples is refused", lambda: ({"a": 5, "b": 0},)),
        Case("a limit of 0 is refused", lambda: ({"a": 5}, 0)),
        Case("temperature 0 is refused", lambda: ({"a": 5}, None, 0.0)),
        Case("a negative temperature is refused", lambda: ({"a": 5, "b": 2}, None, -1.0)),
    ]


def _refuse_mixture(sizes, limit, temperature):
    if not sizes or min(sizes.values()) < 1 or (limit is not None and limit < 1) or temperature <= 0:
        raise ValueError("mixture")


def _rates(sizes, limit, temperature, weigh):
    _refuse_mixture(sizes, limit, temperature)
    weights = {task: weigh(n, math.inf if limit is None else limit, temperature) for task, n in sizes.items()}
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


def mixing_no_limit(sizes, limit=None, temperature=1.0):
    return _rates(sizes, limit, temperature, lambda n, k, t: n ** (1 / t))


def mixing_no_temperature(sizes, limit=None, temperature=1.0):
    return _rates(sizes, limit, temperature, lambda n, k, t: min(n, k))


def mixing_power_of_t(sizes, limit=None, temperature=1.0):
    return _rates(sizes, limit, temperature, lambda n, k, t: min(n, k) ** t)


def mixing_temperature_first(sizes, limit=None, temperature=1.0):
    return _rates(sizes, limit, temperature, lambda n, k, t: min(n ** (1 / t), k))


def mixing_at_least(sizes, limit=None, temperature=1.0):
    return _rates(sizes, limit, temperature, lambda n, k, t: (n if k == math.inf else max(n, k)) ** (1 / t))


def mixing_not_normalised(sizes, limit=None, temperature=1.0):
    _refuse_mixture(sizes, limit, temperature)
    total = sum(n if limit is None else min(n, limit) for n in sizes.values())
    return {t: ((n if limit is None else min(n, limit)) / total) ** (1 / temperature) for t, n in sizes.items()}


def mixing_divided_by_all(sizes, limit=None, temperature=1.0):
    _refuse_mixture(sizes, limit, temperature)
    total = sum(n ** (1 / temperature) for n in sizes.values())
    return {t: (n if limit is None else min(n, limit)) ** (1 / temperature) / total for t, n in sizes.items()}


def mixing_softmax(sizes, limit=None, temperature=1.0):
    _refuse_mixture(sizes, limit, temperature)
    capped = [n if limit is None else min(n, limit) for n in sizes.values()]
    return dict(zip(sizes, (torch.tensor(capped, dtype=torch.float64) / temperature).softmax(0).tolist(), strict=True))


def mixing_never_refuses(sizes, limit=None, temperature=1.0):
    weights = {task: (n if limit is None else min(n, limit)) ** (1 / temperature) for task, n in sizes.items()}
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


def mixing_limit_zero_is_none(sizes, limit=None, temperature=1.0):
    return _rates(sizes, limit or None, temperature, lambda n, k, t: min(n, k) ** (1 / t))


def mixing_undivided(sizes, limit=None, temperature=1.0):
    _refuse_mixture(sizes, limit, temperature)
    return {task: (n if limit is None else min(n, limit)) ** (1 / temperature) for task, n in sizes.items()}


def mixing_divided_by_sizes(sizes, limit=None, temperature=1.0):
    _refuse_mixture(sizes, limit, temperature)
    capped = {task: n if limit is None else min(n, limit) for task, n in sizes.items()}
    return {task: n ** (1 / temperature) / sum(capped.values()) for task, n in capped.items()}


def mixing_as_list(sizes, limit=None, temperature=1.0):
    return list(_rates(sizes, limit, temperature, lambda n, k, t: min(n, k) ** (1 / t)).values())


# --- 12.2 answer_log_probs ---


def answer_cases() -> list[Case]:
    def make(B, T, V, lengths, seed, dtype=torch.float32):
        labels = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))
        labels = labels.masked_fill(torch.arange(T) >= torch.tensor(lengths)[:, None], IGNORE)
        return _random(B, T, V, seed=seed, dtype=dtype) * 2, labels

    return [
        Case("the example: 0.5 times 0.25", lambda: (torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]).log(), torch.tensor([[1, 0]]))),
        Case("one token", lambda: make(1, 1, 5, [1], 0)),
        Case("three answers, no padding", lambda: make(3, 4, 7, [4, 4, 4], 1)),
        Case("the second answer is shorter", lambda: make(2, 3, 5, [3, 1], 2)),
        Case("three lengths", lambda: make(3, 5, 6, [2, 5, 3], 3)),
        Case("a row of padding alone", lambda: make(2, 3, 5, [0, 2], 4)),
        Case("the probability of token 0 is not that of padding", lambda: (torch.tensor([[[0.0, 9.0], [0.0, 9.0]]]), torch.tensor([[1, IGNORE]]))),
        Case("half precision comes back in float32", lambda: make(2, 4, 9, [4, 2], 5, torch.bfloat16)),
        Case("logits far from 0", lambda: (_random(2, 3, 4, seed=6) * 50 + 300, torch.tensor([[0, 3, 1], [2, 2, IGNORE]]))),
    ]  # fmt: skip


def _picked(logits, labels):
    return logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)


def answer_mean(logits, labels):
    counted = labels != IGNORE
    return (_picked(logits, labels) * counted).sum(-1) / counted.sum(-1).clamp(min=1)


def answer_mean_in_half(logits, labels):
    return answer_half_precision(logits, labels) / (labels != IGNORE).sum(-1)


def answer_mean_of_all_places(logits, labels):
    return (_picked(logits, labels) * (labels != IGNORE)).mean(-1)


def answer_padding_counted(logits, labels):
    return _picked(logits, labels).sum(-1)


def answer_logits_summed(logits, labels):
    picked = logits.float().gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return (picked * (labels != IGNORE)).sum(-1)


def answer_probability(logits, labels):
    return answer_log_probs(logits, labels).exp()


def answer_probabilities_summed(logits, labels):
    return (_picked(logits, labels).exp() * (labels != IGNORE)).sum(-1)


def answer_loss(logits, labels):
    return -answer_log_probs(logits, labels)


def answer_shifted(logits, labels):
    moved = _picked(logits[:, :-1], labels[:, 1:])
    return (moved * (labels[:, 1:] != IGNORE)).sum(-1)


def answer_of_all_rows(logits, labels):
    return answer_log_probs(logits, labels).sum().expand(len(labels))


def answer_softmax_over_time(logits, labels):
    picked = logits.float().log_softmax(1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return (picked * (labels != IGNORE)).sum(-1)


def answer_best_instead(logits, labels):
    return (logits.float().log_softmax(-1).amax(-1) * (labels != IGNORE)).sum(-1)


def answer_half_precision(logits, labels):
    counted = labels != IGNORE
    picked = logits.log_softmax(-1).gather(-1, labels.masked_fill(~counted, 0)[..., None]).squeeze(-1)
    return (picked * counted).sum(-1)


def answer_gathers_minus_hundred(logits, labels):
    picked = logits.float().log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    return (picked * (labels != IGNORE)).sum(-1)


def answer_one_number(logits, labels):
    return answer_log_probs(logits, labels).sum()


def answer_mean_loss(logits, labels):
    return -F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)


def answer_in_place(logits, labels):
    padding = labels == IGNORE
    labels[padding] = 0
    return answer_log_probs(logits, labels.masked_fill(padding, IGNORE))


def answer_without_end(logits, labels):
    last = (labels != IGNORE).sum(-1, keepdim=True) - 1
    return answer_log_probs(logits, labels.masked_fill(torch.arange(labels.size(1)) == last, IGNORE))


# --- 12.3 exactly right, by hand ---


def n_exact() -> int:
    return 171


# --- 12.4 clipped_counts (find the bug) ---


def clipped_cases() -> list[Case]:
    def words(text):
        return text.split()

    rng = random.Random(4)

    def some(n, letters="abcd"):
        return [rng.choice(letters) for _ in range(n)]

    drawn = [(some(9), [some(8), some(10)], n) for n in (1, 2, 3)] + [(some(12, "ab"), [some(7, "ab")] * 2, 2)]
    cases = [
        Case("one word, and it is right", lambda: (["cat"], [["cat"]], 1)),
        Case("one of three words", lambda: (words("a big dog"), [words("the red dog")], 1)),
        Case("the example", lambda: (["the"] * 7, [words("the cat is on the mat"), words("there is a cat on the mat")], 1)),
        Case("pairs", lambda: (words("the cat the cat sat"), [words("the cat sat on the mat")], 2)),
        Case("two references, each with one: at most one", lambda: (words("a a a"), [["a", "b"], ["b", "a"]], 1)),
        Case("each word from another reference", lambda: (words("a b c"), [words("a x"), words("b y c c")], 1)),
        Case("shorter than n", lambda: (words("a b"), [words("a b c")], 3)),
        Case("an empty translation", lambda: ([], [words("a b c")], 1)),
        Case("the reference has it more often", lambda: (words("a"), [words("a a a")], 1)),
        Case("four words at once", lambda: (words("a b c d e"), [words("z a b c d")], 4)),
    ]  # fmt: skip
    for hypothesis, references, n in drawn:
        cases.append(Case(f"drawn words, n = {n}", lambda h=hypothesis, r=references, n=n: (list(h), [list(x) for x in r], n)))  # fmt: skip
    return cases


def _grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def counts_not_clipped(hypothesis, references, n):
    known = set()
    for reference in references:
        known |= set(ngrams(reference, n))
    said = ngrams(hypothesis, n)
    return sum(count for gram, count in said.items() if gram in known), said.total()


def counts_each_once(hypothesis, references, n):
    known = set()
    for reference in references:
        known |= set(_grams(reference, n))
    said = _grams(hypothesis, n)
    return len(set(said) & known), sum(said.values())


def counts_each_once_of_different(hypothesis, references, n):
    known = set()
    for reference in references:
        known |= set(_grams(reference, n))
    said = _grams(hypothesis, n)
    return len(set(said) & known), len(said)


def counts_references_added(hypothesis, references, n):
    together = Counter()
    for reference in references:
        together += _grams(reference, n)
    said = _grams(hypothesis, n)
    return (said & together).total(), said.total()


def counts_first_reference(hypothesis, references, n):
    return clipped_counts(hypothesis, references[:1], n)


def counts_best_reference(hypothesis, references, n):
    return max(clipped_counts(hypothesis, [reference], n) for reference in references)


def counts_in_every_reference(hypothesis, references, n):
    common = _grams(references[0], n)
    for reference in references[1:]:
        common &= _grams(reference, n)
    said = _grams(hypothesis, n)
    return (said & common).total(), said.total()


def counts_recall(hypothesis, references, n):
    return clipped_counts(hypothesis, references, n)[0], sum(_grams(references[0], n).values())


def counts_of_all_references(hypothesis, references, n):
    most = Counter()
    for reference in references:
        most |= _grams(reference, n)
    return clipped_counts(hypothesis, references, n)[0], most.total()


def counts_words_in_total(hypothesis, references, n):
    return clipped_counts(hypothesis, references, n)[0], len(hypothesis)


def counts_different_in_total(hypothesis, references, n):
    return clipped_counts(hypothesis, references, n)[0], len(_grams(hypothesis, n))


def counts_matching_alone(hypothesis, references, n):
    return clipped_counts(hypothesis, references, n)[0]


def counts_always_words(hypothesis, references, n):
    return clipped_counts(hypothesis, references, 1)


def counts_swapped(hypothesis, references, n):
    return clipped_counts(hypothesis, references, n)[::-1]


def counts_precision(hypothesis, references, n):
    matching, total = clipped_counts(hypothesis, references, n)
    return matching / total if total else 0.0


# --- 12.5 brevity_penalty ---


def brevity_cases() -> list[Case]:
    pairs = [(10, 10), (12, 10), (5, 10), (9, 10), (1, 10), (0, 4), (0, 0), (3, 0), (300, 301), (77, 154), (1000, 7)]
    names = {(10, 10): "as long", (12, 10): "longer", (5, 10): "half as long", (0, 4): "nothing was said", (0, 0): "nothing, and nothing was wanted"}  # fmt: skip
    return [Case(names.get(pair, f"{pair[0]} of {pair[1]}"), lambda pair=pair: pair) for pair in pairs]


def _brevity(short):
    def penalty(length, reference_length):
        if length >= reference_length:
            return 1.0
        return short(length, reference_length) if length else 0.0

    return penalty


def brevity_also_longer(length, reference_length):
    return math.exp(1 - reference_length / length) if length else float(not reference_length)


def brevity_wrong_way(length, reference_length):
    if not reference_length:
        return 1.0
    return 1.0 if length <= reference_length else math.exp(1 - length / reference_length)


def brevity_divides_by_zero(length, reference_length):
    return 1.0 if length >= reference_length else math.exp(1 - reference_length / length)


def brevity_at_least_one_token(length, reference_length):
    return 1.0 if length >= reference_length else math.exp(1 - reference_length / max(length, 1))


def brevity_nothing_is_zero(length, reference_length):
    return min(1.0, math.exp(1 - reference_length / length)) if length else 0.0


# --- 12.6 aligned_share ---


def alignment_cases() -> list[Case]:
    def drawn(T, S, seed, n_links):
        rng = random.Random(seed)
        links = [(rng.randrange(S), rng.randrange(T)) for _ in range(n_links)]
        return _random(T, S, seed=seed).softmax(-1), links

    return [
        Case("the example", lambda: (torch.tensor([[0.1, 0.9], [0.2, 0.8]]), [(1, 0), (0, 1)])),
        Case("one word", lambda: (torch.tensor([[1.0]]), [(0, 0)])),
        Case("two output words, three input words", lambda: (torch.tensor([[0.2, 0.1, 0.7], [0.6, 0.3, 0.1]]), [(2, 0), (1, 1)])),
        Case("an output word without a link does not count", lambda: (torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]), [(0, 0), (1, 2)])),
        Case("two input words for one: either is enough", lambda: (torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]]), [(1, 0), (2, 0), (2, 1)])),
        Case("one input word for two", lambda: (torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]]), [(0, 0), (0, 1), (0, 2)])),
        Case("equal weights: the first counts", lambda: (torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]), [(1, 0), (1, 1)])),
        Case("links in another order", lambda: (torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2]]), [(0, 2), (1, 1), (1, 0)])),
        Case("a link twice", lambda: (torch.tensor([[0.6, 0.4], [0.8, 0.2]]), [(0, 0), (0, 0), (1, 1)])),
        *[Case(f"drawn, {T} by {S}", lambda T=T, S=S, seed=seed: drawn(T, S, seed, T)) for seed, (T, S) in enumerate(((5, 9), (7, 4), (6, 12)))],
        Case("no links are refused", lambda: (torch.tensor([[0.5, 0.5]]), [])),
    ]  # fmt: skip


def _by_output(links):
    if not links:
        raise ValueError("links")
    meant = {}
    for i, j in links:
        meant.setdefault(j, set()).add(i)
    return meant


def share_of_links(weights, links):
    _by_output(links)
    best = weights.argmax(-1).tolist()
    return sum(best[j] == i for i, j in links) / len(links)


def share_all_links_of_a_hit(weights, links):
    _by_output(links)
    best = weights.argmax(-1).tolist()
    return sum((best[j], j) in links for _, j in links) / len(links)


def share_of_columns(weights, links):
    meant, best = _by_output(links), weights.argmax(0).tolist()
    return sum(j < len(best) and best[j] in inputs for j, inputs in meant.items()) / len(meant)


def share_of_all_outputs(weights, links):
    meant, best = _by_output(links), weights.argmax(-1).tolist()
    return sum(best[j] in inputs for j, inputs in meant.items()) / len(weights)


def share_from_the_inputs(weights, links):
    _by_output(links)
    meant = {}
    for i, j in links:
        meant.setdefault(i, set()).add(j)
    best = weights.argmax(0).tolist()
    return sum(best[i] in outputs for i, outputs in meant.items()) / len(meant)


def share_of_weight(weights, links):
    meant = _by_output(links)
    return sum(weights[j, sorted(inputs)].sum().item() for j, inputs in meant.items()) / len(meant)


def share_last_link_only(weights, links):
    _by_output(links)
    best, last = weights.argmax(-1).tolist(), {j: i for i, j in links}
    return sum(best[j] == i for j, i in last.items()) / len(last)


def share_with_links_exchanged(weights, links):
    meant, best = _by_output([(j, i) for i, j in links]), weights.argmax(-1).tolist()
    return sum(best[j] in inputs for j, inputs in meant.items()) / len(meant)


def share_of_links_from_the_inputs(weights, links):
    _by_output(links)
    best = weights.argmax(0).tolist()
    return sum(best[i] == j for i, j in links) / len(links)


def share_any_of_equal(weights, links):
    meant = _by_output(links)
    return sum(any(weights[j, i] == weights[j].max() for i in inputs) for j, inputs in meant.items()) / len(meant)


def share_number_not_share(weights, links):
    return aligned_share(weights, links) * len(_by_output(links))


def share_empty_is_zero(weights, links):
    return aligned_share(weights, links) if links else 0.0


def share_empty_divides(weights, links):
    return aligned_share(weights, links) if links else 0 / 0


# --- 12.7 lcs_length ---


def lcs_cases() -> list[Case]:
    rng = random.Random(7)

    def some(n, letters):
        return [rng.choice(letters) for _ in range(n)]

    drawn = [
        (some(n, letters), some(m, letters)) for n, m, letters in ((6, 9, "abc"), (12, 7, "ab"), (15, 15, "abcde"))
    ]
    cases = [
        Case("equal", lambda: (["a", "b"], ["a", "b"])),
        Case("nothing in common", lambda: (["a", "b"], ["c"])),
        Case("the example", lambda: ("police killed the gunman".split(), "the gunman killed police".split())),
        Case("a gap in one", lambda: (list("axbyc"), list("abc"))),
        Case("gaps in both", lambda: (list("axbc"), list("abyc"))),
        Case("the other way round: only one", lambda: (list("abc"), list("cba"))),
        Case("a word counts once for each time that both have it", lambda: (list("aab"), list("ab"))),
        Case("the same word twice in both", lambda: (list("aba"), list("aa"))),
        Case("the first match is not the best", lambda: (list("abcd"), list("dabc"))),
        Case("the first text is empty", lambda: ([], ["a"])),
        Case("the second text is empty", lambda: (["a"], [])),
        Case("both are empty", lambda: ([], [])),
        Case("strings are sequences too", lambda: ("summary", "smart")),
    ]  # fmt: skip
    cases += [Case(f"{len(a)} and {len(b)} drawn words", lambda a=a, b=b: (list(a), list(b))) for a, b in drawn]
    return cases + [Case("long ones", lambda: ([str(i % 7) for i in range(60)], [str(i * 3 % 11) for i in range(70)]))]


def lcs_as_bags(a, b):
    return (Counter(a) & Counter(b)).total()


def lcs_as_sets(a, b):
    return len(set(a) & set(b))


def lcs_same_places(a, b):
    return sum(x == y for x, y in zip(a, b, strict=False))


def lcs_common_beginning(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def lcs_neighbours(a, b):
    best, above = 0, [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else 0)
        best, above = max(best, *row), row
    return best


def lcs_greedy(a, b):
    at, n = 0, 0
    for x in a:
        if x in b[at:]:
            at += list(b[at:]).index(x) + 1
            n += 1
    return n


def lcs_word_twice(a, b):
    above = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(max(above[j + 1], row[j]) + (x == y))
        above = row
    return above[-1]


def lcs_largest_neighbour_diagonal(a, b):
    above = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else above[j])
        above = row
    return above[-1]


def lcs_one_row_many_times(a, b):
    table = [[0] * (len(b) + 1)] * (len(a) + 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def lcs_without_the_last(a, b):
    return lcs_length(a[:-1], b[:-1])


def lcs_itself(a, b):
    """The words, not how many: followed back through a full table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    i, j, found = len(a), len(b), []
    while i and j:
        if a[i - 1] == b[j - 1]:
            found.insert(0, a[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] >= table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def lcs_share(a, b):
    return lcs_length(a, b) / len(b) if len(b) else 0.0


EXERCISES = [
    Exercise(
        number="12.1",
        name="mixing_rates",
        reference="llmkit.data.mixture:mixing_rates",
        cases=mixing_cases,
        hints=(
            "First a weight for each task: its size, or the limit where that is smaller.",
            "A root is a power too: the T-th root of n is n ** (1 / T).",
            "Divide by the sum of the weights, and not by that of the sizes.",
        ),
        wrong={
            "the limit was not used: a task counts as at most so large": mixing_no_limit,
            "the temperature changes nothing here: it is a root, the exponent 1 / T, and not a factor": mixing_no_temperature,
            "that is the power T, which draws the sizes apart; the exponent is 1 / T": mixing_power_of_t,
            "the limit was applied after the temperature; it is a number of examples, so it comes first": (
                mixing_temperature_first
            ),
            "with max a task counts as at *least* so large": mixing_at_least,
            "the shares do not sum to 1: the power has to come before the division by the sum": mixing_not_normalised,
            "divided by the sum without the limit, so the shares do not sum to 1": mixing_divided_by_all,
            "that is a softmax of the sizes, which gives the largest task everything": mixing_softmax,
            "no task, a size or a limit below 1, a temperature that is not above 0: each raises a ValueError": (
                mixing_never_refuses
            ),
            "a limit of 0 is refused too; ask `limit is not None`, because 0 counts as false": mixing_limit_zero_is_none,
            "these are weights, not shares yet: divide each by their sum": mixing_undivided,
            "divided by the sum of the sizes; the powers are divided by the sum of the powers": mixing_divided_by_sizes,
            "the shares are right, but a dictionary is wanted, task to share": mixing_as_list,
        },
    ),
    Exercise(
        number="12.2",
        name="answer_log_probs",
        reference="llmkit.generation.choose:answer_log_probs",
        cases=answer_cases,
        tolerance=1e-5,
        hints=(
            "logits.float().log_softmax(-1) has the log-probability of every token at every place, (B, T, V).",
            "gather refuses -100: put any token that exists in its place first, and take care that it counts 0 after.",
            "After gather the last axis has length 1: squeeze(-1). Then the padded places become 0, then comes the sum.",
        ),
        wrong={
            "that is the mean over the tokens; the probability of the whole answer is the sum of the logarithms": answer_mean,
            "that is the mean over all places, padding among them; take the sum": answer_mean_of_all_places,
            "that is the mean over the tokens, and in half precision; take the sum, and logits.float() first": answer_mean_in_half,
            "padding was counted as if it were token 0": answer_padding_counted,
            "logits were added up; log_softmax makes log-probabilities of them first": answer_logits_summed,
            "that is the probability; its logarithm is wanted": answer_probability,
            "probabilities were added up; their logarithms are": answer_probabilities_summed,
            "that is -log P, a loss; log P is wanted": answer_loss,
            "the labels were moved by one; here the logits at a place predict the label at that place": answer_shifted,
            "the sum went over all answers; each row has its own": answer_of_all_rows,
            "the softmax goes over the vocabulary, the last axis": answer_softmax_over_time,
            "that is the probability of the model's favourites, whatever the labels say": answer_best_instead,
            "computed in half precision; logits.float() comes first": answer_half_precision,
            "gather was given -100, which is no token: put one in its place before, and let it count 0 after": (
                answer_gathers_minus_hundred
            ),
            "that is one number for all answers; each row has its own": answer_one_number,
            "that is the mean over the tokens of all answers; each row has its own sum": answer_mean_loss,
            "-100 was overwritten in `labels` itself; masked_fill makes a new tensor": answer_in_place,
            "the last token was left out: the end of an answer is part of it": answer_without_end,
        },
    ),
    Exercise(
        number="12.3",
        name="n_exact",
        reference=n_exact,
        tolerance=0.0,
        hints=(
            "Take one of the sentences in which all tokens are right. What does the model read when it writes the second token freely?",
            "Take one of the others, and look at the first token that is wrong. What has the model read up to there, in both cases?",
        ),
        wrong={
            "those are the sentences with a mistake; the first mistake happens in free writing too": lambda: 129,
            "in the others there is at least one wrong token, and it is wrong in free writing too": lambda: 300,
            "as long as nothing is wrong, its own beginning *is* the true one": lambda: 0,
            "how many sentences, not which share": lambda: 171 / 300,
            "in per cent; how many sentences was asked": lambda: 57,
        },
    ),
    Exercise(
        number="12.4",
        name="clipped_counts",
        reference="llmkit.evaluation.bleu:clipped_counts",
        cases=clipped_cases,
        starts_from=counts_not_clipped,
        tolerance=0.0,
        hints=(
            "A set knows whether something occurs. What is needed is how often.",
            "For counters, a & b keeps the smaller count of each key, a | b the larger one, a + b the sum.",
            "Seven times “the”: which of these three joins the references, and which compares them with the translation?",
        ),
        wrong={
            "not clipped: an n-gram of the reference counts however often it is repeated": counts_not_clipped,
            "each n-gram counted once; one that the reference has twice may be right twice": counts_each_once,
            "each n-gram was counted once, in the total too": counts_each_once_of_different,
            "the references' counts were added up; an n-gram may count as often as in the one that has it most": (
                counts_references_added
            ),
            "only the first reference was looked at": counts_first_reference,
            "the best single reference; n-grams may come from different ones": counts_best_reference,
            "an n-gram has to be in one reference, not in all of them": counts_in_every_reference,
            "the second number is how many n-grams the translation has, not the reference": counts_recall,
            "the second number is how many n-grams the translation has, not the references together": (
                counts_of_all_references
            ),
            "the second number counts n-grams, and a text has fewer pairs than words": counts_words_in_total,
            "in the second number len() counts *different* n-grams; .total() counts each as often as it is said": (
                counts_different_in_total
            ),
            "a pair is wanted: how many match, and how many there are": counts_matching_alone,
            "single words were counted, whatever n is": counts_always_words,
            "the matching ones come first": counts_swapped,
            "both numbers are wanted, undivided: a corpus adds them up first": counts_precision,
        },
    ),
    Exercise(
        number="12.5",
        name="brevity_penalty",
        reference="llmkit.evaluation.bleu:brevity_penalty",
        cases=brevity_cases,
        hints=(
            "Begin with the case where nothing is taken away: c at least as large as r.",
            "Half as long gives exp(1 - 2) = 0.37, so the larger number is above.",
            "What is left when c is 0 and r is not? The limit of exp(1 - r / c) for ever smaller c.",
        ),
        wrong={
            "longer translations get more than 1: the factor is 1 from c = r on": brevity_also_longer,
            "the wrong way round: it is the shorter translations that lose": brevity_wrong_way,
            "no tokens where some were wanted is 0, the limit; counted as one token they still get something": (
                brevity_at_least_one_token
            ),
            "no tokens where none were wanted is no fault: 1": brevity_nothing_is_zero,
            "c = 0 divides by zero; the factor is 0 there": brevity_divides_by_zero,
            "the fraction is upside down: exp(1 - c / r) is above 1": _brevity(lambda c, r: math.exp(1 - c / r)),
            "that is the plain ratio c / r; BLEU's factor falls faster": _brevity(lambda c, r: c / r),
            "1 - is missing in the exponent: at c = r the factor has to be 1": _brevity(lambda c, r: math.exp(-r / c)),
            "the exponent is 1 minus the ratio, not the difference of the lengths": _brevity(
                lambda c, r: math.exp(c - r)
            ),
        },
    ),
    Exercise(
        number="12.6",
        name="aligned_share",
        reference="llmkit.evaluation.alignment:aligned_share",
        cases=alignment_cases,
        hints=(
            "weights.argmax(-1) gives for each output word the input word that it looks at most.",
            "Collect first, for each output word, the set of its input words: a link is (input, output).",
            "Then count output words, each once, and divide by how many have a link at all.",
        ),
        wrong={
            "links were counted; an output word with two right input words would need both": share_of_links,
            "every link of an output word that is right was counted; count the word once": share_all_links_of_a_hit,
            "weights[:, j] is a column, the output words that look at input word j; take the largest of row j": share_of_columns,
            "divided by all output words; those without a link do not count": share_of_all_outputs,
            "the other direction: for each *input* word the output word that looks at it most": share_from_the_inputs,
            "a link is (input word, output word); here they are exchanged": share_with_links_exchanged,
            "the largest of a *column* is the output word that looks there most; take the largest of each row": (
                share_of_links_from_the_inputs
            ),
            "of equal weights only the first counts": share_any_of_equal,
            "that is how much weight lies on the right words; the question is where the largest one lies": share_of_weight,
            "an output word kept only its last link; any of its input words is enough": share_last_link_only,
            "that is how many words; divide by how many have a link": share_number_not_share,
            "without links there is nothing to hit: raise a ValueError": share_empty_is_zero,
            "without links it divides by zero: raise a ValueError that says so": share_empty_divides,
        },
    ),
    Exercise(
        number="12.7",
        name="lcs_length",
        reference="llmkit.evaluation.rouge:lcs_length",
        cases=lcs_cases,
        hints=(
            "Ask for the first i items of a and the first j of b. If their last items are equal, both are used; what is left?",
            "If they differ, at least one of the two last items is not used: leave out either, and take the better.",
            "A table with a row and a column of zeros in front needs no special case for empty texts.",
        ),
        wrong={
            "that counts words both have; they must also come in the same order": lcs_as_bags,
            "that counts different words both have; order matters, and a word may come twice": lcs_as_sets,
            "words were compared place by place; gaps are allowed": lcs_same_places,
            "it stops at the first difference; gaps are allowed": lcs_common_beginning,
            "that is the longest run of neighbours; gaps are allowed": lcs_neighbours,
            "each word took the first match that was left; that can use up the ones behind it": lcs_greedy,
            "where two items are equal, count them on top of what both texts had *before* them, or an item is used twice": (
                lcs_word_twice
            ),
            "where they differ, take the better of leaving out one of them; here both were left out": (
                lcs_largest_neighbour_diagonal
            ),
            "a row was overwritten while the row before was still needed: keep that until the new one is complete (`[[0] * n] * m` is one row m times; make each anew)": (
                lcs_one_row_many_times
            ),
            "the last item of each text was left out: with a row of zeros in front the table has len + 1 rows": (
                lcs_without_the_last
            ),
            "that is the subsequence; its length is wanted": lcs_itself,
            "that is divided by a length already; the length itself is wanted": lcs_share,
        },
    ),
]
