"""How long a lesson takes, counted: `python -m llmkit.course time`.

minutes = words / 200 + lines of code / 20 + figures / 2 + the minutes that each exercise's heading gives

200 words a minute is slow reading: adults read 238 words a minute of plain non-fiction in English (Brysbaert 2019,
doi:10.1016/j.jml.2019.104047), and this text is denser. A line of code has about ten tokens, so 20 lines a minute is
the same pace. Not counted as lines: a cell that draws, of which people read the figure, and a stub, which is part of
its exercise. Optional exercises are counted apart.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from llmkit.course.badges import ROOT

WORDS_A_MINUTE, LINES_A_MINUTE, MINUTES_A_FIGURE = 200, 20, 0.5
SHORTEST, LONGEST = 45, 90
_EXERCISE = re.compile(r"^### Exercise [^\n]*· (\d+) min([^\n]*)$", re.MULTILINE)
_FIGURE = re.compile(r"^\s*show\(", re.MULTILINE)
_STATED = re.compile(r"\*\*Time\*\* about (\d+) minutes")


@dataclass(frozen=True)
class Reading:
    """What was counted in a lesson.

    words, lines, figures   of prose; of code, without stubs and cells that draw; drawn
    exercises, optional     minutes of the exercises by their headings
    stated                  the minutes that the lesson's first cell gives, 0 where it gives none
    """

    words: int
    lines: int
    figures: int
    exercises: int
    optional: int
    stated: int

    @property
    def minutes(self) -> float:
        """Of the lesson without its optional exercises."""
        reading = self.words / WORDS_A_MINUTE + self.lines / LINES_A_MINUTE
        return reading + self.figures * MINUTES_A_FIGURE + self.exercises

    @property
    def fits(self) -> bool:
        return SHORTEST <= self.minutes <= LONGEST


def count(notebook: NotebookNode) -> Reading:
    """Count a lesson's unsolved notebook; outputs do not matter."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "exercise" not in _tags(cell)]
    headings = [(int(minutes), "optional" in rest) for minutes, rest in _EXERCISE.findall(prose)]
    return Reading(
        words=len(re.findall(r"[^\s|]*\w[^\s|]*", prose)),
        lines=sum(bool(line.strip()) for source in code if not _FIGURE.search(source) for line in source.splitlines()),
        figures=sum(len(_FIGURE.findall(source)) for source in code),
        exercises=sum(minutes for minutes, optional in headings if not optional),
        optional=sum(minutes for minutes, optional in headings if optional),
        stated=int((_STATED.findall(prose) or [0])[0]),
    )


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def readings(folder: Path = ROOT / "lessons") -> dict[str, Reading]:
    """Each lesson's name -> what was counted in it."""
    return {path.stem: count(nbformat.read(path, as_version=4)) for path in sorted(folder.glob("*.ipynb"))}


def table() -> str:
    """One line a lesson, and the sum; a lesson outside of 45 to 90 minutes is marked."""
    found = readings()
    lines = ["lesson                    words  lines  figures  exercises  minutes  stated  optional"]
    for name, one in found.items():
        numbers = f"{one.words:6}{one.lines:7}{one.figures:9}{one.exercises:11}{one.minutes:9.0f}{one.stated:8}"
        lines.append(f"{name:25}{numbers}{one.optional:10}{'' if one.fits else '  outside of 45 to 90'}")
    total = sum(one.minutes for one in found.values())
    return "\n".join([*lines, f"{len(found)} lessons, {total / 60:.0f} hours"])
