"""Sentences with persons, places and organisations marked, in which a name alone does not tell what it names.

Lina is a girl, a river and a shipping company. Oakford is a town, and part of "the Oakford Bank", which is an
organisation. So a list of names cannot solve the task (`word_list` is one): the context has to be read, sometimes to
the right of the name ("Lina burst its banks in spring.").
"""

import random
import re
from dataclasses import dataclass

from llmkit.data.toyland.lexicon import POOLS

TYPES = ("PER", "LOC", "ORG")
TAGS = ("O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI"))
# Every name may stand for a person, a place or an organisation; the contexts below leave no doubt which.
NAMES = tuple(POOLS["girls"].words[:60] + POOLS["boys"].words[:60])
UNSEEN = tuple(POOLS["girls"].words[60:100] + POOLS["boys"].words[60:100])  # for tests: names that training never has
TOWNS = tuple(POOLS["towns"].words[:40])
UNSEEN_TOWNS = tuple(POOLS["towns"].words[40:70])
COMPANIES = ("{TOWN} Bank", "{TOWN} Railway Company", "University of {TOWN}", "{NAME} and Sons", "{NAME} Shipping",
             "Museum of {TOWN}", "{TOWN} Post", "{NAME} and {NAME}")  # fmt: skip
TEMPLATES = (
    "{PER} met {PER} in {LOC} .",
    "{PER} burst into tears .",
    "{LOC} burst its banks in spring .",
    "{ORG} fired fifty workers last year .",
    "{PER} has worked for {ORG} since Monday .",
    "{PER} swam across {LOC} with {PER} .",
    "Nobody in {LOC} knew {PER} .",
    "{ORG} opened a new office in {LOC} .",
    "{PER} opened a window and sang .",
    "The bridge over {LOC} was paid for by {ORG} .",
    "Yesterday {PER} , who lives in {LOC} , bought shares of {ORG} .",
    "The road from {LOC} to {LOC} is closed .",
    "The director of {ORG} is called {PER} .",
    "{PER} is ill , said {PER} .",
    "{ORG} is bankrupt , said {PER} .",
    "{LOC} is flooded , said {PER} .",
    "{ORG} sold its ships to {ORG} .",
    "My sister {PER} left {LOC} for a job at {ORG} .",
    "In {LOC} it rains more than in {LOC} .",
    "{PER} and {PER} were fired by {ORG} .",
)


@dataclass(frozen=True)
class Tagged:
    """words and their tags (IOB2): B- begins an entity, I- goes on with it, O is none."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def labels(self) -> list[int]:
        """Numbers of the tags in TAGS."""
        return [TAGS.index(tag) for tag in self.tags]


def tagged_sentences(n: int, seed: int = 0, unseen: bool = False) -> list[Tagged]:
    """n sentences; with `unseen`, all names are ones that no other sentence has, so only the context can help."""
    rng = random.Random(seed)
    names, towns = (UNSEEN, UNSEEN_TOWNS) if unseen else (NAMES, TOWNS)
    return [_sentence(rng, names, towns) for _ in range(n)]


def _sentence(rng: random.Random, names: tuple[str, ...], towns: tuple[str, ...]) -> Tagged:
    words, tags = [], []
    for word in rng.choice(TEMPLATES).split():
        kind = word.strip("{}") if word.startswith("{") else None
        entity = _entity(rng, kind, names, towns) if kind else [word]
        words += entity
        tags += [f"{'B' if i == 0 else 'I'}-{kind}" if kind else "O" for i in range(len(entity))]
    return Tagged(tuple(words), tuple(tags))


def _entity(rng: random.Random, kind: str, names: tuple[str, ...], towns: tuple[str, ...]) -> list[str]:
    """A bare name in half of all cases (of persons 85%); else one that shows its kind, or seems to."""
    if rng.random() < 0.5:
        return [rng.choice(names)]
    if kind == "PER":
        return [rng.choice(names), rng.choice(towns)] if rng.random() < 0.3 else [rng.choice(names)]  # Lina Oakford
    if kind == "LOC":
        return [rng.choice(towns)]
    pieces = re.split(r"(\{NAME\}|\{TOWN\})", rng.choice(COMPANIES))
    filled = [rng.choice(names) if p == "{NAME}" else rng.choice(towns) if p == "{TOWN}" else p for p in pieces]
    return "".join(filled).split()


def word_list(sentences: list[Tagged]) -> dict[str, str]:
    """The baseline: for every word the tag it has most often, in order of TAGS where two are equal."""
    counts: dict[str, dict[str, int]] = {}
    for sentence in sentences:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            counts.setdefault(word, {}).setdefault(tag, 0)
            counts[word][tag] += 1
    return {word: max(TAGS, key=lambda tag: seen.get(tag, 0)) for word, seen in counts.items()}
