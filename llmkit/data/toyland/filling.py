"""The exact answer to a fill-mask question: how probable each word is at one place, given all the others."""

import math
from collections.abc import Sequence

from llmkit.data.toyland.automaton import END, World, _scaled, _total


def fillings(world: World, tokens: Sequence[str], place: int, complete: bool = True) -> dict[str, float]:
    """P(token at `place` | the tokens before it and after it), most probable first; what stands there is not looked at.

    By Bayes: the probability of the whole text with each candidate, divided by their sum. Candidates are the tokens
    that can follow the beginning.

    tokens     a document as `split` cuts it
    complete   False where it may go on: then all ends that the world could give it are summed over

    Raises IndexError for a place outside the text and ValueError where no token at all makes it a text of this world.
    """
    if not 0 <= place < len(tokens):
        raise IndexError(f"place {place} is not in a text of {len(tokens)} tokens")
    before = world._begin()
    for token in tokens[:place]:
        before = world._advance(before, token)
        total = _total(before)
        before = _scaled(before, 1 / total) if total else {}
    found = {}
    for candidate in world.next_word("".join(tokens[:place])) if before else ():
        if candidate != END:
            found[candidate] = _joint(world, before, [candidate, *tokens[place + 1 :]], complete)
    total = math.fsum(found.values())
    if total == 0:
        raise ValueError(f"no token at place {place} makes this a text of this world")
    probs = {token: p / total for token, p in found.items() if p > 0}
    return dict(sorted(probs.items(), key=lambda item: (-item[1], item[0])))


def _joint(world: World, waiting: dict, tokens: Sequence[str], complete: bool) -> float:
    """P(these tokens, then the end if complete) from there."""
    for token in tokens:
        waiting = world._advance(waiting, token)
        if not waiting:
            return 0.0
    return world._end_probability(waiting) if complete else _total(waiting)
