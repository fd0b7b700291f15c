"""Instructions about toyland: thirteen families, each in many phrasings, with answers that a program can check.

Three splits, kept apart by construction:

    train       phrasings of TRAIN, four fifths of all contents
    instances   the same phrasings, the other fifth of contents: has it learnt the task?
    phrasings   phrasings of HELD_OUT, and that same other fifth: the difference to `instances` is the phrasing alone

Which fifth a content belongs to is decided by its hash, so that no two splits share one whatever the seeds are.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmkit.data.toyland.instruction_families import FAMILIES, Rule, Task, one_of
from llmkit.data.toyland.phrasings import FORMATS, HELD_OUT, TRAIN
from llmkit.tokenizers.chat import Message

SPLITS = ("train", "instances", "phrasings")


@dataclass(frozen=True)
class Instruction:
    """One instruction: `messages` end with the user's, `target` is what an assistant should say.

    content   what it is about, whatever the phrasing: what decides the split
    """

    family: str
    messages: tuple[Message, ...]
    target: str
    content: str
    rule: Rule | None = field(default=None, repr=False, compare=False)

    @property
    def conversation(self) -> list[Message]:
        """The messages and the right answer: what is learnt from."""
        return [*self.messages, {"role": "assistant", "content": self.target}]

    def correct(self, reply: str) -> bool:
        """Is this reply right? By the family's rule, or the same as the target but for capitals and the last stop."""
        return (self.rule or one_of(self.target))(reply)


def instructions(
    n: int, seed: int = 0, split: str = "train", families: Sequence[str] | None = None
) -> list[Instruction]:
    """n instructions, the families in turn; the first k are the same for every n >= k, on every machine.

    families   which, by default all of FAMILIES

    Raises ValueError for a negative n, an unknown split or family, and for no family.

    >>> one = instructions(1, families=["reverse"])[0]
    >>> one.correct(one.target), one.correct("something else")
    (True, False)
    """
    families = list(FAMILIES) if families is None else list(families)
    if n < 0:
        raise ValueError(f"the number of instructions must be at least 0, not {n}")
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    if unknown := [family for family in families if family not in FAMILIES] or ([] if families else ["(none)"]):
        raise ValueError(f"there is no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    return [_instruction(families[i % len(families)], i // len(families), seed, split) for i in range(n)]


def held_out(content: str) -> bool:
    """Does this content belong to the fifth that no training sees?"""
    return zlib.crc32(content.encode("utf-8")) % 5 == 0


def _instruction(family: str, number: int, seed: int, split: str) -> Instruction:
    rng = random.Random(f"{family} {number} {seed} {split}")  # a string's seed is the same in every process
    while True:
        task = FAMILIES[family](rng)
        content = task.holes["text"]  # two questions about one story are on the same side
        if held_out(content) != (split == "train"):
            return Instruction(family, _messages(family, task, rng, split), task.target, content, task.rule)


def _messages(family: str, task: Task, rng: random.Random, split: str) -> tuple[Message, ...]:
    kept = split == "phrasings"
    phrasing = rng.choice((HELD_OUT if kept else TRAIN)[family])
    if family == "format":
        asked = rng.choice(FORMATS[task.holes["kind"]][kept]).format(**task.holes)
        return (_user(phrasing.format(**task.holes, question=asked)),)
    if family == "system":
        asked = rng.choice((HELD_OUT if kept else TRAIN)["answer"]).format(**task.holes)
        return {"role": "system", "content": phrasing.format(**task.holes)}, _user(asked)
    before = []
    for question, answer in task.before:
        before += [_user(question), {"role": "assistant", "content": answer}]
    return (*before, _user(phrasing.format(**task.holes)))


def _user(content: str) -> Message:
    return {"role": "user", "content": content}
