"""Sentences whose last word tells what "it" is: "The robot dropped the ball because it was heavy." (or "tired")."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from llmkit.data.toyland.lexicon import ANIMALS, MACHINES, PROPERTIES
from llmkit.data.toyland.words import split

DOERS = (*ANIMALS, *MACHINES)
# A doer can be a load too ("The fox could not lift the badger …"), so that no noun gives its part away.
LOADS = (*PROPERTIES, *DOERS)
VERBS = {
    "dropped": "was dropped by",
    "put down": "was put down by",
    "could not lift": "could not be lifted by",
    "could not carry": "could not be carried by",
}
OF_DOERS = ("tired", "weak", "dizzy", "ill", "sleepy", "lazy", "clumsy", "nervous")
OF_LOADS = ("heavy", "slippery", "wet", "huge", "sticky", "hot", "enormous", "wobbly")


@dataclass(frozen=True)
class Coreference:
    """One sentence. `it` is the place of the pronoun among `tokens`; `referent` is the token that it stands for."""

    tokens: tuple[str, ...]
    doer: str
    load: str
    word: str
    it: int
    referent: str

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def sentence(doer: str, load: str, word: str, verb: str = "dropped", passive: bool = False) -> Coreference:
    """One sentence; "it" is the doer for a word of OF_DOERS and the load for a word of OF_LOADS.

    Raises ValueError for other words, and where doer and load are the same.

    >>> example = sentence("robot", "ball", "heavy")
    >>> example.text, example.tokens[example.it], example.referent
    ('The robot dropped the ball because it was heavy.', ' it', ' ball')
    >>> sentence("robot", "ball", "tired", passive=True).text
    'The ball was dropped by the robot because it was tired.'
    """
    if word not in OF_DOERS + OF_LOADS:
        raise ValueError(f"{word!r} does not tell what 'it' is: use one of {', '.join(OF_DOERS + OF_LOADS)}")
    if doer == load:
        raise ValueError(f"doer and load must differ, both are {doer!r}")
    act = f"The {load} {VERBS[verb]} the {doer}" if passive else f"The {doer} {verb} the {load}"
    tokens = tuple(split(f"{act} because it was {word}."))
    return Coreference(tokens, doer, load, word, tokens.index(" it"), f" {doer if word in OF_DOERS else load}")


def pairs(held_out: bool) -> list[tuple[str, str]]:
    """All (doer, load) pairs of one side: a fifth of the couples is held out, robot and ball among them.

    A couple is held out both ways round: who knows only that the fox drops the badger, and never the reverse, could
    answer without looking at the order of the words.
    """
    couples = sorted({tuple(sorted((doer, load))) for doer in DOERS for load in LOADS if doer != load})
    random.Random(4).shuffle(couples)
    kept_aside = {*couples[: len(couples) // 5], ("ball", "robot")}
    return [(doer, load) for doer in DOERS for load in LOADS
            if doer != load and (tuple(sorted((doer, load))) in kept_aside) == held_out]  # fmt: skip


def examples(seed: int, held_out: bool = False) -> Iterator[Coreference]:
    """Endless sentences, two by two: the same but for the last word, which once is said of the load, once of the doer.

    In more than half of them the load is a doer's word too, so that the nouns do not tell who acts.
    """
    rng, choices = random.Random(seed), pairs(held_out)
    alike = [pair for pair in choices if pair[1] in DOERS]
    while True:
        (doer, load), verb, passive = rng.choice(rng.choice((alike, choices))), rng.choice([*VERBS]), rng.random() < 0.5
        for word in (rng.choice(OF_LOADS), rng.choice(OF_DOERS)):
            yield sentence(doer, load, word, verb, passive)


def vocabulary() -> list[str]:
    """Every token that a sentence can hold, in alphabetical order."""
    frames = {token for verb in VERBS for passive in (False, True)
              for token in sentence("robot", "ball", "tired", verb, passive).tokens}  # fmt: skip
    return sorted(frames | {f" {word}" for word in (*LOADS, *OF_DOERS, *OF_LOADS)})
