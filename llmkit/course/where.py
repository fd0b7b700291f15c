"""`python -m llmkit.course where RoPE`: the file, the lesson and the exercise of a word.

Knows the words of the glossary, papers, transformers' names and every public name of llmkit.
"""

import ast
import difflib
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from llmkit.course.exercise import Exercise, exercises
from llmkit.course.lessons import LESSONS, lesson
from llmkit.course.source import SourceError, find_definition
from llmkit.course.where_papers import PAPERS
from llmkit.course.where_terms import TERMS
from llmkit.course.where_transformers import PEERS

PACKAGE = Path(__file__).parents[1]


@dataclass
class Found:
    """All that is known of a word: its own name, a sentence, lessons by number, code references, other names."""

    name: str
    meaning: str = ""
    lessons: list[int] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def where(word: str) -> list[Found]:
    """Everything with this name, letter case, spaces and hyphens aside; empty where there is nothing.

    >>> [found.lessons for found in where("rotary-position embedding")]
    [[3]]
    """
    key = plain(word)
    if not key:  # of no letter: some papers have no number, and it would be theirs
        return []
    found = [Found(t.name, t.meaning, [t.lesson], list(t.code)) for t in TERMS if key in map(plain, (t.name, *t.also))]
    for p in PAPERS:
        if key in map(plain, (p.cited, p.title, p.arxiv, p.title.split(":")[0])):
            found.append(Found(p.cited, p.title, [p.lesson], [p.code] * bool(p.code), [p.link] * bool(p.link)))
    for p in PEERS:
        if key == plain(p.name):
            found.append(Found(p.name, f"transformers' name, in {p.file}", [p.lesson], [p.code]))
    known = {code for one in found for code in one.code}
    for code in public_names().get(key, ()):
        if code not in known:
            lessons = sorted({exercise.lesson for exercise in exercises_of((code,))})
            found.append(Found(code.split(":")[1], "a name of llmkit", lessons, [code]))
    return found


def plain(word: str) -> str:
    """What two spellings of a word have in common.

    >>> plain("KV-Cache") == plain("kv cache") == plain("kv_cache")
    True
    """
    return "".join(letter for letter in word.casefold() if letter.isalnum() or letter in "@+")


def close_to(word: str) -> list[str]:
    """At most three words that are spelled like this one."""
    words = {plain(name): name for t in TERMS for name in (t.name, *t.also)}
    words |= {plain(p.name): p.name for p in PEERS} | {plain(p.cited): p.cited for p in PAPERS}
    for key, codes in public_names().items():
        words.setdefault(key, codes[0].split(":")[1])
    return [words[key] for key in difflib.get_close_matches(plain(word), words, n=3, cutoff=0.75)]


@cache
def public_names() -> dict[str, tuple[str, ...]]:
    """{plain name: references} of the functions and classes that llmkit defines; the course's own are left out."""
    names: dict[str, tuple[str, ...]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("llmkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        if module.startswith("llmkit.course."):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                names[plain(node.name)] = (*names.get(plain(node.name), ()), f"{module}:{node.name}")
    return names


def exercises_of(code: tuple[str, ...]) -> list[Exercise]:
    """The exercises in which one of these references is written, by lesson."""
    return [e for one in LESSONS for e in exercises(one.number) if not e.by_hand and e.reference in code]


def place(code: str) -> str:
    """Where a reference is defined, as "llmkit/layers/rope.py:38 rotate"; SourceError where it is not."""
    module, name = code.split(":")
    definition = find_definition(module, name)
    path = PACKAGE.joinpath(*definition.module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return f"llmkit/{path.relative_to(PACKAGE).as_posix()}:{definition.node.lineno} {name}"


def lines_of(found: Found) -> list[str]:
    """What the learner reads of one thing found."""
    lines = [f"{found.name}: {found.meaning}" if found.meaning else found.name]
    for number in found.lessons:
        one = lesson(number)
        planned = "" if one.exists else " (planned)"
        lines.append(f"  lesson    {number:02d} {one.title} · lessons/{one.name}.ipynb{planned}")
    for exercise in exercises_of(tuple(found.code)):
        lines.append(f"  exercise  {exercise.number} {exercise.name}")
    lines += [f"  code      {place(code)}" for code in found.code]
    return lines + [f"  see       {note}" for note in found.notes]


def main(words: list[str]) -> int:
    """Print what is known of the word; 1 where nothing is, with words that are spelled like it."""
    word = " ".join(words)
    found = where(word)
    if not found:
        close = close_to(word)
        meant = f" Did you mean {', '.join(close)}?" if close else f" It has {', '.join(t.name for t in TERMS)}."
        print(f"The course has no {word!r}.{meant}", file=sys.stderr)
        return 1
    try:
        print("\n\n".join("\n".join(lines_of(one)) for one in found))
    except SourceError as error:
        print(f"{word}: the index names code that is gone: {error}", file=sys.stderr)
        return 1
    return 0
