"""The story world: all rules and pools put together. Importing a module of rules makes them known."""

from llmkit.data.toyland import beginnings, endings, events, facts  # noqa: F401
from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.lexicon import POOLS
from llmkit.data.toyland.roles import RULES

STORIES = World(RULES, POOLS)
