"""Lesson 01: counting, sampling, measuring, smoothing, and the smallest neural model."""

import math
import random
from collections import Counter

import torch
from torch.nn import functional as F

from llmkit.course.exercise import Case, Exercise
from llmkit.evaluation.metrics import bits_per_byte
from llmkit.generation.sampling import pick
from llmkit.models.ngram import START, count_ngrams

MAT_SENTENCES = (
    "the cat sat on the mat",
    "the dog sat on the rug",
    "the cat saw the bird",
    "the dog lay on the mat",
)


def p_mat() -> float:
    followers = count_ngrams([sentence.split() for sentence in MAT_SENTENCES], 2)[("the",)]
    return followers["mat"] / sum(followers.values())


def p_mat_of_all_words() -> float:
    words = " ".join(MAT_SENTENCES).split()
    return words.count("mat") / len(words)


def p_mat_without_sentence_starts() -> float:
    return 2 / (8 - len(MAT_SENTENCES))


def p_mat_of_different_words() -> float:
    return 1 / len(count_ngrams([sentence.split() for sentence in MAT_SENTENCES], 2)[("the",)])


def p_mat_once() -> float:
    return 1 / 8


def p_mat_in_percent() -> float:
    return 100 * p_mat()


# --- 1.2 count_ngrams ---


def _documents(seed: int, n_documents: int, longest: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [[rng.choice("abc") for _ in range(rng.randrange(longest))] for _ in range(n_documents)]


def counts_cases() -> list[Case]:
    cat = ("the", "cat", "sat", "on", "the", "mat")
    return [
        Case("bigrams of one sentence", lambda: ([list(cat)], 2)),
        Case("two sentences: none reaches into the other", lambda: ([["a", "b"], ["c", "a"]], 2)),
        Case("trigrams: two START tokens in front", lambda: ([list(cat)], 3)),
        Case("unigrams: the context is ()", lambda: ([list(cat)], 1)),
        Case("an empty document among others", lambda: ([[], ["a"]], 2)),
        Case("documents shorter than n", lambda: ([["a"], ["a", "b"]], 5)),
        Case("no documents", lambda: ([], 2)),
        Case("random documents, n = 4", lambda: (_documents(1, 40, 9), 4)),
    ]


def counts_without_start(documents, n):
    counts = {}
    for document in documents:
        for i in range(n - 1, len(document)):
            counts.setdefault(tuple(document[i - n + 1 : i]), Counter())[document[i]] += 1
    return counts


def counts_across_documents(documents, n):
    return count_ngrams([[token for document in documents for token in document]], n)


def counts_context_of_n(documents, n):
    return count_ngrams(documents, n + 1)


def counts_context_with_the_token(documents, n):
    counts = {}
    for document in documents:
        padded = [START] * (n - 1) + document
        for i, token in enumerate(document):
            counts.setdefault(tuple(padded[i : i + n]), Counter())[token] += 1
    return counts


def counts_one_start(documents, n):
    counts = {}
    for document in documents:
        padded = [START] * (n > 1) + list(document)
        for i in range(len(padded) - n + 1):
            counts.setdefault(tuple(padded[i : i + n - 1]), Counter())[padded[i + n - 1]] += 1
    return counts


def counts_only_the_last(documents, n):
    return {context: Counter(dict.fromkeys(seen, 1)) for context, seen in count_ngrams(documents, n).items()}


def counts_string_contexts(documents, n):
    return {(c[0] if n == 2 else " ".join(c)): seen for c, seen in count_ngrams(documents, n).items()}


def counts_bare_contexts(documents, n):
    return {(context[0] if n == 2 else context): seen for context, seen in count_ngrams(documents, n).items()}


# --- 1.3 pick ---


def pick_cases() -> list[Case]:
    mat = {"mat": 0.5, "chair": 0.3, "moon": 0.2}
    cases = [
        Case("u = 0 falls on the first token", lambda: (dict(mat), 0.0)),
        Case("u in the middle", lambda: (dict(mat), 0.6)),
        Case("u on a boundary belongs to the next token", lambda: (dict(mat), 0.5)),
        Case("u near 1", lambda: (dict(mat), 0.999)),
        Case("a token of probability 0 owns nothing", lambda: ({"a": 0.0, "b": 1.0}, 0.0)),
        Case("the probabilities sum to a little less than 1", lambda: ({"a": 0.3, "b": 0.6999}, 0.99999)),
        Case("the last tokens have probability 0", lambda: ({"a": 0.9999, "b": 0.0}, 0.99999)),
        Case("no token is possible", lambda: ({"a": 0.0, "b": 0.0}, 0.5)),
    ]
    rng = random.Random(2)
    for _ in range(20):
        weights = [rng.random() for _ in range(6)]
        probs, u = {f"t{i}": w / sum(weights) for i, w in enumerate(weights)}, rng.random()
        cases.append(Case("random numbers", lambda probs=probs, u=u: (dict(probs), u)))
    return cases


def pick_most_probable(probs, u):
    return max(probs, key=probs.get)


def pick_boundary_to_previous(probs, u):
    cumulative = 0.0
    for token, p in probs.items():
        cumulative += p
        if u <= cumulative:
            return token
    return token


def pick_compares_each_alone(probs, u):
    for token, p in probs.items():
        if u < p:
            return token
    return token


def pick_falls_off_the_end(probs, u):
    cumulative = 0.0
    for token, p in probs.items():
        cumulative += p
        if u < cumulative:
            return token


def pick_last_even_if_impossible(probs, u):
    token = pick_falls_off_the_end(probs, u)
    return list(probs)[-1] if token is None else token


def pick_sorted(probs, u):
    return pick(dict(sorted(probs.items(), key=lambda item: -item[1])), u)


def pick_sorted_upwards(probs, u):
    return pick(dict(sorted(probs.items(), key=lambda item: item[1])), u)


# --- 1.4 bits_per_byte ---


def bits_cases() -> list[Case]:
    rng = random.Random(3)
    logs = [math.log(rng.uniform(0.01, 1)) for _ in range(12)]
    return [
        Case("one token, one byte, probability 1/2", lambda: ([math.log(0.5)], "a")),
        Case("two tokens over four bytes", lambda: ([math.log(0.5), math.log(0.25)], "abcd")),
        Case("letters of two and more bytes", lambda: ([math.log(0.5), math.log(0.25)], "né→")),
        Case("twelve random tokens", lambda: (list(logs), "the cat sat on the mat")),
        *(Case("random tokens", lambda n=n: (logs[:n], "¿dónde está el gato? →"[:-n])) for n in range(2, 6)),
        Case("an empty text", lambda: ([], "")),
    ]


def refuses_no_text(wrong):
    """A slip in the formula is a slip whether or not the empty text was thought of."""

    def function(log_probs, text):
        if not text:
            raise ValueError("empty")
        return wrong(log_probs, text)

    return function


@refuses_no_text
def bits_per_character(log_probs, text):
    return -math.fsum(log_probs) / math.log(2) / len(text)


@refuses_no_text
def nats_per_byte(log_probs, text):
    return -math.fsum(log_probs) / len(text.encode())


@refuses_no_text
def bits_per_token(log_probs, text):
    return -math.fsum(log_probs) / math.log(2) / len(log_probs)


@refuses_no_text
def bits_with_wrong_sign(log_probs, text):
    return -bits_per_byte(log_probs, text)


@refuses_no_text
def bits_times_ln2(log_probs, text):
    return -math.fsum(log_probs) * math.log(2) / len(text.encode())


@refuses_no_text
def bits_of_the_whole_text(log_probs, text):
    return -math.fsum(log_probs) / math.log(2)


# --- 1.5 witten_bell (find the bug) ---


def smoothing_cases() -> list[Case]:
    cases = [
        Case("seen 3 times of 4", lambda: (3, 4, 2, 0.25)),
        Case("never seen after this context", lambda: (0, 4, 2, 0.25)),
        Case("a context seen once", lambda: (1, 1, 1, 0.01)),
        Case("impossible after the shorter context too", lambda: (0, 7, 3, 0.0)),
    ]
    rng = random.Random(4)
    for _ in range(10):
        total = rng.randrange(1, 50)
        numbers = (rng.randrange(total + 1), total, rng.randrange(1, total + 1), rng.random())
        cases.append(Case("random counts", lambda numbers=numbers: numbers))
    return cases


def witten_bell_with_a_leak(count, total, distinct, lower):
    return count / total + distinct * lower / (total + distinct)


def witten_bell_total_not_grown(count, total, distinct, lower):
    return (count + distinct * lower) / total


def witten_bell_weights_swapped(count, total, distinct, lower):
    return (distinct * count / total + total * lower) / (total + distinct)


def witten_bell_one_distinct(count, total, distinct, lower):
    return (count + lower) / (total + 1)


def witten_bell_one_share_of_the_lower(count, total, distinct, lower):
    return (count + lower) / (total + distinct)


def witten_bell_total_grown_by_one(count, total, distinct, lower):
    return (count + distinct * lower) / (total + 1)


def witten_bell_without_parentheses(count, total, distinct, lower):
    return count + distinct * lower / (total + distinct)


def witten_bell_without_parentheses_below(count, total, distinct, lower):
    return (count + distinct * lower) / total + distinct


def witten_bell_half_and_half(count, total, distinct, lower):
    return (count / total + lower) / 2


def witten_bell_only_if_unseen(count, total, distinct, lower):
    return count / total if count else distinct * lower / (total + distinct)


# --- 1.6 bigram_gradient ---


def gradient_cases() -> list[Case]:
    def make(n: int, v: int, seed: int, dtype=torch.float32):
        g = torch.Generator().manual_seed(seed)
        table = torch.randn(v, v, generator=g, dtype=dtype)
        return table, *(torch.randint(v, (n,), generator=g) for _ in range(2))

    return [
        Case("one pair", lambda: (torch.zeros(2, 2), torch.tensor([0]), torch.tensor([1]))),
        Case("the same pair three times", lambda: (torch.eye(3), torch.tensor([1] * 3), torch.tensor([2] * 3))),
        Case(
            "one context, two continuations",
            lambda: (torch.eye(3), torch.tensor([0, 0]), torch.tensor([1, 2])),
        ),
        Case("7 random pairs of 5 tokens", lambda: make(7, 5, 0)),
        Case("200 random pairs in float64", lambda: make(200, 11, 1, torch.float64)),
    ]


def gradient_not_averaged(table, x, y):
    error = torch.softmax(table[x], -1) - F.one_hot(y, table.shape[1])
    return torch.zeros_like(table).index_add(0, x, error.to(table.dtype))


def gradient_repeated_rows_lost(table, x, y):
    gradient = torch.zeros_like(table)
    gradient[x] += (torch.softmax(table[x], -1) - F.one_hot(y, table.shape[1])).to(table.dtype) / len(x)
    return gradient


def gradient_downhill(table, x, y):
    return -gradient_not_averaged(table, x, y) / len(x)


def gradient_without_target(table, x, y):
    return torch.zeros_like(table).index_add(0, x, torch.softmax(table[x], -1) / len(x))


def gradient_wrong_axis(table, x, y):
    error = torch.softmax(table[x], 0) - F.one_hot(y, table.shape[1])
    return torch.zeros_like(table).index_add(0, x, error.to(table.dtype) / len(x))


def gradient_per_row_mean(table, x, y):
    counts = torch.bincount(x, minlength=len(table)).clamp(min=1)[:, None]
    return gradient_not_averaged(table, x, y) / counts


def gradient_in_all_rows(table, x, y):
    counts = torch.zeros_like(table).index_put((x, y), torch.ones(len(x), dtype=table.dtype), accumulate=True)
    return (torch.softmax(table, -1) - counts) / len(x)


def gradient_in_rows_of_y(table, x, y):
    error = torch.softmax(table[x], -1) - F.one_hot(y, table.shape[1])
    return torch.zeros_like(table).index_add(0, y, error.to(table.dtype) / len(x))


def gradient_divided_by_v(table, x, y):
    return gradient_not_averaged(table, x, y) / len(table)


# --- 1.7 continuation_counts ---


def continuation_cases() -> list[Case]:
    san = [["San", "Francisco"], ["San", "Francisco"], ["a", "hat"], ["the", "hat"]]
    return [
        Case("San Francisco and hats", lambda: (count_ngrams(san, 2),)),
        Case("trigrams", lambda: (count_ngrams(_documents(5, 30, 8), 3),)),
        Case("nothing counted", lambda: ({},)),
        Case("4-grams", lambda: (count_ngrams(_documents(6, 50, 9), 4),)),
    ]


def continuation_plain_sums(counts):
    lower = {}
    for context, seen in counts.items():
        lower.setdefault(context[1:], Counter()).update(seen)
    return lower


def continuation_drops_the_last(counts):
    lower = {}
    for context, seen in counts.items():
        lower.setdefault(context[:-1], Counter()).update(seen.keys())
    return lower


def continuation_always_one(counts):
    lower = {}
    for context, seen in counts.items():
        lower.setdefault(context[1:], Counter()).update(dict.fromkeys(seen, 1))
    return {context: Counter(dict.fromkeys(seen, 1)) for context, seen in lower.items()}


def continuation_number_of_followers(counts):
    lower = {}
    for context, seen in counts.items():
        lower.setdefault(context[1:], Counter())[context[0]] += len(seen)
    return lower


EXERCISES = [
    Exercise(
        number="1.1",
        name="p_mat",
        reference=p_mat,
        tolerance=5e-3,
        hints=(
            'Go through the sentences and write down every word that comes right after "the".',
            '"mat" is how many of them? Divide by how many there are.',
        ),
        wrong={
            'that is P(mat), its share of all words. You want its share of the words that follow "the"': (
                p_mat_of_all_words
            ),
            'the sentences begin with "the" too, and those count': p_mat_without_sentence_starts,
            'that is how often "the mat" occurs; divide by how often "the" occurs': lambda: 2,
            "every different word was counted once; a word that follows twice counts twice": p_mat_of_different_words,
            '"the mat" occurs in more than one sentence': p_mat_once,
            "that is in percent; as a share it lies between 0 and 1": p_mat_in_percent,
        },
    ),
    Exercise(
        number="1.2",
        name="count_ngrams",
        reference="llmkit.models.ngram:count_ngrams",
        cases=counts_cases,
        hints=(
            "For one document: padded = [START] * (n - 1) + document. Which slice of padded comes before token i?",
            "The context of document[i] is padded[i : i + n - 1]; make it a tuple, lists cannot be dict keys.",
            "counts.setdefault(context, Counter())[token] += 1 makes the Counter when the context is new.",
        ),
        wrong={
            "the first tokens of a document were not counted; START tokens go in front": counts_without_start,
            "n-grams reach from one document into the next; treat each alone": counts_across_documents,
            "the context has n tokens; an n-gram has n tokens with the last, its context n - 1": counts_context_of_n,
            "the context holds the token itself; it ends just before it": counts_context_with_the_token,
            "only one START in front; a context has n - 1 tokens, so that many are needed": counts_one_start,
            "each continuation was counted once; add 1 every time it occurs": counts_only_the_last,
            'the contexts are strings; use tuples such as ("the",)': counts_string_contexts,
            'a context of one token is a tuple too: ("the",), not "the"': counts_bare_contexts,
        },
    ),
    Exercise(
        number="1.3",
        name="pick",
        reference="llmkit.generation.sampling:pick",
        cases=pick_cases,
        hints=(
            "Walk through the tokens, adding up their probabilities as you go.",
            "Stop at the first token where u < the sum so far. With <= a boundary would belong to the wrong one.",
            "Keep the last token of probability above 0 in a variable: it is the answer when the loop runs out.",
        ),
        wrong={
            "u is not used: always the most probable token comes back": pick_most_probable,
            "on a boundary u belongs to the next token: compare with <, not <=": pick_boundary_to_previous,
            "u is compared with each probability alone; compare it with the sum so far": pick_compares_each_alone,
            "nothing is returned when the sum ends just below u": pick_falls_off_the_end,
            "a token of probability 0 came back": pick_last_even_if_impossible,
            "the tokens were sorted; they own the interval in the order in which they come": pick_sorted,
            "the tokens were sorted, the least probable first; keep the order in which they come": pick_sorted_upwards,
        },
    ),
    Exercise(
        number="1.4",
        name="bits_per_byte",
        reference="llmkit.evaluation.metrics:bits_per_byte",
        cases=bits_cases,
        hints=(
            "Add the log-probabilities up: that is log P of the whole text, in nats and negative.",
            "1 bit = ln 2 nats, so divide by math.log(2) to have bits.",
            'len(text) counts characters; len(text.encode("utf-8")) counts bytes. Refuse the empty text first.',
        ),
        wrong={
            "characters were counted, not bytes: encode the text first": bits_per_character,
            "that is nats a byte: divide by ln 2": nats_per_byte,
            "that is bits a token: divide by the number of bytes": bits_per_token,
            "the sign: log-probabilities are negative, bits are positive": bits_with_wrong_sign,
            "multiplied by ln 2: there are more bits than nats, so divide": bits_times_ln2,
            "those are the bits of the whole text: divide by the number of bytes": bits_of_the_whole_text,
        },
    ),
    Exercise(
        number="1.5",
        name="witten_bell",
        reference="llmkit.models.ngram:witten_bell",
        cases=smoothing_cases,
        starts_from=witten_bell_with_a_leak,
        hints=(
            "Add the probabilities of all tokens after one context: the counts add up to total, the lowers to 1.",
            "The two parts must share one denominator, or the sum is more than 1.",
        ),
        wrong={
            "the probabilities after a context sum to more than 1: the counts keep all of it, the shorter "
            "context comes on top": witten_bell_with_a_leak,
            "the denominator: `distinct` imagined observations came on top, so it has to grow by as many": (
                witten_bell_total_not_grown
            ),
            "the weights are swapped: the counts weigh `total`, the shorter context `distinct`": (
                witten_bell_weights_swapped
            ),
            "the shorter context weighs `distinct`, not 1": witten_bell_one_distinct,
            "the numerator: the shorter context weighs `distinct` there too, not 1": witten_bell_one_share_of_the_lower,
            "the denominator: `distinct` observations came on top, not one": witten_bell_total_grown_by_one,
            "parentheses: the whole sum above the line is divided, or a probability is above 1": (
                witten_bell_without_parentheses
            ),
            "parentheses: the whole sum below the line divides, or a probability is above 1": (
                witten_bell_without_parentheses_below
            ),
            "half and half: how much the shorter context weighs depends on `distinct`": witten_bell_half_and_half,
            "seen tokens also get a part of the shorter context's probability": witten_bell_only_if_unseen,
        },
    ),
    Exercise(
        number="1.6",
        name="bigram_gradient",
        reference="llmkit.models.bigram:bigram_gradient",
        cases=gradient_cases,
        hints=(
            "table[x] picks one row of logits for every pair: (N, V). Softmax over the last axis.",
            "F.one_hot(y, V) has the shape (N, V) too; subtract it, divide by N.",
            "torch.zeros_like(table).index_add(0, x, error) adds row j of error into row x[j]; "
            "gradient[x] += error would keep only one of several equal x.",
        ),
        wrong={
            "the sum over pairs, not their mean: divide by N": gradient_not_averaged,
            "when an x occurs twice, only one of its rows was kept: use index_add": gradient_repeated_rows_lost,
            "the sign: this points downhill; the gradient points to where the loss grows": gradient_downhill,
            "the target is missing: subtract onehot(y)": gradient_without_target,
            "the softmax runs over the pairs; it must run over the vocabulary, the last axis": gradient_wrong_axis,
            "each row was divided by its own number of pairs; divide everything by N": gradient_per_row_mean,
            "every row has a softmax; a row counts once for each pair that it occurs in, and 0 times if in none": (
                gradient_in_all_rows
            ),
            "the errors went into the rows of y; they belong into the rows of x": gradient_in_rows_of_y,
            "divided by V; the mean is over the N pairs": gradient_divided_by_v,
        },
    ),
    Exercise(
        number="1.7",
        name="continuation_counts",
        reference="llmkit.models.ngram:continuation_counts",
        cases=continuation_cases,
        hints=(
            "counts[context][token] > 0 says: `context[0]` is one of the tokens seen before context[1:] + token.",
            "Every (context, token) of `counts`, whatever its count, adds exactly 1 to (context[1:], token).",
        ),
        wrong={
            "those are plain counts of the lower order; count different first tokens, each once": (
                continuation_plain_sums
            ),
            "the context lost its last token; it must lose its first, the one farthest away": (
                continuation_drops_the_last
            ),
            "every pair has 1; add 1 for each different first token": continuation_always_one,
            "those are the different tokens that follow; count the different first tokens that stand before": (
                continuation_number_of_followers
            ),
        },
    ),
]
