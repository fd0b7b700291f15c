"""`make results`: which runs, in which order, and what is said when one fails."""

import re
import runpy
import threading
from pathlib import Path

import pytest

from llmkit import results
from llmkit.course import __main__ as course

FOLDER = course.ROOT / "benchmarks" / "results"
STORED = sorted(path.stem for path in (course.ROOT / "llmkit" / "results").glob("*.json"))


@pytest.fixture
def called(monkeypatch):
    """What was run, in order; a run whose name is in `called.failing` fails."""

    class Called(list):
        failing = ()

    called = Called()

    def run(command, environment=None):
        name = command[-1] if command[1] == "-m" else Path(command[-1]).stem
        called.append(name)
        return int(name in called.failing)

    monkeypatch.setattr(course, "wait_for", run)
    return called


def test_models_come_first_and_what_is_timed_alone_at_the_end(called):
    assert course.main(["results"]) == 0
    assert set(called[:2]) == set(course.MODELS) and called[-1] == "llmkit.course.site_results"
    assert tuple(called[-4:-1]) == course.TIMED
    assert sorted(called[:-1]) == sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "store")


def test_some_by_name_and_a_failure_is_told(called, capsys):
    called.failing = ("speed",)
    assert course.main(["results", "toyland", "speed", "parity"]) == 1
    assert called == ["parity", "speed", "toyland"], "the others are run all the same, the page is not drawn"
    assert 'make results ONLY="speed"' in capsys.readouterr().err
    assert course.main(["results", "toylan"]) == 1
    assert "no run 'toylan'; there are align_sft, " in capsys.readouterr().err


def test_the_longest_is_begun_first():
    """By what is stored; what was never stored comes last, and keeps its place."""
    seconds = {name: results.load(name)["cpu_seconds"] for name in ("parity", "instructions", "alignment")}
    assert course.longest_first(["new", "alignment", "newer", *seconds])[-2:] == ["new", "newer"]
    assert course.longest_first(list(seconds)) == sorted(seconds, key=seconds.get, reverse=True) != list(seconds)


def test_two_of_one_core_run_side_by_side(monkeypatch):
    """The two models wait for each other here, and then two of the others: one after the other none would end."""
    meet = threading.Barrier(2, timeout=10)

    def run(command, environment=None):
        if Path(command[-1]).stem not in (*course.TIMED, "llmkit.course"):
            meet.wait()
        return 0

    monkeypatch.setattr(course, "wait_for", run)
    assert course.main(["results", *course.MODELS, "parity", "isoflop", "speed"]) == 0


@pytest.mark.parametrize("name", [name for name in STORED if not name.endswith(".partial")])
def test_what_is_stored_is_what_make_results_would_make(name, monkeypatch):
    """Its command has the script's own sizes: else `make results` would put something smaller in its place."""
    stored = results.load(name)
    script = re.search(r"benchmarks/\S+", stored["command"])[0]

    class Asked(Exception):
        pass

    def arguments(description, **options):
        raise Asked(" ".join(f"--{key} {value}" for key, value in {**options, "seed": 0}.items() if value != ""))

    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr("store.arguments", arguments)
    with pytest.raises(Asked) as asked:
        runpy.run_path(str(course.ROOT / script), run_name="__main__")
    assert stored["command"] == f"python {script} {asked.value}"
