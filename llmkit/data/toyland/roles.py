"""Roles and rules: who is in a story, and templates in which X, Y and Z stand for them.

Roles (hero, friend, third) are memory keys that hold names; `holder`, `owner` and `promiser` hold a role, so that what
is written later depends on what happened earlier.
"""

from collections.abc import Callable

from llmkit.data.toyland.template import Alternative, Memory, Rule

RULES: dict[str, Rule] = {}  # every rule of the story world by its name

PRONOUNS = {
    "girls": {"he": "she", "him": "her", "his": "her"},
    "boys": {"he": "he", "him": "him", "his": "his"},
}


def rule(function: Rule) -> Rule:
    """Decorator: make a rule known under its function's name."""
    RULES[function.__name__] = function
    return function


def by(template: str, **roles: str) -> str:
    """A template with its roles: by("{X} saw {Y_him}.", X="hero", Y="friend") -> "{hero} saw {friend_him}."."""
    for letter, role in roles.items():
        template = template.replace("{" + letter, "{" + role).replace("{cap " + letter, "{cap " + role)
        template = template.replace(letter + "_his", "{" + role + "_his}")
    return template


def there(m: Memory) -> list[str]:
    """The roles that are present."""
    return [role for role in ("hero", "friend", "third") if m.get(role)]


def pairs(m: Memory) -> list[tuple[str, str]]:
    return [(x, y) for x in there(m) for y in there(m) if x != y]


def each_pair(m: Memory, templates: list[str], **changes) -> list[Alternative]:
    """Every template with every two roles as X and Y."""
    return [(1, by(t, X=x, Y=y), _for(changes, x, y)) for x, y in pairs(m) for t in templates]


def _for(changes: dict, x: str, y: str) -> dict:
    return {key: {"X": x, "Y": y}.get(value, value) for key, value in changes.items()}


def somebody(role: str) -> Callable[[Memory], list[Alternative]]:
    """A rule that names a new person and remembers how to speak of them."""

    def rule(m: Memory) -> list[Alternative]:
        taken = "".join(f" but {other}" for other in there(m))
        return [
            (1, f"<{role}={pool}{taken}>", {f"{role}_{word}": form for word, form in forms.items()})
            for pool, forms in PRONOUNS.items()
        ]

    return rule


RULES |= {f"somebody_{role}": somebody(role) for role in ("hero", "friend", "third")}
