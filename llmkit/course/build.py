"""Build the notebooks of a lesson from its master: `python -m llmkit.course.build [01 02 ...] [--check]`.

A master, solutions/NN_x.py, is a jupytext percent script that runs as it is. Out come solutions/NN_x.ipynb,
executed, with every definition shown, and lessons/NN_x.ipynb with stubs in place of the answers. The way is
one-way: notebooks are never read back. Cell tags: `setup` (the cell that calls start), `exercise` and `show`
(cells of imports from llmkit that become source or stubs), `nbval-check-output` (`make test` compares its
stored output).
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from llmkit.course.badges import ROOT, with_badges
from llmkit.course.execute import OutputError, execute
from llmkit.course.master import BuildError, Master


def stale(master: Master) -> list[Path]:
    """The notebooks that are not what the master would build; outputs do not count."""
    found = []
    for folder, solved in (("lessons", False), ("solutions", True)):
        path = ROOT / folder / f"{master.lesson.name}.ipynb"
        if not path.exists() or _content(nbformat.read(path, as_version=4)) != _content(master.notebook(solved)):
            found.append(path)
    return found


def _content(notebook: NotebookNode) -> list:
    return [dict(notebook.metadata)] + [
        (cell.id, cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells
    ]


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, unless the file already holds the same bytes."""
    text = nbformat.writes(notebook, indent=1) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llmkit.course.build", description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", help="numbers such as 01; all where none is named")
    parser.add_argument("--check", action="store_true", help="build nothing; name the notebooks that are stale")
    options = parser.parse_args(arguments)
    paths = sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))
    if options.lessons:
        paths = [path for path in paths if path.stem[:2] in options.lessons]
    if not paths:
        print(f"no master solutions/NN_x.py of {' '.join(options.lessons) or 'any lesson'} in {ROOT}", file=sys.stderr)
        return 1
    try:
        return _check(paths) if options.check else _build(paths)
    except (BuildError, OutputError) as error:
        print(error, file=sys.stderr)
        return 1


def _check(paths: list[Path]) -> int:
    found = [notebook for path in paths for notebook in stale(Master(path))]
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    found += [readme] if with_badges(text) != text else []
    for path in found:
        print(f"{path.relative_to(ROOT)} is not what its source says: run `make notebooks`", file=sys.stderr)
    return 1 if found else 0


def _build(paths: list[Path]) -> int:
    readme = ROOT / "README.md"
    readme.write_text(with_badges(readme.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    for path in paths:
        master = Master(path)
        write(master.notebook(solved=False), ROOT / "lessons" / f"{path.stem}.ipynb")
        solution = master.notebook(solved=True)
        seconds = execute(solution, path)
        write(solution, path.with_suffix(".ipynb"))
        print(f"{path.stem}: {len(solution.cells)} cells, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
