"""The site: pages made from notebooks and docstrings, the check of what is built, and, with Sphinx, a small build."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from llmkit.course import __main__ as commands
from llmkit.course import environment, site, site_api, site_map, site_pages, site_results
from llmkit.course.lessons import LESSONS, lesson
from llmkit.course.site_check import check_site
from llmkit.course.site_index import glossary, papers, transformers_names

ROOT = Path(__file__).parents[1]
needs_sphinx = pytest.mark.skipif(importlib.util.find_spec("myst_nb") is None, reason="`make site` installs Sphinx")


@pytest.fixture(scope="module")
def page():
    return site_pages.lesson_page(lesson(4))


def test_answers_are_folded_under_their_stubs(page):
    """As many folds as cells that differ, each right under its stub, with the outputs that the solved run had."""
    stubs, solved = (
        json.loads(path.read_text(encoding="utf-8"))["cells"] for path in site_pages.notebook_paths(lesson(4))
    )
    code = [pair for pair in zip(stubs, solved, strict=True) if pair[0]["cell_type"] == "code"]
    code = [(a, b) for a, b in code if "setup" not in a["metadata"].get("tags", [])]
    differ = [a["id"] for a, b in code if a["source"] != b["source"]]
    folds = [n for n, cell in enumerate(page.cells) if "hide-input" in cell.metadata.get("tags", [])]
    assert [page.cells[n].id for n in folds] == [f"{name}-answer" for name in differ] and len(differ) >= 7
    for n in folds:
        stub, fold = page.cells[n - 1], page.cells[n]
        assert f"{stub.id}-answer" == fold.id and not stub.outputs
        assert fold.metadata["mystnb"]["code_prompt_show"] == "Show the answer"
    assert "NotImplementedError" in page.cells[folds[2] - 1].source and "softmax" in page.cells[folds[2]].source
    outputs = sum(len(cell["outputs"]) for cell in solved if cell["cell_type"] == "code")
    outputs -= 1  # of progress()
    assert sum(len(cell.outputs) for cell in page.cells if cell.cell_type == "code") == outputs


def test_a_page_has_buttons_and_no_badge_no_install_cell(page):
    first = page.cells[0].source
    assert 'href="https://colab.research.google.com/github/' in first and "lessons/04_attention.ipynb" in first
    assert 'href="../notebooks/04_attention.ipynb" download' in first
    everything = "\n".join(cell.source for cell in page.cells)
    assert "colab-badge.svg" not in everything and "pip install" not in everything
    assert "(solutions)" not in everything and "solved=True" not in everything


def test_figures_keep_their_alt_text(page):
    figures = [cell for cell in page.cells if any("image/png" in o.get("data", {}) for o in cell.get("outputs", []))]
    assert len(figures) >= 5
    for cell in figures:
        alts = [output.data["text/plain"] for output in cell.outputs if "image/png" in output.get("data", {})]
        assert [cell.metadata["mystnb"]["image"]["alt"]] == alts and len(alts[0]) > 60


def test_files_and_the_next_lesson_are_linked():
    assert site_pages.linked("`llmkit/layers/rope.py`") == "[`llmkit/layers/rope.py`](#llmkit.layers.rope)"
    assert site_pages.linked("`llmkit/layers/no_such.py`") == "`llmkit/layers/no_such.py`"
    assert "(05_gpt2.ipynb)" in site_pages.linked("**Next**: 05_gpt2. More.")


def test_docstrings_become_markdown():
    assert site_api.prose("a  first\nb  second") == "```text\na  first\nb  second\n```"
    assert site_api.prose("A `x_1` * y_2") == r"A `x_1` \* y\_2"
    text = site_api.page("llmkit.layers", [ROOT / "llmkit" / "layers" / "rope.py"])
    assert "{py:function} rotate(" in text and "Exercise 3.4 of lesson 3." in text and "```pycon\n>>>" in text
    assert "Built in [lesson 03](../lessons/03_positions.ipynb)" in text
    attention = site_api.page("llmkit.layers", [ROOT / "llmkit" / "layers" / "attention.py"])
    named = re.findall(r"py:function} (\w+)", attention)
    assert "split_heads" in named and not [name for name in named if name.startswith("_")]


def test_every_folder_of_the_package_has_a_page():
    folders = {path.parent.name for path in (ROOT / "llmkit").glob("*/__init__.py")} - {"course"}
    assert folders == set(site_api.FOLDERS)


@pytest.mark.parametrize("one", [one for one in LESSONS if site_map.master_text(one)], ids=lambda one: one.name)
def test_the_map_and_the_lessons_name_files_that_exist(one):
    files = site_map.files_gained(site_map.master_text(one))
    assert files and [name for name in files if not (ROOT / name).exists()] == []
    assert site_map.parts_built(one), "no stop on the map"


def test_the_map_has_every_lesson_and_links_what_is_built():
    drawn = site_map.learning_path()
    for one in LESSONS:
        linked = f'<a href="lessons/{one.name}.html">' in drawn
        assert linked == (one in site_pages.built_lessons()) and f"{one.number:02d} · " in drawn
    assert 'aria-label="builds layers: rope.py' in drawn.replace("positions.py, ", "")
    assert site_map.needed(lesson(6)) == [3, 4, 5]
    assert site_map.needed(lesson(3)) == [1, 2], "lesson 04, named for later, is not needed before"
    assert site_map.needed(lesson(15)) == [5, 6, 14], "16-bit numbers are no lesson"


def test_index_pages_link_lessons_and_code():
    assert "RoPE\nrotary position embedding\nrotary\n  Rotary positions" in glossary()
    assert (
        "Lesson [03](lessons/03_positions.ipynb) · exercise 3.4 · [`rotate`](#llmkit.layers.rope.rotate)" in glossary()
    )
    assert "[BERT](https://arxiv.org/abs/1810.04805) | [09](lessons/09_bert_roberta.ipynb)" in papers()
    assert "| `LlamaRMSNorm` | [`RMSNorm`](#llmkit.layers.norms.RMSNorm)" in transformers_names()


def test_the_page_of_results_is_what_the_stored_results_say():
    said = "docs/results.md is old: run `python -m llmkit.course.site_results`"
    assert site_results.PAGE.read_text(encoding="utf-8") == site_results.render(), said


def test_a_run_that_is_not_done_is_not_on_the_page(tmp_path, monkeypatch):
    (tmp_path / "llmkit" / "results").mkdir(parents=True)
    (tmp_path / "llmkit" / "results" / "x.partial.json").write_text("{}")
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(site_results, "ROOT", tmp_path)
    assert "x.partial" not in site_results.render()


GOOD = '<link rel="stylesheet" href="s.css"><body><h1 id="a">A</h1><a href="b.html#c">b</a></body>'


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ('<a href="no.html">', "the link no.html leads nowhere"),
        ('<a href="b.html#z">', "names a place that its page does not have"),
        ('<a href="#z">', "names a place that its page does not have"),
        ('<a href="../up.html">', "leads out of the site"),
        ('<img src="p.png">', "has no alt text"),
        ('<img src="p.png" alt=" ">', "has no alt text"),
        ('<img src="https://x.org/p.png" alt="p">', "loads https://x.org/p.png from another host"),
        ('<script src="//x.org/s.js"></script>', "loads //x.org/s.js from another host"),
        ('<link rel="stylesheet" href="https://x.org/s.css">', "from another host"),
        ('<img src="gone.png" alt="p">', "the link gone.png leads nowhere"),
        ('<a href="../outside.html">', "the link ../outside.html leads out of the site"),
        ('<a href="/b.html">', "the link /b.html leads out of the site"),
        ('<img src="p.png" alt="p" srcset="p.png 1x,//x.org/p.png 2x">', "loads //x.org/p.png from another host"),
        ('<img src="p.png" alt="p" srcset="p.png, gone.png 2x">', "the link gone.png leads nowhere"),
        ('<link rel="shortcut icon" href="https://x.org/i.png">', "loads https://x.org/i.png from another host"),
        ('<style>@import url("https://x.org/a.css");</style>', "loads https://x.org/a.css from another host"),
        ("<style>@import 'https://x.org/a.css';</style>", "loads https://x.org/a.css from another host"),
        ("<style>p { background: url(gone.png) }</style>", "the link gone.png leads nowhere"),
        ('<video src="p.png" poster="//x.org/p.png"></video>', "loads //x.org/p.png from another host"),
        ('<object data="https://x.org/o.svg"></object>', "loads https://x.org/o.svg from another host"),
        ("<h3>too deep</h3>", "a heading of level 3 follows one of level 1"),
        ("<h1>second</h1>", "2 headings of level 1"),
        ("<math><mi>\\foo</mi></math>", "a formula has \\foo"),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(tmp_path, monkeypatch, spoiled, words):
    (tmp_path / "outside.html").write_text("<h1>A page that is there, but not in the site</h1>")
    tmp_path = tmp_path / "site"
    tmp_path.mkdir()
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text(
        '<h1>B</h1><p id="c"></p><a href="https://elsewhere.org">x</a><img src="p.png" alt="p">'
    )
    (tmp_path / "s.css").write_text("body { background: url(p.png); }")
    (tmp_path / "p.png").write_bytes(b"")
    assert check_site(tmp_path) == []
    (tmp_path / "a.html").write_text(GOOD.replace("</body>", spoiled + "</body>"))
    found = check_site(tmp_path)
    assert len(found) == 1 and found[0].startswith("a.html: ") and words in found[0]
    monkeypatch.chdir(tmp_path.parent)
    assert check_site(Path("site")) == found, "a relative folder is the same folder"


def test_style_sheets_and_an_empty_folder_are_checked(tmp_path):
    assert check_site(tmp_path) == [f"{tmp_path} has no page"]
    (tmp_path / "a.html").write_text("<h1>A</h1>")
    (tmp_path / "s.css").write_text(
        '@import "https://x.org/a.css"; @import url("//x.org/b.css"); body { background: url(gone.png) url(data:x); }'
    )
    assert [problem.split(": ", 1)[1] for problem in check_site(tmp_path)] == [
        "loads https://x.org/a.css from another host",
        "loads //x.org/b.css from another host",
        "loads gone.png, which is not there",
    ]


def test_a_site_with_a_problem_is_not_put_in_place(tmp_path, monkeypatch, capsys):
    for name in ("BUILT", "SITE"):
        monkeypatch.setattr(site, name, tmp_path / name)
        (tmp_path / name).mkdir()
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(site, "prepare", lambda source: None)
    monkeypatch.setattr(site, "build", lambda source, built: 0)
    (tmp_path / "BUILT" / "index.html").write_text('<h1>A</h1><a href="gone.html">x</a>')
    assert site.main() == 1 and "gone.html leads nowhere" in capsys.readouterr().err
    assert not (tmp_path / "SITE" / "index.html").exists()
    (tmp_path / "BUILT" / "index.html").write_text("<h1>A</h1>")
    assert site.main() == 0 and (tmp_path / "SITE" / "index.html").exists()
    (tmp_path / "BUILT").mkdir()
    monkeypatch.setattr(site, "build", lambda source, built: 2)
    assert site.main() == 1 and (tmp_path / "SITE" / "index.html").exists(), "Sphinx's warnings stop it"


def test_a_new_site_is_never_put_into_the_old_one(tmp_path, monkeypatch):
    """Not even where the old one cannot be removed."""
    built, whole = tmp_path / "html", tmp_path / "site"
    for folder, name in ((built, "new.html"), (whole, "old.html")):
        folder.mkdir()
        (folder / name).touch()
    monkeypatch.setattr(site.shutil, "rmtree", lambda *_, **__: None)
    site.put_in_place(built, whole)
    assert [path.name for path in whole.iterdir()] == ["new.html"] and not built.exists()


def test_the_site_is_deployed_from_main_by_a_job_of_its_own():
    """Whatever a build runs, it may not write pages; and a deployment that has begun is not cut off."""
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8"))
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    assert "permissions" not in workflow and build["permissions"] == {"contents": "read"}
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"} and deploy["needs"] == "build"
    assert deploy["if"] == "github.ref == 'refs/heads/main'" and workflow["concurrency"]["cancel-in-progress"] is False
    assert [step.get("uses", "").split("@")[0] for step in deploy["steps"]] == ["actions/deploy-pages"]
    assert any(step.get("uses", "").startswith("actions/upload-pages-artifact@") for step in build["steps"])


def test_make_site_is_there():
    assert "site" in environment.COMMANDS and "site" in commands.COMMANDS
    assert re.search(r"^site: .*\n\t@\$\(RUN\) site$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_without_sphinx_the_command_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    assert site.main() == 1 and "make site" in capsys.readouterr().err


@needs_sphinx
def test_formulas_of_the_lessons_become_mathml():
    from llmkit.course.site_math import mathml

    text = "\n".join(site_map.master_text(one).replace("\n# ", "\n") for one in LESSONS)
    formulas = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    assert len(formulas) > 20
    for formula in formulas:
        assert not re.search(r">\\[^<]*<", mathml(formula)), formula


@needs_sphinx
@pytest.mark.slow
def test_a_site_of_two_lessons_is_whole(tmp_path, monkeypatch):
    """All pages of the index and the package, two lessons: built without a warning, no dead link, RoPE is found."""
    monkeypatch.setattr(site_pages, "LESSONS", (lesson(1), lesson(3)))
    site.prepare(tmp_path / "source")
    assert site.build(tmp_path / "source", tmp_path / "site") == 0
    assert check_site(tmp_path / "site") == []
    built = (tmp_path / "site" / "lessons" / "03_positions.html").read_text(encoding="utf-8")
    assert "<math" in built and "Show the answer" in built and "MathJax" not in built
    index = json.loads((tmp_path / "site" / "searchindex.js").read_text(encoding="utf-8")[len("Search.setIndex(") : -1])
    found = [index[part].get("rope", []) for part in ("terms", "titleterms")]  # one page, or a list of pages
    pages = {page for one in found for page in (one if isinstance(one, list) else [one])}
    names = {index["docnames"][page] for page in pages}
    assert {"lessons/03_positions", "glossary"} <= names
    assert (tmp_path / "site" / "_static" / "math.woff2").stat().st_size < 150_000
