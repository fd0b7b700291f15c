"""toyland: the course's own small world, whose exact probabilities and entropy are known.

`stories` writes documents, `log_prob` and `next_word` are the perfect model of them, `entropy` is the line that no
model can cross. Nothing is downloaded, and the same seed gives the same text everywhere.

How later lessons' tasks hang on it, without touching a probability:

- `sample(seed).trace` records every choice with the memory at that point: `because` steps hold what "it" was (lesson
  04), names come with the pool they were drawn from (entities, lesson 10), `give`, `hide`, `count_change` steps hold
  the facts that questions, summaries and instructions ask about (lessons 12 and 16).
- reviews with sentiment, the second language, recipes, ledgers and arithmetic are further `World`s: a dict of rules
  and a dict of pools, with the same exact log_prob and next_word.
- for alignment (lessons 17 to 19) `log_prob` is the truth about whether a text is one of this world's.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from llmkit.data.toyland.automaton import END, Document, World
from llmkit.data.toyland.stories import STORIES, VILLAGE
from llmkit.data.toyland.words import Pool, split


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from, and others, none of them among the first, to measure on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Entropy:
    """Mean -log P (nats) of documents under their own source, with its standard error."""

    nats_per_document: float
    standard_error: float
    nats_per_token: float
    bits_per_byte: float


def stories(n: int, seed: int = 0) -> list[str]:
    """n stories; the first k of them are the same for every n >= k. Raises ValueError for a negative n."""
    if n < 0:
        raise ValueError(f"the number of stories must be at least 0, not {n}")
    rng = random.Random(seed)
    return [STORIES.sample(rng).text for _ in range(n)]


def sample(seed: int = 0) -> Document:
    """One story with its derivation's log-probability and the trace of all choices."""
    return STORIES.sample(random.Random(seed))


@lru_cache(maxsize=4)
def corpus(
    train_bytes: int = 2_000_000, validation_bytes: int = 200_000, seed: int = 0, world: World = STORIES
) -> Corpus:
    """Train and validation stories of at least so many bytes; kept in memory, so the second call is free.

    world   STORIES, or VILLAGE, where few people live

    The two are independent draws, except that a validation story which also stands in train is dropped.
    """
    train = _draw(world, random.Random(seed), train_bytes, frozenset())
    return Corpus(train, _draw(world, random.Random(seed + 1_000_003), validation_bytes, frozenset(train)))


def _draw(world: World, rng: random.Random, n_bytes: int, without: frozenset[str]) -> tuple[str, ...]:
    texts, size = [], 0
    while size < n_bytes:
        text = world.sample(rng).text
        if text not in without:
            texts.append(text)
            size += len(text)
    return tuple(texts)


def log_prob(text: str) -> float:
    """Exact log-probability (nats) of a story; -inf for a text that toyland cannot write."""
    return STORIES.log_prob(text)


def word_log_probs(text: str) -> list[float]:
    """The perfect model's log P (nats) of each token of `split(text)`, and of the end; they sum to log_prob."""
    return STORIES.word_log_probs(text)


def next_word(prefix: str = "") -> dict[str, float]:
    """Exact distribution of the next token after a story's beginning, most probable first; END for its end.

    Raises ValueError with the place where the prefix is no beginning of a story.
    """
    return STORIES.next_word(prefix)


def entropy(documents: Sequence[str]) -> Entropy:
    """The source's entropy, estimated on documents drawn from it: what a perfect model would lose on them.

    Raises ValueError for a document that is not of this world, or for none at all.
    """
    if not documents:
        raise ValueError("the entropy needs at least one document")
    losses = [-log_prob(text) for text in documents]
    for text, loss in zip(documents, losses, strict=True):
        if math.isinf(loss):
            raise ValueError(f"toyland cannot write this document: {text[:80]!r} …")
    n, total = len(losses), math.fsum(losses)
    variance = math.fsum((loss - total / n) ** 2 for loss in losses) / max(n - 1, 1)
    n_tokens = sum(len(split(text)) + 1 for text in documents)
    n_bytes = sum(len(text.encode("utf-8")) for text in documents)
    return Entropy(total / n, math.sqrt(variance / n), total / n_tokens, total / math.log(2) / n_bytes)
