"""A lesson's master, parsed and checked, and the two notebooks it stands for."""

import ast
import builtins
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from llmkit.course.badges import badge, install_cell
from llmkit.course.exercise import Exercise, exercises
from llmkit.course.lessons import Lesson, lesson
from llmkit.course.source import Definition, SourceError, find_definition, names

TAGS = {"setup", "exercise", "show", "nbval-check-output"}
HEADER = ("# {:02d} · ", "**You will**", "**Before**", "**Time**")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
GIVEN = set(dir(builtins)) | {"__name__", "__doc__", "get_ipython", "display"}


class BuildError(Exception):
    """Something wrong in a master; says file, line and what."""


class Master:
    """One lesson's percent script, parsed: cells, and the line on which each begins."""

    def __init__(self, path: Path):
        self.path = path
        text = path.read_text(encoding="utf-8")
        self.lines = [i for i, line in enumerate(text.splitlines(), 1) if line.startswith("# %%")]
        self.cells = jupytext.reads(text, fmt="py:percent").cells
        if len(self.cells) != len(self.lines):
            raise BuildError(f"{path}:1: every cell must begin with `# %%`, the first one too")
        self.lesson: Lesson = lesson(path.stem)
        self.exercises = {e.name: e for e in exercises(self.lesson.number)}
        self._check_header()
        self._check_tags()
        self._check_exercises()

    def error(self, cell: int, text: str, line: int = 0) -> BuildError:
        return BuildError(f"{self.path}:{self.lines[cell] + line}: {text}")

    def _check_header(self) -> None:
        for wanted in HEADER:
            wanted = wanted.format(self.lesson.number)
            if wanted not in self.cells[0].source:
                raise self.error(0, f"the first cell must contain {wanted!r}")
        if self.lesson.number < 20 and "**Next**" not in self.cells[-1].source:
            raise self.error(-1, "the last cell must say what comes next, after **Next**")
        if not any("What llmkit gained" in cell.source for cell in self.cells[-3:]):
            raise self.error(-1, "one of the last cells must have the heading 'What llmkit gained'")

    def _check_tags(self) -> None:
        for i, cell in enumerate(self.cells):
            unknown = set(cell.metadata.get("tags", [])) - TAGS
            if unknown:
                raise self.error(i, f"unknown tag {sorted(unknown)[0]!r}; known are {', '.join(sorted(TAGS))}")
        if sum("setup" in cell.metadata.get("tags", []) for cell in self.cells) != 1:
            raise self.error(0, "exactly one cell must be tagged 'setup'")

    def _check_exercises(self) -> None:
        """Each exercise of the checks file has a heading, a cell and a check, and the other way round."""
        code = "\n".join(cell.source for cell in self.cells if cell.cell_type == "code")
        prose = "\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")
        for exercise in self.exercises.values():
            if f"### Exercise {exercise.number} · " not in prose:
                raise self.error(0, f"no heading '### Exercise {exercise.number} · …'")
            call = f'check({exercise.name}, "{exercise.number}")' if exercise.by_hand else f"check({exercise.name})"
            if call not in code:
                raise self.error(0, f"no cell calls {call}")
        for number in re.findall(r"^### Exercise (\S+) · ", prose, re.MULTILINE):
            if number not in {e.number for e in self.exercises.values()}:
                raise self.error(0, f"exercise {number} is not in the lesson's checks file")

    def notebook(self, solved: bool) -> NotebookNode:
        """The notebook before it runs: `solved` shows the answers, else stubs stand in their place."""
        cells, defined = [], set(GIVEN)
        for i, cell in enumerate(self.cells):
            tags = cell.metadata.get("tags", [])
            if "setup" in tags:
                cells.append(nbformat.v4.new_code_cell(install_cell()))
            source = cell.source if cell.cell_type == "markdown" else self._code(i, tags, solved, defined)
            if i == 0:
                source = self._with_badge(source, solved)
            kept = [tag for tag in tags if solved or tag != "nbval-check-output"]
            make = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
            cells.append(make(source, metadata={"tags": kept} if kept else {}))
        for position, cell in enumerate(cells):
            cell["id"] = f"{self.lesson.number:02d}-{position:03d}"
        return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)

    def _code(self, i: int, tags: list[str], solved: bool, defined: set[str]) -> str:
        """The source of a code cell; adds what it binds to `defined`."""
        source = self.cells[i].source
        if "setup" in tags and not solved:
            source = source.replace(", solved=True", "")
        if "exercise" in tags or "show" in tags:
            try:
                source = self._shown(i, stubs="exercise" in tags and not solved, defined=defined)
            except SourceError as error:
                raise self.error(i, str(error)) from error
        source = _answers_removed(source) if not solved else _markers_removed(source)
        try:
            bound, used = names(source)
        except SyntaxError as error:
            raise self.error(i, f"{error.msg} (in the cell's line {error.lineno})") from error
        free = used - bound - defined
        if free:
            name = sorted(free)[0]
            at = next((n for n, line in enumerate(source.splitlines(), 1) if re.search(rf"\b{name}\b", line)), 0)
            raise self.error(i, f"no earlier cell defines {name!r} (the cell's line {at})")
        defined |= bound
        return source

    def _shown(self, i: int, stubs: bool, defined: set[str]) -> str:
        """Turn a cell of `from llmkit.… import …` into the definitions themselves, or stubs of them."""
        pieces, imports = [], {}
        for node in ast.parse(self.cells[i].source).body:
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("llmkit."):
                raise self.error(i, "this cell may only hold `from llmkit.… import …`", node.lineno)
            for alias in node.names:
                definition = find_definition(node.module, alias.name)
                text = definition.source
                if stubs:
                    text = self._stub(i, definition)
                pieces.append(text)
                # The stub gets the imports of the full source, so that the learner has what the answer needs.
                for name in sorted(names(definition.source)[1] | names(text)[1]):
                    if name in definition.imports and name not in defined:
                        imports[name] = definition.imports[name]
        return "\n\n\n".join((["\n".join(sorted(set(imports.values())))] if imports else []) + pieces)

    def _stub(self, i: int, definition: Definition) -> str:
        if isinstance(definition.node, ast.Assign | ast.AnnAssign):
            return definition.source  # a constant that the exercise needs is given
        exercise: Exercise | None = self.exercises.get(definition.name)
        if exercise is None:
            raise self.error(i, f"{definition.name} is not an exercise in the lesson's checks file")
        if exercise.starts_from is None:
            return definition.stub(f"exercise {exercise.number}")
        start = find_definition(exercise.starts_from.__module__, exercise.starts_from.__name__)
        return definition.with_body_of(start)

    def _with_badge(self, source: str, solved: bool) -> str:
        title, rest = source.split("\n", 1)
        folder = "solutions" if solved else "lessons"
        heading = f"{title} (solutions)" if solved else title
        return f"{heading}\n\n{badge(f'{folder}/{self.lesson.name}.ipynb')}\n{rest}"


def _answers_removed(source: str) -> str:
    pattern = r"^( *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION$"
    return re.sub(pattern, r"\1# your answer here", source, flags=re.MULTILINE | re.DOTALL)


def _markers_removed(source: str) -> str:
    return re.sub(r"^ *# (?:BEGIN|END) SOLUTION\n", "", source, flags=re.MULTILINE)
