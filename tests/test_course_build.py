"""The notebook builder: what comes out of a master, twice the same, and what it refuses with file and line."""

import re

import nbformat
import pytest

from llmkit.course import build, execute
from llmkit.course.badges import ROOT, badge, with_badges
from llmkit.course.execute import OutputError
from llmkit.course.lessons import LESSONS
from llmkit.course.master import BuildError, Master
from llmkit.course.source import SourceError, find_definition, names

MASTER = ROOT / "solutions" / "01_next_token.py"


def changed(tmp_path, *changes: tuple[str, str]):
    """Lesson 01's master with pieces replaced, in another folder."""
    text = MASTER.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = tmp_path / MASTER.name
    path.write_text(text, encoding="utf-8")
    return path


def line_of(path, text: str) -> int:
    return path.read_text(encoding="utf-8")[: path.read_text(encoding="utf-8").index(text)].count("\n") + 1


def test_notebooks_are_what_their_masters_say():
    """Also `make test`'s own step; here so that pytest alone finds a notebook that was not rebuilt."""
    assert build.main(["--check"]) == 0


def test_a_lesson_is_called_the_same_everywhere():
    """In its notebook and the site's sidebar as in README, map and progress."""
    for one in LESSONS:
        first = (ROOT / "solutions" / f"{one.name}.py").read_text(encoding="utf-8").splitlines()[1]
        assert first == f"# # {one.number:02d} · {one.title}"


def test_a_lesson_has_stubs_where_the_solution_has_answers():
    master = Master(MASTER)
    lesson, solution = master.notebook(solved=False), master.notebook(solved=True)
    assert [c.id for c in lesson.cells] == [c.id for c in solution.cells]
    assert len({c.id for c in lesson.cells}) == len(lesson.cells)
    of_lesson = {c.id: c.source for c in lesson.cells}
    of_solution = {c.id: c.source for c in solution.cells}
    differ = [i for i in of_lesson if of_lesson[i] != of_solution[i]]
    assert len(differ) == 2 + len(master.exercises), "title, setup, and one cell an exercise"
    stub = next(s for s in of_lesson.values() if "def count_ngrams(" in s)
    assert 'raise NotImplementedError("exercise 1.2")' in stub and ">>> count_ngrams" in stub
    assert "setdefault" not in stub and "from collections import Counter" in stub
    broken = next(s for s in of_lesson.values() if "def witten_bell(" in s)
    assert "NotImplementedError" not in broken and "count / total + distinct" in broken and "How much" not in broken
    assert 'start("01_next_token")' in "\n".join(of_lesson.values())
    assert "2 / 8" not in "\n".join(of_lesson.values()) and "# your answer here" in "\n".join(of_lesson.values())
    assert "SOLUTION" not in "\n".join([*of_lesson.values(), *of_solution.values()])


def test_the_source_shown_is_llmkits_own():
    import inspect

    from llmkit.models.ngram import NGram, count_ngrams

    cells = "\n\n".join(c.source for c in Master(MASTER).notebook(solved=True).cells)
    for shown in (count_ngrams, NGram):
        assert inspect.getsource(shown).rstrip() in cells


def test_every_notebook_begins_and_ends_as_promised():
    for path in sorted(ROOT.glob("*/[0-9][0-9]_*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        assert badge(f"{path.parent.name}/{path.name}") in cells[0].source
        for word in ("**You will**", "**Before**", "**Time**"):
            assert word in cells[0].source
        assert any("find_spec" in c.source and "%pip install" in c.source for c in cells[:3])
        assert "**Next**" in cells[-1].source
        assert path.stat().st_size <= 500_000


def test_building_twice_changes_no_byte(tmp_path):
    for solved in (False, True):
        one, two = (nbformat.writes(Master(MASTER).notebook(solved)) for _ in range(2))
        assert one == two
    path = tmp_path / "x.ipynb"
    build.write(Master(MASTER).notebook(False), path)
    first = path.stat().st_mtime_ns
    build.write(Master(MASTER).notebook(False), path)
    assert path.stat().st_mtime_ns == first, "an unchanged notebook is not written again"


REFUSED = {
    "unknown tag 'exercize'": ('tags=["exercise"]', 'tags=["exercize"]', 'tags=["exercize"]'),
    "defines no count_grams": ("ngram import count_ngrams", "ngram import count_grams", None),
    "there is no module llmkit.models.nogram": (
        "from llmkit.models.ngram import count_ngrams",
        "from llmkit.models.nogram import count_ngrams",
        None,
    ),
    "no earlier cell defines 'corpse'": ("for text in corpus.train]", "for text in corpse.train]", None),
    "no earlier cell defines 'Counts'": ("import START, Counts", "import START", None),
    "must contain '\\*\\*Time\\*\\*'": ("**Time**", "Time", None),
    "no heading '### Exercise 1.3": ("### Exercise 1.3 · ", "### Task 1.3 · ", None),
    "no cell calls check\\(pick\\)": ("pick = check(pick)", "pick = pick", None),
    "exercise 1.9 is not in the lesson's": ("### Exercise 1.3 · ", "### Exercise 1.9 · x\n# ### Exercise 1.3 · ", None),
    "may only hold": ("from llmkit.generation.sampling import sample", "sample = 1", None),
    "must say what comes next": ("**Next**: 02", "Next: 02", None),
    "exactly one cell must be tagged 'setup'": ('tags=["setup"]', 'tags=["show"]', None),
    "invalid syntax": ("guess_n = None", "guess_n = = None", None),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_wrong_in_a_master_is_said_with_file_and_line(words, tmp_path):
    old, new, at = REFUSED[words]
    path = changed(tmp_path, (old, new))
    with pytest.raises(BuildError, match=words) as error:
        master = Master(path)
        master.notebook(solved=True)
        master.notebook(solved=False)
    place = re.match(rf"{re.escape(str(path))}:(\d+): ", str(error.value))
    assert place, str(error.value)
    if at:
        assert int(place[1]) == line_of(path, at)


def test_a_cell_before_the_first_marker_is_refused(tmp_path):
    with pytest.raises(BuildError, match="every cell must begin with"):
        Master(changed(tmp_path, ("# %% [markdown]\n# # 01", "x = 1\n\n# %% [markdown]\n# # 01")))


def test_names_that_a_cell_binds_and_uses():
    bound, used = names("import a.b\nfrom c import d as e\nx: int = [y for y in z]\n\ndef f(g=h):\n    return g + i\n")
    assert bound == {"a", "e", "x", "f"} and {"z", "h", "i", "int"} <= used and not {"y", "g"} & used
    bound, used = names("for i in r:\n    pass\nwith o() as p:\n    q = (n := 1)\nclass K(B):\n    m = i2\n")
    assert {"i", "p", "q", "n", "K"} <= bound and {"r", "o", "B", "i2"} <= used and "m" not in bound


def test_definitions_are_found_through_re_exports():
    assert find_definition("llmkit.tokenizers", "ByteLevelBPE").module == "llmkit.tokenizers.byte_level"
    assert find_definition("llmkit.tokenizers.bpe", "CL100K_PATTERN").source.startswith("# GPT-4's")
    with pytest.raises(SourceError, match="cannot be an exercise"):
        find_definition("llmkit.tokenizers.bpe", "CL100K_PATTERN").stub("x")
    stub = find_definition("llmkit.models.ngram", "NGram").stub("later")
    assert "self.totals = " in stub and stub.count("raise NotImplementedError") == 4
    compile(stub, "stub", "exec")


def notebook_of(*sources: str):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; print('oh', file=sys.stderr)", "printed on stderr: oh"),
        ("import os; print(os.getcwd())", "a path of this machine"),
        (FIGURE, "a figure without alt text"),
    ],
)
def test_outputs_that_may_not_be_stored(source, words, tmp_path):
    with pytest.raises(OutputError, match=words):
        execute.execute(notebook_of("x = 1", source), tmp_path / "m.py")


def test_outputs_that_may_be_stored(tmp_path):
    figure = "from llmkit.viz import figure, show\nfig, axis = figure()\naxis.plot([1, 2])\nshow(fig, alt='a line')"
    notebook = notebook_of("print('a'); print('b')\n3", figure, "import os; os.listdir('.')")
    execute.execute(notebook, tmp_path / "m.py")
    assert notebook.cells[0].outputs[0].text == "a\nb\n" and len(notebook.cells[0].outputs) == 2
    assert notebook.cells[1].outputs[0].metadata["image/png"]["alt"] == "a line"
    assert notebook.cells[2].outputs[0].data["text/plain"] == "[]", "a lesson runs in an empty folder"
    again = notebook_of(figure)
    execute.execute(again, tmp_path / "m.py")
    assert again.cells[0].outputs == notebook.cells[1].outputs, "the same figure, byte for byte"


def test_badges_follow_pyproject():
    text = "x [![Open in Colab](https://a/b.svg)](https://c/github/someone/else/blob/x/lessons/01_next_token.ipynb) y"
    assert with_badges(text) == f"x {badge('lessons/01_next_token.ipynb')} y"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_badges(readme) == readme and "lessons/01_next_token.ipynb" in readme
