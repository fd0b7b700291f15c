"""Word tokens, the printed forms of a word, and pools of words to choose from."""

import math
import random
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate

# A token is a word, a number or one punctuation mark, with the space before it; 's and 't stand alone.
_TOKEN = re.compile(r"'(?:s|t|re|ve|ll|d|m)\b| ?[^\W\d_]+| ?\d+| ?[^\w\s]| ?_|\s")


def split(text: str) -> list[str]:
    """Cut a text into word tokens that carry their leading space; joined, they are the text again.

    >>> split("The cat sat.")
    ['The', ' cat', ' sat', '.']
    """
    return _TOKEN.findall(text)


@lru_cache(maxsize=200_000)
def tokens_of(text: str) -> tuple[str, ...]:
    return tuple(split(text))


class Pool:
    """Words to choose from, with weights that need not sum to 1. Without weights, Zipf's law: 1, 1/2, 1/3, …"""

    def __init__(self, words: Sequence[str], weights: Sequence[float] | None = None):
        if not words or len(set(words)) != len(words):
            raise ValueError(f"a pool needs words, each once; got {list(words)[:5]} …")
        weights = weights or [1 / rank for rank in range(1, len(words) + 1)]
        total = math.fsum(weights)
        self.words = tuple(words)
        self.probs = {word: weight / total for word, weight in zip(words, weights, strict=True)}
        self.cumulative = list(accumulate(self.probs.values()))

    def first(self, n: int) -> "Pool":
        """The pool of the n first words, their weights in the same proportion."""
        return Pool(self.words[:n], [self.probs[word] for word in self.words[:n]])

    def draw(self, rng: random.Random) -> str:
        return self.words[min(bisect_right(self.cumulative, rng.random()), len(self.words) - 1)]

    @cache  # noqa: B019  pools live as long as the program
    def by_first_token(self, style: str) -> dict[str, tuple[str, ...]]:
        """First token of the written form -> the words that begin with it, so that scoring need not try all."""
        index: dict[str, list[str]] = {}
        for word in self.words:
            index.setdefault(tokens_of(written(word, style))[0], []).append(word)
        return {token: tuple(words) for token, words in index.items()}


@cache
def written(word: str, style: str) -> str:
    """A word as it is printed; `style` is a leading space or not, then any of "a", "cap", "s".

    >>> written("apple", " a"), written("fox", "s"), written("a lot", "cap")
    (' an apple', 'foxes', 'A lot')
    """
    space, style = (" ", style[1:]) if style.startswith(" ") else ("", style)
    if style == "s":
        word = plural(word)
    if style in ("a", "A"):
        word = (
            "an "
            if word.startswith("hon") or word[0] in "aeiou" and not word.startswith(("one", "uni", "use"))
            else "a "
        ) + word
    if style in ("cap", "A"):
        word = word[0].upper() + word[1:]
    return space + word


_IRREGULAR = {
    "potato": "potatoes",
    "mouse": "mice",
    "goose": "geese",
    "loaf": "loaves",
    "leaf": "leaves",
    "knife": "knives",
    "shelf": "shelves",
}


def plural(noun: str) -> str:
    """The plural of an English noun of the lexicon."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
