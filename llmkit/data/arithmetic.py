"""Additions for the lesson on reasoning: problems without end, graded by arithmetic, split so that nothing leaks."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from llmkit.data.hashing import derive

ALPHABET = "\n0123456789+=,;"  # the line break ends an answer and pads, so it is id 0
EOS = 0


@dataclass(frozen=True)
class Problem:
    """prompt "47+85=", answer "132", and solution, what a teacher would write: the work if any, then the answer."""

    prompt: str
    answer: str
    solution: str


def addition(a: int, b: int, scratchpad: bool = False) -> Problem:
    """The problem a + b; with a scratchpad its solution adds digit by digit from the right, carries included.

    Raises ValueError for numbers below 0.

    >>> addition(47, 85).solution, addition(47, 85, scratchpad=True).solution
    ('132', '7+5+0=12,4+8+1=13;132')
    """
    if a < 0 or b < 0:
        raise ValueError(f"numbers of an addition must be at least 0, got {a} and {b}")
    work = ",".join(_columns(a, b)) + ";" if scratchpad else ""
    return Problem(f"{a}+{b}=", str(a + b), f"{work}{a + b}")


def _columns(a: int, b: int) -> Iterable[str]:
    carry = 0
    for _ in range(max(len(str(a)), len(str(b)))):
        total = a % 10 + b % 10 + carry
        yield f"{a % 10}+{b % 10}+{carry}={total}"
        a, b, carry = a // 10, b // 10, total // 10


def is_held_out(a: int, b: int, share: float = 0.2) -> bool:
    """Whether a pair of numbers is for testing only; decided by a hash, a + b and b + a alike.

    >>> is_held_out(47, 85) == is_held_out(85, 47)
    True
    """
    return derive(min(a, b), max(a, b)) < share * 2**64


def problems(
    n: int, digits: int, seed: int = 0, held_out: bool = False, share: float = 0.2, scratchpad: bool = False
) -> list[Problem]:
    """n problems with numbers of exactly so many digits (0 is one of one digit), pairs drawn with replacement.

    held_out   draw only pairs of the test part, which the training part (false) never shows in either order

    Raises ValueError for digits < 1 and for a share that leaves a part empty.

    >>> problems(2, digits=2, seed=1) == problems(2, digits=2, seed=1)
    True
    """
    if digits < 1:
        raise ValueError(f"numbers need at least one digit, got {digits}")
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must be between 0 and 1, got {share}: one part would be empty")
    rng, drawn = random.Random(seed), []
    low = 10 ** (digits - 1) if digits > 1 else 0
    while len(drawn) < n:
        a, b = rng.randrange(low, 10**digits), rng.randrange(low, 10**digits)
        if is_held_out(a, b, share) == held_out:
            drawn.append(addition(a, b, scratchpad))
    return drawn


def encode(text: str) -> list[int]:
    """Characters of ALPHABET -> ids. Raises ValueError for any other character.

    >>> encode("1+2=3\\n")
    [2, 11, 3, 12, 4, 0]
    """
    unknown = sorted(set(text) - set(ALPHABET))
    if unknown:
        raise ValueError(f"{unknown} are not among the characters of arithmetic, {ALPHABET!r}")
    return [ALPHABET.index(character) for character in text]


def decode(ids: Iterable[int]) -> str:
    """ids -> text, up to the first line break (EOS), which is not given.

    >>> decode([2, 11, 3, 0, 9])
    '1+2'
    """
    return "".join(ALPHABET[i] for i in ids).split("\n", 1)[0]
