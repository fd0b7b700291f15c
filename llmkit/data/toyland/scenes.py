"""Short stories for instructions: the village's rules with few events and no ending, so that facts must be followed.

A story of `stories.VILLAGE` has a hundred words and tells at its end who has the thing. A scene has about forty, and
whoever is asked who has the thing must have kept track of it.
"""

import random

from llmkit.data.toyland.automaton import Document, World
from llmkit.data.toyland.roles import RULES
from llmkit.data.toyland.stories import VILLAGE
from llmkit.data.toyland.template import Alternative, Memory


def _start(m: Memory) -> list[Alternative]:
    return [(1, "<seated>")]


def _events(m: Memory) -> list[Alternative]:
    """One to three events; nothing is said at the end."""
    go_on, stop = (0 if m["n"] >= 3 else 1), (0 if m["n"] < 1 else 1)
    return [(w, t) for w, t in ((go_on, " <event><events>"), (stop, "")) if w]


def _event(m: Memory) -> list[Alternative]:
    possible = {"give": 3, "hide": 1.5, "busy": 1.0, "walk": 0.5, "mood": 0.5}
    if m.get("spot"):
        possible = {"fetch": 2, "mood": 1, "busy": 1}
    if not m.get("third"):
        possible["meet"] = 1
    return [(w, f"<{name}>", {"n": m["n"] + 1}) for name, w in possible.items()]


def _seated_count(m: Memory) -> list[Alternative]:
    return [
        (1, " <somebody_hero> and <somebody_friend> came in.<events>", {"n": 0}),
        (1, " <somebody_hero> looked at it. So did <somebody_friend>.<events>", {"n": 0}),
    ]


def _count_events(m: Memory) -> list[Alternative]:
    """Somebody gets some fruit or the like, then one or two changes, as long as any is left."""
    done = m["n"] >= 3 or (m.get("owner") and m["count"] == 0)
    go_on, stop = (0 if done else 1), (1 if m["n"] >= 2 or done else 0)
    return [(w, t) for w, t in ((go_on, " <event><events>"), (stop, "")) if w]


def _count_event(m: Memory) -> list[Alternative]:
    name = "count_change" if m.get("owner") else "count_start"
    return [(1, f"<{name}>", {"n": m["n"] + 1})]


SCENES = World(RULES | {"start": _start, "events": _events, "event": _event}, VILLAGE.pools)
COUNTS = World(
    RULES | {"start": _start, "seated_on": _seated_count, "events": _count_events, "event": _count_event},
    VILLAGE.pools,
)


def scene(rng: random.Random) -> Document:
    """People, an animal, a thing, and what happened to it; the last step of the trace holds all facts.

    Only one thing of its kind is in it, so that a question about "the lamp" has one answer.
    """
    while True:
        found = SCENES.sample(rng)
        m = found.trace[-1].memory
        if m["thing"] not in (m.get("t1"), m.get("t2")):
            return found


def count_scene(rng: random.Random) -> Document:
    """Somebody has some of a food, and once or twice their number changes: "count", "food" and "owner" in memory."""
    return COUNTS.sample(rng)
