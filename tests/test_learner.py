"""A learner's session in a real kernel: a slip, an exception, an endless loop, a right answer, a restart."""

import os

import nbformat
from nbclient import NotebookClient

START = 'from llmkit.course import check, hint, progress, start, use_my_answers\nstart("01_next_token")'
SLIP = """
def pick(probs, u):
    total = 0.0
    for token, p in probs.items():
        total += p
        if u <= total:
            return token
    return token

pick = check(pick)
print(pick({"a": 0.0, "b": 1.0}, 0.0))
"""
CRASH = """
def helper(probs):
    return probs["no such token"]

def pick(probs, u):
    return helper(probs)

pick = check(pick)
"""
ENDLESS = """
def pick(probs, u):
    while True:
        u = u / 2

pick = check(pick)
"""
RIGHT = """
import random

def positive(probs):
    return [(t, p) for t, p in probs.items() if p > 0]

def pick(probs, u):
    rest = positive(probs)
    if not rest:
        raise ValueError("nothing")
    for token, p in rest:
        if u < p:
            return token
        u -= p
    return token

pick = check(pick)
import llmkit.generation.sampling as sampling
print("llmkit runs on it:", sampling.pick is pick)
"""


def run(folder, *sources: str) -> list[str]:
    """What each cell printed; the cells run in one kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    environment = dict(os.environ, LLMKIT_ANSWERS=str(folder / "answers"))
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells]


def test_a_learners_session(tmp_path):
    _, slip, crash, right, table = run(tmp_path, START, SLIP, CRASH, RIGHT, "progress()")
    assert "1.3 pick: not yet. " in slip and "compare with <, not <=" in slip
    assert slip.endswith("b\n"), "after a wrong answer llmkit's own function goes on"
    assert "KeyError: 'no such token'" in crash and "your cell, line 2, in helper" in crash
    assert "course/run.py" not in crash and "Traceback" not in crash
    assert "1.3 pick: right." in right and "llmkit runs on it: True" in right and "not kept" not in right
    assert "○○●○○○○" in table
    kept = (tmp_path / "answers" / "01_next_token.py").read_text(encoding="utf-8")
    assert "def positive(probs):" in kept and kept.index("def positive") < kept.index("def pick")
    again = START.replace("01_next_token", "02_tokenizers")
    _, back, table = run(tmp_path, again, "use_my_answers()", "progress()")
    assert "Your code is back in use: 1.3 pick." in back and "○○●○○○○" in table


def test_an_endless_loop_in_a_kernel_is_stopped(tmp_path):
    from llmkit.course.exercise import find

    (_, said) = run(tmp_path, START, ENDLESS)
    assert f"still running after {find('1.3').time_limit:g} s, so it was stopped" in said
    assert "your cell, line 2, in pick" in said or "your cell, line 3, in pick" in said
