"""Pages of the index: glossary, papers, transformers' names, from the tables that `where` reads."""

from llmkit.course.lessons import lesson
from llmkit.course.site_pages import built_lessons
from llmkit.course.where import exercises_of
from llmkit.course.where_papers import PAPERS
from llmkit.course.where_terms import TERMS, Term
from llmkit.course.where_transformers import PEERS


def lesson_link(number: int) -> str:
    """[04](lessons/04_attention.ipynb), or only the number of a lesson that is not there yet."""
    one = lesson(number)
    return f"[{number:02d}](lessons/{one.name}.ipynb)" if one in built_lessons() else f"{number:02d}"


def code_link(code: str) -> str:
    """[`rotate`](#llmkit.layers.rope.rotate) of "llmkit.layers.rope:rotate"; a constant or re-export without link."""
    return f"[`{code.split(':')[1]}`](#{code.replace(':', '.')})" if code else ""


def glossary() -> str:
    """Every term, by the alphabet."""
    entries = "\n\n".join(entry(term) for term in sorted(TERMS, key=lambda term: term.name.casefold()))
    command = "`python -m llmkit.course where RoPE`"
    intro = f"Each word with the lesson that introduces it. In a terminal, {command} says the same."
    return f"# Glossary\n\n{intro}\n\n```{{glossary}}\n{entries}\n```\n"


def entry(term: Term) -> str:
    """A word, its other names, what it means, where it is."""
    exercise = "".join(f" · exercise {e.number}" for e in exercises_of(term.code))
    code = "".join(f" · {code_link(one)}" for one in term.code)
    names = "\n".join((term.name, *term.also))
    return f"{names}\n  {term.meaning[0].upper()}{term.meaning[1:]}. Lesson {lesson_link(term.lesson)}{exercise}{code}"


def table(heads: str, rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; `heads` are words with | between."""
    line = "|".join(["---"] * len(heads.split("|")))
    return "\n".join([f"| {heads} |", f"|{line}|", *(f"| {' | '.join(row)} |" for row in rows)])


def papers() -> str:
    """Every paper, by lesson."""
    rows = [
        (p.cited, f"[{p.title}]({p.link})" if p.link else p.title, lesson_link(p.lesson), code_link(p.code))
        for p in sorted(PAPERS, key=lambda p: (p.lesson, p.cited))
    ]
    intro = "What the lessons build on, and what of it is in llmkit."
    return f"# Papers\n\n{intro}\n\n{table('paper | title | lesson | here', rows)}\n"


def transformers_names() -> str:
    """Every name of transformers, by file."""
    parts = ["# From transformers' names to ours"]
    for file in dict.fromkeys(p.file for p in PEERS):
        rows = [(f"`{p.name}`", code_link(p.code), lesson_link(p.lesson)) for p in PEERS if p.file == file]
        parts += [f"## {file}", table("there | here | lesson", rows)]
    return "\n\n".join(parts) + "\n"
