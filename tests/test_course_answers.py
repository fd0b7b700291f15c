"""check(), kept answers, use_my_answers, hints, progress: what a learner's cells do, in fresh processes."""

import subprocess
import sys
import textwrap
import types

import pytest

import llmkit.models.ngram
from llmkit.course import answers, check, hint, progress, session
from llmkit.course.exercise import find, install
from llmkit.course.lessons import LESSONS, Lesson, lesson

RIGHT = '''
def witten_bell(count, total, distinct, lower):
    """mine"""
    return (count + distinct * lower) / (total + distinct)
'''
WRONG = RIGHT.replace("(total + distinct)", "total")


@pytest.fixture(autouse=True)
def in_lesson_one(tmp_path):
    answers.answers_folder(tmp_path / "kept answers ü")
    session._current, session._solved = lesson("01_next_token"), False
    yield
    for number in ("1.2", "1.5"):
        install(find(number), find(number).original())
    answers._chosen = session._current = None


def learners(source: str, tmp_path, name: str = "witten_bell"):
    """A function as a notebook cell would define it: in __main__, with source on record."""
    import linecache

    file = f"<cell {abs(hash(source))}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), namespace)
    return namespace[name]


def test_a_right_answer_takes_llmkits_place(tmp_path, capsys):
    mine = learners(RIGHT, tmp_path)
    assert check(mine) is mine
    assert llmkit.models.ngram.witten_bell is mine
    model = llmkit.models.ngram.witten_bell_ngram([["a", "b"]], 2, 10)
    assert model.smooth is mine, "what is built later must run on the learner's code"
    assert "right" in capsys.readouterr().out


def test_a_wrong_answer_gives_llmkits_own_back(tmp_path, capsys):
    original = find("1.5").original()
    check(learners(RIGHT, tmp_path))
    assert check(learners(WRONG, tmp_path)) is original
    assert llmkit.models.ngram.witten_bell is original, "a wrong answer after a right one must not stay in use"
    assert "not yet" in capsys.readouterr().out
    assert check(original) is original
    said = capsys.readouterr().out
    assert "this is llmkit's own" in said and "right" not in said, "the check's cell run again is no right answer"


def test_an_answer_by_hand(capsys):
    assert check(0.1, "1.1") == find("1.1").reference()
    assert "not it" in capsys.readouterr().out
    assert check("1/4", "1.1") == find("1.1").reference()
    assert "'1/4' is a text; write it without the quotes" in capsys.readouterr().out
    assert check(None, "1.1") == find("1.1").reference()
    assert "not written yet" in capsys.readouterr().out
    assert check(0.25, "1.1") == 0.25
    assert answers.read(lesson(1)) == {"1.1": "p_mat = 0.25"}


def test_unknown_names_are_named(tmp_path):
    with pytest.raises(ValueError, match="no exercise is called 'sorted'.*1.2 count_ngrams"):
        check(sorted)
    with pytest.raises(ValueError, match="needs its number"):
        check(0.25)
    with pytest.raises(ValueError, match=r"no exercise '1.99'.*1.1, 1.2"):
        hint("1.99")
    with pytest.raises(ValueError, match="no exercise 'x'"):
        check(1, "x")


def test_hints_open_one_by_one(capsys):
    from llmkit.course import check as module

    sys.modules["llmkit.course.check"]._hints_shown.clear()
    hint("1.5")
    assert "hint 1 of 2" in (first := capsys.readouterr().out) and "hint 2" not in first
    hint("1.5")
    assert "hint 2 of 2" in (second := capsys.readouterr().out) and "solutions/01_next_token.ipynb" in second
    assert module is check


def test_answers_stand_alone_and_come_back_in_another_process(tmp_path, capsys):
    source = (
        "import math\nfrom collections import Counter as Bag\nSTEP = 1\n\n"
        "def pad(d, n):\n    return ['<start>'] * (n - 1) + list(d)\n\n"
        "def count_ngrams(documents, n):\n    counts = {}\n    for d in documents:\n"
        "        padded = pad(d, n)\n        for i in range(math.floor(len(d))):\n"
        "            counts.setdefault(tuple(padded[i:i + n - 1]), Bag())[d[i]] += STEP\n    return counts\n"
    )
    check(learners(source, tmp_path, "count_ngrams"))
    check(learners(RIGHT, tmp_path))
    check(learners(RIGHT.replace("mine", "mine again"), tmp_path))
    assert "not kept" not in capsys.readouterr().out
    text = (answers.answers_folder() / "01_next_token.py").read_text(encoding="utf-8")
    assert text.count("# %% ") == 2 and "mine again" in text and text.index("# %% 1.2") < text.index("# %% 1.5")
    program = f"""
        from llmkit.course import answers_folder, start, use_my_answers
        answers_folder({str(answers.answers_folder())!r})
        start("02_tokenizers")
        use_my_answers()
        import llmkit.models.ngram as ngram
        print(ngram.witten_bell.__doc__, ngram.count_ngrams.__module__)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, encoding="utf-8"
    )
    assert "Your code is back in use: 1.2 count_ngrams, 1.5 witten_bell." in run.stdout, run.stderr
    assert "mine again answer_1.2" in run.stdout


def test_classes_of_a_notebook_are_kept(tmp_path, monkeypatch):
    """inspect cannot find them: their module, __main__, is no file there."""
    source = (
        "import dataclasses\nfrom typing import NamedTuple\n\nclass Pair(NamedTuple):\n    a: int\n\n"
        "@dataclasses.dataclass\nclass Sum:\n    total: int\n\n"
        "def add(x):\n    pair = Pair(x)\n    return Sum(pair.a + 1)\n"
    )
    add = learners(source, tmp_path, "add")
    kernel = types.ModuleType("__main__")
    vars(kernel).update(add.__globals__)
    monkeypatch.setitem(sys.modules, "__main__", kernel)
    kept = answers.standalone_source(add)
    namespace = {"__name__": "elsewhere"}
    exec(kept, namespace)
    assert namespace["add"](2).total == 3
    lonely = type("Lonely", (), {"__module__": "__main__"})
    with pytest.raises(OSError, match="source of the class Lonely"):
        answers._source(lonely)


def test_a_kept_answer_that_no_longer_passes_is_left_out(tmp_path, capsys):
    from llmkit.course import use_my_answers

    folder = answers.answers_folder()
    folder.mkdir()
    (folder / "01_next_token.py").write_text(
        f"# %% 1.2 count_ngrams\nthis is not Python\n\n# %% 1.5 witten_bell\n{WRONG}\n", encoding="utf-8"
    )
    session._current = lesson("02_tokenizers")
    use_my_answers()
    out = capsys.readouterr().out
    assert "no longer passes its check: 1.2 count_ngrams, 1.5 witten_bell" in out
    assert "No answers" not in out
    assert llmkit.models.ngram.witten_bell is find("1.5").original()


def test_a_file_that_cannot_be_read_is_named(tmp_path, capsys):
    """And stays as it is: the next right answer does not write over it."""
    from llmkit.course.__main__ import main

    path = answers.answers_folder() / "01_next_token.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"# %% 1.2 witten_bell\n\xff\n")
    assert main(["progress"]) == 1
    assert "01_next_token.py cannot be read" in capsys.readouterr().err
    check(learners(RIGHT, tmp_path))
    assert "cannot be read" in capsys.readouterr().out and path.read_bytes().endswith(b"\xff\n")


def test_progress_into_a_closed_pipe_ends_quietly(tmp_path):
    command = f"{sys.executable} -m llmkit.course progress | true"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_what_cannot_be_written_down_is_said(tmp_path, capsys):
    source = "handle = object()\n" + RIGHT.replace("return", "handle\n    return")
    mine = learners(source, tmp_path)
    assert check(mine) is mine, "the answer is right all the same"
    assert "not kept for later lessons: it uses 'handle'" in capsys.readouterr().out


def test_llmkits_constants_are_kept_by_name(tmp_path, capsys):
    """CAUSAL is an object that no repr can write down, Mask a union of types; both have a home in llmkit."""
    source = "from llmkit.layers.masks import CAUSAL, Mask\n" + RIGHT.replace("return", "CAUSAL, Mask\n    return")
    mine = learners(source, tmp_path)
    assert check(mine) is mine
    assert "not kept" not in capsys.readouterr().out
    kept = answers.standalone_source(mine)
    assert "import CAUSAL" in kept and "import Mask" in kept
    assert answers.load(find("1.5"), kept) is not None


def test_names_of_its_own_are_not_taken_for_globals(tmp_path, capsys):
    """Parameters, locals and loop variables, each also the name of a global that an earlier cell made."""
    source = (
        "counts, total, n, i, token = object(), 330, 5, object(), object()\nSTART = '<start>'\n\n"
        "def count_ngrams(documents, n):\n    counts = {}\n    for document in documents:\n"
        "        padded = [START for i in range(n - 1)] + [token for token in document]\n"
        "        for i, token in enumerate(document):\n"
        "            seen = counts.setdefault(tuple(padded[i : i + n - 1]), {})\n"
        "            total = seen.get(token, 0)\n            seen[token] = total + 1\n    return counts\n"
    )
    check(learners(source, tmp_path, "count_ngrams"))
    assert "not kept" not in capsys.readouterr().out
    kept = answers.read(lesson(1))["1.2"]
    assert kept.startswith("START = '<start>'\n\ndef count_ngrams(") and answers.load(find("1.2"), kept)


def test_solutions_and_llmkits_own_functions_are_not_kept(tmp_path):
    session._solved = True
    check(learners(RIGHT, tmp_path))
    session._solved = False
    check(find("1.5").original())
    assert answers.read(lesson(1)) == {}


def test_progress_counts_what_is_kept(tmp_path, capsys, monkeypatch):
    coming = Lesson(21, "21_next", "What comes next", "Later")
    monkeypatch.setattr(sys.modules["llmkit.course.progress"], "LESSONS", (*LESSONS, coming))
    check(learners(RIGHT, tmp_path))
    check(0.25, "1.1")
    capsys.readouterr()
    progress()
    out = capsys.readouterr().out
    assert "●○○○●○○" in out and "2 of 7" in out and "20_real_checkpoints" in out
    assert f"{coming.name:24} planned" in out


def test_where_answers_are_kept(tmp_path, monkeypatch):
    answers._chosen = None
    monkeypatch.setenv("LLMKIT_ANSWERS", str(tmp_path / "a"))
    assert answers.answers_folder() == tmp_path / "a"
    monkeypatch.delenv("LLMKIT_ANSWERS")
    monkeypatch.chdir(tmp_path)
    assert answers.answers_folder() == tmp_path / "answers"
    (tmp_path / "lessons").mkdir()
    (tmp_path / "llmkit").mkdir()
    monkeypatch.chdir(tmp_path / "lessons")
    assert answers.answers_folder() == tmp_path / "answers"
    monkeypatch.setattr(answers, "_GOOGLE_DRIVE", tmp_path)
    assert answers.answers_folder() == tmp_path / "llmkit-answers"


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("4", 2), (None, 2)])
def test_notebooks_side_by_side_take_one_thread_each(monkeypatch, asked, threads):
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", asked) if asked else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        session.start("01_next_token")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_on_colab_a_learner_is_told_how_to_keep_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answers, "_chosen", None)
    monkeypatch.delenv("LLMKIT_ANSWERS", raising=False)
    session.start("01_next_token")
    assert capsys.readouterr().out == "", "at home there is nothing to say"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    session.start("01_next_token", solved=True)
    assert capsys.readouterr().out == ""
    session.start("01_next_token")
    assert 'drive.mount("/content/drive")' in capsys.readouterr().out
    monkeypatch.setattr(answers, "_GOOGLE_DRIVE", tmp_path)
    session.start("01_next_token")
    assert capsys.readouterr().out == ""
