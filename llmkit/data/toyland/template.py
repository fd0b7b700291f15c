"""Templates: text with holes that are filled from memory, chosen from a pool, or expanded by a rule.

{key}            a word from memory; {a key} with its article, {cap key} capitalised, {s key} in the plural
<key=pool>       choose a word of a pool, write it and remember it; <a key=pool> writes it with its article
<rule>           choose one of the alternatives that the rule gives for the present memory
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from llmkit.data.toyland.words import split, written


class Memory(dict):
    """What the story knows: key -> word. Never changed, only copied with changes, so states can share it."""

    def changed(self, changes: dict[str, Any]) -> "Memory":
        return Memory({**self, **changes})


Alternative = tuple  # (weight, template), or (weight, template, {key: what is known from here on})
Rule = Callable[[Memory], list[Alternative]]


class Text(NamedTuple):
    """Literal text with {holes}; always exactly one way to write it."""

    template: str
    holes: tuple[tuple[str, str, str], ...]  # (text before, style, key)
    tail: str
    first: str | None  # the first token, where no hole can change it

    def render(self, memory: Memory) -> str:
        if not self.holes:
            return self.tail
        return "".join(b + written(str(memory[k]), s) for b, s, k in self.holes) + self.tail


class Choose(NamedTuple):
    """Choose a word of a pool and remember it; words remembered under the keys `but` are left out."""

    key: str
    pool: str
    style: str
    but: tuple[str, ...]


class Expand(NamedTuple):
    """Replace by one of a rule's alternatives."""

    rule: str
    space: str


_HOLE = re.compile(r"<(?:(a|A|cap|s) )?(\w+)(?:=(\w+)((?: but \w+)*))?>")
_INSERT = re.compile(r"\{(?:(a|A|cap|s) )?(\w+)\}")


def compile_template(template: str, space: str) -> tuple[Text | Choose | Expand, ...]:
    """A template's items; a space before a hole becomes part of the hole, as in the token that it writes."""
    if not template:
        return ()  # nothing is written, so there is nothing that the space could belong to
    items, position = [], 0
    for hole in [*_HOLE.finditer(template), None]:
        end = hole.start() if hole else len(template)
        literal = space + template[position:end]
        if hole:
            position, space = hole.end(), " " if literal.endswith(" ") else ""
            literal = literal[: len(literal) - len(space)]
        if literal:
            items.append(_text(literal))
        if hole:
            style, key, pool, but = hole.groups()
            if pool is None:
                items.append(Expand(key, space))
            else:
                items.append(Choose(key, pool, space + (style or ""), tuple(but.split(" but ")[1:])))
            space = ""
    return tuple(items)


def _text(literal: str) -> Text:
    holes, position = [], 0
    for insert in _INSERT.finditer(literal):
        holes.append((literal[position : insert.start()], insert[1] or "", insert[2]))
        position = insert.end()
    certain = split(holes[0][0])[:-1] if holes else split(literal)  # a hole may lengthen the token before it
    return Text(literal, tuple(holes), literal[position:], certain[0] if certain else None)
