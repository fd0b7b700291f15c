"""Each lesson takes 45 to 90 minutes, counted in words, lines, figures and exercises; pytest -s prints the table."""

import nbformat
import pytest

from llmkit.course import reading_time
from llmkit.course.__main__ import main


@pytest.mark.parametrize("name", reading_time.readings())
def test_a_lesson_takes_45_to_90_minutes(name):
    one = reading_time.readings()[name]
    assert one.fits, f"{name} takes {one.minutes:.0f} minutes, not 45 to 90: {one}"


def test_the_table_has_a_line_for_each_lesson(capsys):
    assert main(["time"]) == 0
    printed = capsys.readouterr().out
    print(printed)
    assert all(name in printed for name in reading_time.readings())
    assert printed.count("outside of 45 to 90") == sum(not one.fits for one in reading_time.readings().values())


def lesson(*cells: tuple[str, str, list[str]]):
    new = {"text": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    return nbformat.v4.new_notebook(cells=[new[kind](source, metadata={"tags": tags}) for kind, source, tags in cells])


def test_what_counts():
    one = reading_time.count(
        lesson(
            ("text", "# Title\n\n**Time** about 45 minutes.\n\n| a | b |\n|---|---|\n| 1 | $x_1$ |", []),
            ("code", "a = 1\n\nb = 2", ["show"]),
            ("code", "fig = figure()\nshow(fig, alt='x')\nif a:\n    show(fig, alt='y')", []),
            ("text", "### Exercise 1.1 · f · ●○○ · 8 min\n\n### Exercise 1.2 · g · ●●● · 10 min · optional", []),
            ("text", "### Exercise 1.3 · h · ●○○ · 2 min · find the bug", []),
            ("code", "def f():\n    raise NotImplementedError", ["exercise"]),
        )
    )
    assert (one.lines, one.figures, one.exercises, one.optional, one.stated) == (2, 2, 10, 10, 45)
    # Title, Time about 45 minutes, a b 1 x_1; then Exercise 1.1 f 8 min, Exercise 1.2 g 10 min optional, ... the bug
    assert one.words == 1 + 4 + 4 + 5 + 6 + 8
    assert one.minutes == pytest.approx(one.words / 200 + 2 / 20 + 2 * 0.5 + 10) and not one.fits


def test_minutes_of_known_lessons():
    def reading(exercises):
        return reading_time.Reading(words=4000, lines=200, figures=10, exercises=exercises, optional=30, stated=0)

    assert reading(40).minutes == 20 + 10 + 5 + 40
    assert [reading(n).fits for n in (9, 10, 55, 56)] == [False, True, True, False]
