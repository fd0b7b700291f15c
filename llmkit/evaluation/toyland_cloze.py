"""Which sentence comes next? Questions made from the village's stories, with wrong answers of a length to choose."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmkit.data.toyland.automaton import Document
from llmkit.data.toyland.stories import VILLAGE
from llmkit.data.toyland.tasks import PATIENCE

ROLES = ("hero", "friend", "third", "thing", "pet", "town")
EARLY = 4  # sentences that only introduce a story's people: they are no answers
NAMES = {name: pool for pool in ("girls", "boys", "towns") for name in VILLAGE.pools[pool].words}  # "Mia" -> "girls"


@dataclass(frozen=True)
class Cloze:
    """Some sentences of a story, the sentence that follows there, and sentences of other stories with its names."""

    context: str
    right: str
    wrong: tuple[str, ...]

    def choices(self, wrong: str = "any", n: int = 3) -> list[str]:
        """The right answer, then n wrong ones; each is the shortest, longest or first ("any") of an equal share.

        Raises ValueError for an n outside 1 to the number of wrong answers.
        """
        if not 1 <= n <= len(self.wrong):
            raise ValueError(f"the question has {len(self.wrong)} wrong answers, so n is from 1 to that, got {n}")
        pick = {"short": min, "long": max, "any": lambda some, key: some[0]}[wrong]
        share = len(self.wrong) // n
        return [self.right, *(pick(self.wrong[i * share : (i + 1) * share], key=len) for i in range(n))]


def sentences(text: str) -> list[str]:
    """A story cut behind its sentences; what is said inside quotation marks stays whole.

    >>> sentences('A cat sat. "Who? I?" said Mia. So it was.')
    ['A cat sat.', ' "Who? I?" said Mia.', ' So it was.']
    """
    found, start, quoted = [], 0, False
    for i, letter in enumerate(text):
        quoted ^= letter == '"'
        ends = letter in ".!?" or (letter == '"' and text[i - 1] in ".!?")
        if ends and not quoted and re.match(r' ["A-Z]|$', text[i + 1 :]):
            found.append(text[start : i + 1])
            start = i + 1
    return found


def questions(n: int, seed: int = 0, n_wrong: int = 9, n_context: int = 3) -> list[Cloze]:
    """n questions, each about another story; wrong answers come from 60 stories more.

    n_wrong     wrong answers, all different
    n_context   sentences that are shown, 1 to 4

    In a wrong answer the names, thing, animal and town of its story are changed to those of the question's. It is not
    taken where a name has no counterpart there or a counterpart of the other gender ("Mia lost her hat"), and where the
    question's own story has the same sentence. Raises ValueError for another n_context, and for more wrong answers than
    can be found.
    """
    if not 1 <= n_context <= EARLY:
        raise ValueError(f"n_context is from 1 to {EARLY} sentences, got {n_context}")
    rng = random.Random(seed)
    stories: list[tuple[list[str], dict[str, str]]] = []
    while len(stories) < n + 60:
        story = VILLAGE.sample(rng)
        if len(cut := sentences(story.text)) > EARLY + 2:
            stories.append((cut, _cast(story)))
    return [_question(stories[i], stories[n:], rng, n_wrong, n_context) for i in range(n)]


def _cast(story: Document) -> dict[str, str]:
    memory = story.trace[-1].memory
    return {role: memory[role] for role in ROLES if memory.get(role)}


def _question(story: tuple, others: list[tuple], rng: random.Random, n_wrong: int, n_context: int) -> Cloze:
    lines, cast = story
    at = rng.randrange(EARLY, len(lines))
    wrong: list[str] = []
    refused = 0
    while len(wrong) < n_wrong:
        their_lines, theirs = rng.choice(others)
        line = _recast(rng.choice(their_lines[EARLY:]), theirs, cast)
        if line is not None and line not in (*lines, *wrong):
            wrong.append(line)
            refused = 0
        elif (refused := refused + 1) == PATIENCE:
            raise ValueError(f"none of {PATIENCE} sentences in a row was new after {len(wrong)}: ask for fewer n_wrong")
    return Cloze("".join(lines[at - n_context : at]).strip(), lines[at], tuple(wrong))


def _recast(line: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    """The line with our names for theirs, all at once; None where a name in it has no counterpart of its kind."""
    counterpart = {name: ours.get(role) for role, name in theirs.items()}
    for word in re.findall(r"\w+", line):
        other = counterpart.get(word)
        if word in counterpart and (other is None or NAMES.get(word) != NAMES.get(other)):
            return None  # nobody has the role here, or "her" would be said of a boy
        if word in NAMES and word not in counterpart:
            return None  # somebody who is only passing through
    return re.sub(r"\w+", lambda word: counterpart.get(word[0], word[0]), line)
