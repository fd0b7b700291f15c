"""The index of words, papers and transformers' names: every entry leads to something that is there."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from llmkit.course import __main__ as commands
from llmkit.course import where as index
from llmkit.course.lessons import LESSONS, lesson
from llmkit.course.where_papers import PAPERS
from llmkit.course.where_terms import TERMS
from llmkit.course.where_transformers import PEERS

ROOT = Path(__file__).parents[1]


@cache
def text_of(number: int) -> str | None:
    """A lesson's master, spelled as `plain` spells words; None where it is not written yet."""
    path = ROOT / "solutions" / f"{lesson(number).name}.py"
    return index.plain(path.read_text(encoding="utf-8")) if path.exists() else None


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_term_is_in_its_lesson_and_its_code_is_defined(term):
    text = text_of(term.lesson)
    said = text is None or any(index.plain(name) in text for name in (term.name, *term.also))
    assert said, f"lesson {term.lesson} does not say {term.name!r}"
    assert term.meaning and not term.meaning.endswith(".")
    for code in term.code:
        assert re.fullmatch(r"llmkit/[\w/]+\.py:\d+ \w+", index.place(code))


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.cited)
def test_a_paper_is_cited_in_its_lesson_and_its_code_is_defined(paper):
    text = text_of(paper.lesson)
    assert text is None or index.plain(paper.cited) in text, f"lesson {paper.lesson} does not cite it"
    assert re.fullmatch(r"\d{4}\.\d{4,5}|", paper.arxiv)
    if paper.code:
        index.place(paper.code)


@pytest.mark.parametrize("file", dict.fromkeys(peer.file for peer in PEERS))
def test_transformers_has_the_names_and_so_do_we(file):
    spec = importlib.util.find_spec("transformers")
    if spec is None:
        pytest.skip("transformers is not installed")
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    defined |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign)}
    for peer in PEERS:
        if peer.file == file:
            assert peer.name in defined, f"transformers' {file} has no {peer.name}"
            assert 1 <= peer.lesson <= len(LESSONS)
            index.place(peer.code)


def test_nothing_stands_twice():
    words = [index.plain(name) for term in TERMS for name in (term.name, *term.also)]
    assert len(words) == len(set(words))
    for entries in ([p.cited for p in PAPERS], [p.arxiv for p in PAPERS if p.arxiv], [(p.file, p.name) for p in PEERS]):
        assert len(entries) == len(set(entries))


def test_terms_stand_in_the_order_of_the_lessons():
    assert [term.lesson for term in TERMS] == sorted(term.lesson for term in TERMS)
    written = {one.number for one in LESSONS if one.exists}
    assert written <= {term.lesson for term in TERMS}, "a lesson introduces no word"


def test_where_rope(capsys):
    assert commands.main(["where", "RoPE"]) == 0
    printed = capsys.readouterr().out
    source = (ROOT / "llmkit" / "layers" / "rope.py").read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(source, 1) if text.startswith("def rotate("))
    for wanted in ("lesson    03", "lessons/03_positions.ipynb", "exercise  3.4 rotate", f"rope.py:{line} rotate"):
        assert wanted in printed, printed


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("kv-cache", "lesson    07"),  # other spellings
        ("nucleus sampling", "exercise  7.4 top_p"),  # another name
        ("LlamaRMSNorm", "llmkit/layers/norms.py"),  # transformers' name
        ("QLoRA", "lesson    15"),  # a term's other name
        ("2106.09685", "https://arxiv.org/abs/2106.09685"),  # a paper by its number
        ("Hoffmann et al. 2022", "exercise  14.6 isoflop_minimum"),
        ("halves_to_pairs", "llmkit/layers/rope.py"),  # any public name of llmkit
    ],
)
def test_where_finds(capsys, word, wanted):
    assert commands.main(["where", *word.split()]) == 0
    assert wanted in capsys.readouterr().out


def test_a_word_that_is_not_there_gets_near_ones(capsys):
    assert commands.main(["where", "RMSNrom"]) == 1
    said = capsys.readouterr().err
    assert "no 'RMSNrom'. Did you mean RMSNorm" in said
    assert commands.main(["where", "..."]) == 1 and index.where("") == []
    assert "no '...'. It has" in capsys.readouterr().err
    assert commands.main(["where", "zzzzzzzz"]) == 1
    assert "bits per byte" in capsys.readouterr().err


def test_an_entry_whose_code_is_gone_is_said(monkeypatch, capsys):
    monkeypatch.setattr(index, "where", lambda word: [index.Found("x", code=["llmkit.layers.rope:no_such_name"])])
    assert index.main(["x"]) == 1
    assert "no_such_name" in capsys.readouterr().err
