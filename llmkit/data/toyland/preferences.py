"""Stories to be gone on with, the taste of a judge who is never wrong about them, and pairs from one who sometimes is.

An opening names two people, a thing and an animal. A continuation is three events, each told in one sentence or two; in
some of them somebody is glad or gloomy. What it is worth is computed, not guessed: the world itself reads it.
"""

import math
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llmkit.alignment.preferences import accuracy_ceiling, win_probability
from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.events import ACTS
from llmkit.data.toyland.roles import RULES
from llmkit.data.toyland.stories import VILLAGE
from llmkit.data.toyland.template import Alternative, Memory
from llmkit.data.toyland.words import split

EVENTS = 3
VALENCE = {"happy": 1, "proud": 1, "curious": 1, "sad": -1, "angry": -1, "bored": -1}  # tired, hungry, cold: 0
_STATE = re.compile(rf"(?:was|felt) ({'|'.join(ACTS)})\b")


class Truth(NamedTuple):
    """What a continuation is. `score` is what the judge goes by.

    Words are all that is read: an answer that was cut off where a story may end counts as one that ends there.
    """

    sentiment: float  # glad less gloomy events, divided by EVENTS; 0 for a text that toyland cannot write
    grammatical: bool  # can toyland write it after this opening, and end there?
    log_prob: float  # nats, exact, given the opening; -inf where not grammatical
    n_words: int  # words and punctuation marks

    @property
    def score(self) -> float:
        """-1 to 1 for the mood, and 1 more for a text that toyland can write; 0 for any other."""
        return self.sentiment + self.grammatical

    @property
    def nats_per_word(self) -> float:
        """-log P by word, the end of the text counted as one: the lower, the more usual is what it says."""
        return -self.log_prob / (self.n_words + 1)


def _start(m: Memory) -> list[Alternative]:
    people = "<somebody_hero> and <somebody_friend>"
    begin = {"n": 0, "mood": 0}
    return [
        (2, f"{people} had <a look=looks> <thing=things> and <a pet_temper=tempers> <pet=animals>.<events>", begin),
        (1, f"{people} lived with <a pet_temper=tempers> <pet=animals> and <a look=looks> <thing=things>.<events>",
         begin),
    ]  # fmt: skip


def _events(m: Memory) -> list[Alternative]:
    return [(1, " <event><events>" if m["n"] < EVENTS else "")]


def _event(m: Memory) -> list[Alternative]:
    return [(w, f"<{name}>", {"n": m["n"] + 1}) for name, w in {"mood": 3, "pet_acts": 1, "walk": 1}.items()]


def _mood(m: Memory) -> list[Alternative]:
    """The story world's moods, which here are counted."""
    return [(w, t, {"mood": m["mood"] + VALENCE.get(_STATE.search(t)[1], 0)}) for w, t in RULES["mood"](m)]


class _Moods(World):
    """Reads continuations: an opening is read once, and its hypotheses are kept for all that follow it."""

    def __init__(self):
        super().__init__(RULES | {"start": _start, "events": _events, "event": _event, "mood": _mood}, VILLAGE.pools)
        self._opened: dict[str, dict] = {}

    def judge(self, opening: str, continuation: str) -> Truth:
        if opening not in self._opened:
            self._opened[opening] = self._after(self._begin(), split(opening))[0]
        waiting, words = self._opened[opening], split(continuation)
        if not any(waiting.values()):
            raise ValueError(f"{opening!r} is no opening of this world: take one of `openings`")
        waiting, log_prob = self._after(waiting, words)
        # the moods of all derivations of the text, weighed by their probability: of toyland's texts all agree
        ends = [(p, m["mood"]) for p, m, _, rest in self._emissions(waiting.get((), []), None) if rest == ()]
        total = math.fsum(p for p, _ in ends)
        if total == 0:
            return Truth(0.0, False, -math.inf, len(words))
        mood = math.fsum(p * mood for p, mood in ends) / total
        return Truth(mood / EVENTS, True, log_prob + math.log(total), len(words))

    def _after(self, waiting: dict, words: Sequence[str]) -> tuple[dict, float]:
        """The hypotheses after some more words, their probabilities made to sum to 1, and log P of those words."""
        log_prob = 0.0
        for word in words:
            waiting = self._advance(waiting, word)
            total = math.fsum(h[0] for hypotheses in waiting.values() for h in hypotheses)
            if total == 0:
                return {}, -math.inf
            log_prob += math.log(total)
            waiting = {rest: [(h[0] / total, *h[1:]) for h in hs] for rest, hs in waiting.items()}
        return waiting, log_prob


MOODS = _Moods()


def mood_stories(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """n stories as (opening, continuation); a continuation begins with a space. The first k are those of k stories."""
    rng, found = random.Random(f"moods {seed}"), []
    for _ in range(n):
        first, mark, rest = MOODS.sample(rng).text.partition(".")
        found.append((first + mark, rest))
    return found


def openings(n: int, seed: int = 0) -> list[str]:
    """n different openings, the prompts; the first k are those of k openings."""
    found: dict[str, None] = {}
    for opening, _ in mood_stories(2 * n + 50, seed):
        found[opening] = None
    return list(found)[:n]


def truth(opening: str, continuation: str) -> Truth:
    """What a continuation is worth, exactly. Raises ValueError for an opening that is not of this world.

    >>> found = truth("Mia and Tom had a red ball and a brave cat.", " The cat sneezed. The cat sneezed.")
    >>> found.grammatical, found.score   # two events, and three are wanted
    (False, 0.0)
    """
    return MOODS.judge(opening, continuation)


class NoisyLabels(NamedTuple):
    """M comparisons of two continuations: did the judge prefer the first, and how probable was that, (M,) each.

    The probabilities are the noise, exactly known.
    """

    first_wins: Tensor
    win_probs: Tensor

    @property
    def ceiling(self) -> float:
        """How often the best possible judge agrees with the labels."""
        return accuracy_ceiling(self.win_probs)


def noisy_labels(
    first: Tensor,
    second: Tensor,
    temperature: float = 0.25,
    flip: float = 0.05,
    generator: torch.Generator | None = None,
) -> NoisyLabels:
    """A judge's choices between continuations of true scores first and second, (M,) each.

    temperature   points of score that count as one unit of log-odds: the smaller, the surer the judge
    flip          share of answers that are turned round afterwards

    Raises ValueError for a temperature of 0 or less, a flip outside 0 to 0.5, and unequal shapes. Source: Bradley and
    Terry 1952, as in llmkit/alignment/preferences.py.
    """
    if not temperature > 0:
        raise ValueError(f"the judge's temperature must be above 0, got {temperature}")
    if first.shape != second.shape or first.dim() != 1:
        raise ValueError(f"first and second are (M,) scores each, got {tuple(first.shape)} and {tuple(second.shape)}")
    p = win_probability(first / temperature, second / temperature, flip)
    return NoisyLabels(torch.rand(len(p), generator=generator) < p, p)
