"""The learning path as a map: a row for each lesson, a line for each part of llmkit, stops where lessons build."""

import re
from functools import cache
from html import escape
from itertools import cycle

from llmkit.course.badges import ROOT
from llmkit.course.lessons import LESSONS, Lesson
from llmkit.course.site_pages import built_lessons

PARTS = ("data", "tokenizers", "layers", "models", "generation", "training", "evaluation", "checkpoints", "finetuning",
         "alignment", "viz")  # fmt: skip
# One after the other; each stands out from a white page and from a dark one at 3 to 1 or more (WCAG 1.4.11). The lines
# are told apart by their heads, not by colour alone.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA5F8C")


def master_text(lesson: Lesson) -> str:
    path = ROOT / "solutions" / f"{lesson.name}.py"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def files_gained(master: str) -> list[str]:
    """The files in the first column of a master's table "What llmkit gained"; a folder stands for itself.

    >>> files_gained("# ## What llmkit gained\\n#\\n# | `llmkit/layers/norms.py`, `mlp.py` | `rms_norm` |")
    ['llmkit/layers/norms.py', 'llmkit/layers/mlp.py']
    """
    table = re.search(r"^# ## What llmkit gained\n((?:#( .*)?\n?)*)", master, re.MULTILINE)
    found, folder = [], ""
    for cell in re.findall(r"^# \| ([^|]*) \|", table[1] if table else "", re.MULTILINE):
        for name in re.findall(r"`([\w/*.]+)`", cell):
            if name.startswith("llmkit/"):
                folder = name.rpartition("/")[0] + "/"
            full = name if name.startswith("llmkit/") else folder + name
            matches = sorted(ROOT.glob(full)) if "*" in full else [ROOT / full.rstrip("/")]
            found += [path.relative_to(ROOT).as_posix() for path in matches]
    return found


@cache
def gained() -> dict[str, tuple[Lesson, ...]]:
    """{file or folder: the lessons that say they built it}."""
    builders: dict[str, tuple[Lesson, ...]] = {}
    for one in LESSONS:
        for name in dict.fromkeys(files_gained(master_text(one))):
            builders[name] = (*builders.get(name, ()), one)
    return builders


def needed(lesson: Lesson) -> list[int]:
    """The earlier lessons that a master names after **Before**."""
    before = re.search(r"\*\*Before\*\* you start:(.*)", master_text(lesson))
    named = {int(n) for n in re.findall(r"\b([012]\d)\b(?!-)", before[1] if before else "")}
    return sorted(n for n in named if n < lesson.number)


def parts_built(lesson: Lesson) -> dict[str, list[str]]:
    """{part of llmkit: its files that this lesson built}."""
    built: dict[str, list[str]] = {}
    for name in dict.fromkeys(files_gained(master_text(lesson))):
        pieces = name.split("/")
        if len(pieces) > 1 and pieces[1] in PARTS:
            built.setdefault(pieces[1], []).append("/".join(pieces[2:]) or "all of it")
    return built


def learning_path() -> str:
    """The map as an HTML table: it needs no script, a screen reader reads it, and it fits a phone."""
    built = {one: parts_built(one) for one in LESSONS}
    stops = {part: [one.number for one in LESSONS if part in built[one]] for part in PARTS}
    heads = "".join(f'<th scope="col"><a href="api/{part}.html"><span>{part}</span></a></th>' for part in PARTS)
    rows = [f'<tr><th scope="col" class="lesson">lesson</th>{heads}</tr>']
    section = ""
    for one in LESSONS:
        if one.part != section:
            section = one.part
            between = "".join(_cell(one.number - 0.5, part, stops[part], []) for part in PARTS)
            rows.append(f'<tr class="part"><th scope="row">{escape(section)}</th>{between}</tr>')
        cells = "".join(_cell(one.number, part, stops[part], built[one].get(part, [])) for part in PARTS)
        rows.append(f'<tr><th scope="row" class="lesson">{_title(one)}</th>{cells}</tr>')
    caption = "<caption>The learning path, and the parts of llmkit that each lesson builds (●)</caption>"
    colors = "".join(
        f".path td:nth-child({n}) {{ --line: {color}; }}\n" for n, color in zip(range(2, len(PARTS) + 2), cycle(COLORS))
    )
    return f'<style>{colors}</style>\n<table class="path">\n{caption}\n' + "\n".join(rows) + "\n</table>"


def _title(lesson: Lesson) -> str:
    before = ", ".join(f"{n:02d}" for n in needed(lesson))
    after = f" <small>after {before}</small>" if before else ""
    name = f"{lesson.number:02d} · {escape(lesson.title)}"
    return (
        f'<a href="lessons/{lesson.name}.html">{name}</a>'
        if lesson in built_lessons()
        else f"{name} <small>planned</small>"
    ) + after


def _cell(number: float, part: str, stops: list[int], files: list[str]) -> str:
    """A stop, a piece of line between two stops, or nothing; rows between lessons have halves as their numbers."""
    if not files:
        return '<td class="on"></td>' if stops and stops[0] < number < stops[-1] else "<td></td>"
    place = "only" if len(stops) == 1 else {stops[0]: "first", stops[-1]: "last"}.get(number, "on")
    said = escape(f"builds {part}: {', '.join(files)}", quote=True)
    return f'<td class="{place}"><a href="api/{part}.html" title="{said}" aria-label="{said}">●</a></td>'
