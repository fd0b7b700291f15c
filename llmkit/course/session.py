"""The lesson that this kernel works on, set by its first cell."""

import os
import random

import numpy as np
import torch

from llmkit.course.lessons import Lesson, lesson

_current: Lesson | None = None
_solved = False


def start(name: str, solved: bool = False) -> None:
    """Begin a lesson: seeds, two threads, the house style of figures.

    solved   True in the notebooks of solutions/: what they show is not counted as the reader's own answers.
    """
    global _current, _solved
    _current, _solved = lesson(name), solved
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    # The same sums in the same order on every machine with two cores or more. OMP_NUM_THREADS=1 is heeded: the tests
    # run two notebooks side by side, and four threads on two cores wait for each other most of the time.
    torch.set_num_threads(1 if os.environ.get("OMP_NUM_THREADS") == "1" else 2)
    from llmkit.course.answers import lost_with_the_machine
    from llmkit.viz import use_house_style

    use_house_style()
    if not solved and (words := lost_with_the_machine()):
        print(words)


def lesson_number() -> int | None:
    return _current.number if _current else None


def is_solution() -> bool:
    return _solved


def solution_place() -> str:
    return f"solutions/{_current.name}.ipynb" if _current else "solutions/"
