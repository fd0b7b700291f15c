"""n-gram language models: count what followed each context, and smooth what was never seen.

Sources: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling"; Witten and
Bell 1991; Kneser and Ney 1995.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

START = "<start>"  # stands before the first token, so that first tokens have a context too
DISCOUNT = 0.75  # what Kneser-Ney takes from every count; Chen and Goodman find 0.7 to 0.8 for most corpora

Counts = dict[tuple, Counter]  # context of n - 1 tokens -> how often each token followed it


def count_ngrams(documents: Sequence[Sequence[str]], n: int) -> Counts:
    """Count, for every context of n - 1 tokens, the tokens that follow it.

    Each document is preceded by n - 1 START tokens, so that its first token is counted too. No n-gram reaches
    from one document into the next. For n = 1 the only context is the empty tuple (). Contexts that never
    occur are not in the result.

    >>> count_ngrams([["the", "cat", "sat"], ["the", "dog"]], 2)[("the",)] == {"cat": 1, "dog": 1}
    True
    """
    counts: Counts = {}
    for document in documents:
        padded = [START] * (n - 1) + list(document)
        for i, token in enumerate(document):
            context = tuple(padded[i : i + n - 1])
            counts.setdefault(context, Counter())[token] += 1
    return counts


def witten_bell(count: int, total: int, distinct: int, lower: float) -> float:
    """Probability of a token after a context, mixed with what a shorter context says.

    count     how often the token followed the context (may be 0)
    total     how often the context occurred; at least 1
    distinct  how many different tokens followed it: the more there were, the likelier a new one
    lower     the token's probability after the context shortened by its first token

    The shorter context weighs as much as `distinct` further observations. Over all tokens the results sum to 1.

    >>> witten_bell(3, 4, 2, 0.25)
    0.5833333333333334
    """
    return (count + distinct * lower) / (total + distinct)


def absolute_discount(count: int, total: int, distinct: int, lower: float) -> float:
    """As witten_bell, but every count is lowered by DISCOUNT and the shorter context gets what that frees."""
    freed = DISCOUNT * distinct / total
    return max(count - DISCOUNT, 0) / total + freed * lower


def continuation_counts(counts: Counts) -> Counts:
    """Kneser and Ney's counts of the next lower order: in how many different places a token appears.

    `counts` has contexts of n - 1 >= 1 tokens. In the result, contexts lack their first token, and the number
    for (context, token) is how many different first tokens were seen before "context token", however often.

    >>> counts = count_ngrams([["San", "Francisco"], ["San", "Francisco"], ["a", "hat"], ["the", "hat"]], 2)
    >>> continuation_counts(counts)[()]["Francisco"], continuation_counts(counts)[()]["hat"]
    (1, 2)
    """
    lower: Counts = {}
    for context, followers in counts.items():
        lower.setdefault(context[1:], Counter()).update(followers.keys())
    return lower


class NGram:
    """An interpolated n-gram model: every order's counts, mixed from the shortest context to the longest.

    tables           count tables of order 1, 2, …, n
    smooth           (count, total, distinct, lower) -> probability: witten_bell or absolute_discount
    vocabulary_size  number of tokens there are; where nothing was seen, all are equally likely
    """

    def __init__(self, tables: list[Counts], smooth: Callable, vocabulary_size: int):
        self.tables, self.smooth, self.vocabulary_size = tables, smooth, vocabulary_size
        self.totals = [{context: sum(seen.values()) for context, seen in table.items()} for table in tables]

    @property
    def n(self) -> int:
        return len(self.tables)

    def prob(self, token: str, context: Sequence[str]) -> float:
        """P(token | context); of the context, START-padded by the caller, the last n - 1 tokens count."""
        p = 1 / self.vocabulary_size
        for length, (table, totals) in enumerate(zip(self.tables, self.totals, strict=True)):
            tail = tuple(context[len(context) - length :])
            if tail not in table:
                break  # then no longer context was seen either
            seen = table[tail]
            p = self.smooth(seen.get(token, 0), totals[tail], len(seen), p)
        return p

    def next_token(self, context: Sequence[str]) -> dict[str, float]:
        """The distribution over all known tokens after a context, most probable first."""
        context = [START] * (self.n - 1) + list(context)
        probs = {token: self.prob(token, context) for token in self.tables[0][()]}
        return dict(sorted(probs.items(), key=lambda item: -item[1]))

    def log_probs(self, document: Sequence[str]) -> list[float]:
        """log P (nats) of each token of a document, given the tokens before it."""
        width = self.n - 1
        padded = [START] * width + list(document)
        return [math.log(self.prob(token, padded[i : i + width])) for i, token in enumerate(document)]


def witten_bell_ngram(documents: Sequence[Sequence[str]], n: int, vocabulary_size: int) -> NGram:
    """Train an n-gram model with Witten-Bell smoothing."""
    return NGram([count_ngrams(documents, order) for order in range(1, n + 1)], witten_bell, vocabulary_size)


def kneser_ney_ngram(documents: Sequence[Sequence[str]], n: int, vocabulary_size: int) -> NGram:
    """Train an n-gram model with interpolated Kneser-Ney smoothing: plain counts at the top, places below."""
    tables = [count_ngrams(documents, n)]
    while len(tables) < n:
        tables.insert(0, continuation_counts(tables[0]))
    return NGram(tables, absolute_discount, vocabulary_size)
