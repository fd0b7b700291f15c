"""Which training documents hold pieces of the test set: runs of n words that stand in both.

A model that has read the test's answers is measured too well. Source: Brown et al. 2020 (GPT-3), appendix C: n = 13,
and shorter for tests of short items, but not below 8, where runs begin to agree by chance.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Overlap:
    """What `overlap` found; documents and items by number, in order.

    documents     training document -> share of its words that lie in a run shared with the test, above 0
    items         test item -> share of its words that lie in a run shared with the training documents, above 0
    unjudged      test items too short to be looked for
    n_documents   how many training documents there were
    n_items       how many test items there were
    """

    documents: dict[int, float]
    items: dict[int, float]
    unjudged: list[int]
    n_documents: int
    n_items: int

    @property
    def share_of_documents(self) -> float:
        """Share of the training documents that are hit."""
        return len(self.documents) / self.n_documents if self.n_documents else 0.0

    @property
    def share_of_items(self) -> float:
        """Share of the judged test items that are hit; 0 where none could be judged."""
        judged = self.n_items - len(self.unjudged)
        return len(self.items) / judged if judged else 0.0


def overlap(
    documents: Iterable[str], test: Sequence[str], n: int = 13, shortest: int = 8, ignore_above: int | None = None
) -> Overlap:
    """Compare training documents, read once and one at a time, with test items.

    n              words in a run, in lower case and without punctuation
    shortest       an item of fewer than n words is looked for as a whole, if it has at least so many; one that is
                   shorter still is not judged: "The cat sat on the mat." stands everywhere
    ignore_above   leave out runs that stand in more than so many training documents: sayings and legal phrases (GPT-3:
                   10); None leaves out none, since a copied test item is in many places too

    Raises ValueError unless 1 <= shortest <= n.

    >>> test = ["Is the moon made of green cheese?", "Who sang?"]
    >>> found = overlap(["He asked: is the MOON made of green cheese", "It is not."], test, n=5, shortest=3)
    >>> found.documents, found.items, found.unjudged
    ({0: 0.7777777777777778}, {0: 1.0}, [1])
    """
    if not 1 <= shortest <= n:
        raise ValueError(f"shortest and n must be numbers of words with 1 <= shortest <= n, got {shortest} and {n}")
    items = [gram_words(text) for text in test]
    unjudged = [number for number, words in enumerate(items) if len(words) < shortest]
    wanted: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)  # run -> (item, first word)
    for number, words in enumerate(items):
        if len(words) >= shortest:
            for start, gram in _grams(words, min(n, len(words))):
                wanted[gram].append((number, start))
    lengths = sorted({len(gram) for gram in wanted})
    hits: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)  # run -> (document, first word)
    n_words: list[int] = []
    for number, text in enumerate(documents):
        words = gram_words(text)
        n_words.append(len(words))
        for start, gram in (pair for length in lengths for pair in _grams(words, length)):
            if gram in wanted:
                hits[gram].append((number, start))
    if ignore_above is not None:
        hits = {gram: places for gram, places in hits.items() if len({d for d, _ in places}) <= ignore_above}
    in_items = _shares({gram: wanted[gram] for gram in hits}, [len(words) for words in items])
    return Overlap(_shares(hits, n_words), in_items, unjudged, len(n_words), len(items))


def overlap_share(document: str, item: str, n: int = 13) -> float:
    """Share of the document's words that lie in a run of n words that stands in the test item too; 0.0 to 1.0.

    Words are those of `gram_words`. Runs may overlap, and a word in several of them counts once. 0.0 where either text
    has fewer than n words. `overlap` does this for a whole corpus at once. Raises ValueError for n below 1.

    >>> overlap_share("He asked: is the MOON made of green cheese", "Is the moon made of green cheese?", n=5)
    0.7777777777777778
    """
    if n < 1:
        raise ValueError(f"a run has at least 1 word, got n = {n}")
    words, wanted = gram_words(document), {gram for _, gram in _grams(gram_words(item), n)}
    covered = {place for start, gram in _grams(words, n) if gram in wanted for place in range(start, start + n)}
    return len(covered) / len(words) if words else 0.0


def gram_words(text: str) -> list[str]:
    """The words of a text as GPT-3 compares them: lower case, no punctuation, cut at blanks.

    >>> gram_words("Don't stop -- it's 3.5 km!")
    ['dont', 'stop', 'its', '35', 'km']
    """
    return re.sub(r"[^\w\s]|_", "", text.lower()).split()


def _grams(words: Sequence[str], n: int) -> Iterable[tuple[int, tuple[str, ...]]]:
    return ((start, tuple(words[start : start + n])) for start in range(len(words) - n + 1))


def _shares(places: dict[tuple[str, ...], list[tuple[int, int]]], n_words: Sequence[int]) -> dict[int, float]:
    """Text -> share of its words in the runs that lie there."""
    covered: dict[int, set[int]] = defaultdict(set)
    for gram, found in places.items():
        for number, start in found:
            covered[number].update(range(start, start + len(gram)))
    return {number: len(covered[number]) / n_words[number] for number in sorted(covered)}
