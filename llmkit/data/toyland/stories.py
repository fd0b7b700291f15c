"""The story world: all rules and pools put together. Importing a module of rules makes them known."""

from llmkit.data.toyland import beginnings, endings, events, facts  # noqa: F401
from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.lexicon import POOLS
from llmkit.data.toyland.roles import RULES

STORIES = World(RULES, POOLS)


def village(n_names: int) -> World:
    """The same stories in a place where few people live: n_names girls, as many boys, half as many towns.

    Everything else is as in STORIES, the entropy exact as there; but every name is met often, so that a small model
    in a short time is not asked for what it never saw.
    """
    few = {name: POOLS[name].first(n) for name, n in (("girls", n_names), ("boys", n_names), ("towns", n_names // 2))}
    return World(RULES, POOLS | few)


VILLAGE = village(30)
