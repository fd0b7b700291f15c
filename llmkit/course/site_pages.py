"""Pages of the site from the built notebooks: stubs with their answers folded, stored figures, links to the package."""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from llmkit.course.badges import ROOT, badge
from llmkit.course.lessons import LESSONS, Lesson

FOLD = {"code_prompt_show": "Show the answer", "code_prompt_hide": "Hide the answer"}
BUTTONS = """\
```{{raw}} html
<p class="lesson-buttons"><a href="{colab}">Open in Colab</a>
<a href="../notebooks/{name}.ipynb" download>Download the notebook</a>
<a href="../notebooks/{name}_solution.ipynb" download>with answers</a></p>
```"""


def built_lessons() -> list[Lesson]:
    """The lessons whose two notebooks are there, in order."""
    return [one for one in LESSONS if all(path.exists() for path in notebook_paths(one))]


def notebook_paths(lesson: Lesson) -> tuple[Path, Path]:
    """(the learner's notebook, the solved one)."""
    return ROOT / "lessons" / f"{lesson.name}.ipynb", ROOT / "solutions" / f"{lesson.name}.ipynb"


def lesson_page(lesson: Lesson) -> NotebookNode:
    """The notebook that becomes the lesson's page.

    It is the learner's notebook; where the solved one differs, its cell follows folded, and all outputs are the
    stored ones of the solved run. The install cell is left out: the buttons take its place.
    """
    stubs, solved = (nbformat.read(path, as_version=4) for path in notebook_paths(lesson))
    answers = {cell.id: cell for cell in solved.cells}
    cells: list[NotebookNode] = []
    for position, cell in enumerate(stubs.cells):
        answer = answers[cell.id]
        if cell.cell_type == "markdown":
            text = with_buttons(cell.source, lesson) if position == 0 else cell.source
            cells.append(nbformat.v4.new_markdown_cell(linked(text), id=cell.id))
        elif not cell.source.startswith("# Installs llmkit"):
            cells += code_cells(cell, answer)
    return nbformat.v4.new_notebook(cells=cells, metadata=solved.metadata)


def code_cells(stub: NotebookNode, answer: NotebookNode) -> list[NotebookNode]:
    """One cell where stub and answer are the same code (or the cell that starts the lesson), else stub and fold."""
    # what progress() says in a solved notebook is not for a reader of the page
    answer.outputs = [o for o in answer.outputs if not o.get("text", "").startswith("These are the solutions")]
    same = stub.source == answer.source or "setup" in stub.metadata.get("tags", [])
    shown = nbformat.v4.new_code_cell(stub.source, id=stub.id)
    if same:
        shown.outputs = answer.outputs
        shown.metadata = described(answer)
        return [shown]
    fold = nbformat.v4.new_code_cell(answer.source, id=f"{stub.id}-answer", outputs=answer.outputs)
    fold.metadata = described(answer)
    fold.metadata["tags"] = ["hide-input"]
    fold.metadata.setdefault("mystnb", {}).update(FOLD)
    return [shown, fold]


def described(cell: NotebookNode) -> NotebookNode:
    """Metadata that hands the figure's alt text to myst-nb, which does not read it from the output."""
    alts = [o.metadata["image/png"]["alt"] for o in cell.outputs if "image/png" in o.get("data", {})]
    if len(alts) > 1:
        raise ValueError(f"cell {cell.id} shows {len(alts)} figures; the site needs one a cell, each with its alt text")
    return nbformat.from_dict({"mystnb": {"image": {"alt": alts[0]}}} if alts else {})


def with_buttons(source: str, lesson: Lesson) -> str:
    """The first cell with buttons where the Colab badge stands: the badge is a picture from another host."""
    colab = re.search(r"\]\(([^()\s]+)\)$", badge(f"lessons/{lesson.name}.ipynb"))[1]
    buttons = BUTTONS.format(colab=colab, name=lesson.name)
    return re.sub(r"^\[!\[Open in Colab\].*$", lambda _: buttons, source, count=1, flags=re.MULTILINE)


def linked(source: str) -> str:
    """Markdown with `llmkit/x/y.py` linked to the module's page, and the next lesson to its own.

    >>> linked("| `llmkit/layers/rope.py` | rotate |")
    '| [`llmkit/layers/rope.py`](#llmkit.layers.rope) | rotate |'
    """

    def module(match: re.Match) -> str:
        name = match[1].removesuffix(".py").replace("/", ".")
        known = (ROOT / match[1]).is_file() and not match[1].endswith("__.py")
        return f"[{match[0]}](#{name})" if known else match[0]

    def following(match: re.Match) -> str:
        known = any(one.name == match[2] for one in built_lessons())
        return f"{match[1]}[{match[2]}]({match[2]}.ipynb)" if known else match[0]

    source = re.sub(r"`(llmkit/[\w/]+\.py)`", module, source)
    return re.sub(r"^(\*\*Next\*\*: )(\d\d_\w+)", following, source, flags=re.MULTILINE)


def write_lessons(source: Path, extra: Path) -> list[Lesson]:
    """Pages into source/lessons, the notebooks themselves for download into extra/notebooks; the lessons written."""
    pages, downloads = source / "lessons", extra / "notebooks"
    for folder in (pages, downloads):
        folder.mkdir(parents=True, exist_ok=True)
    lessons = built_lessons()
    for one in lessons:
        nbformat.write(lesson_page(one), pages / f"{one.name}.ipynb")
        for path, ending in zip(notebook_paths(one), ("", "_solution"), strict=True):
            (downloads / f"{one.name}{ending}.ipynb").write_bytes(path.read_bytes())
    return lessons
