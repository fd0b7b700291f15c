"""What an exercise is: a reference in llmkit, the cases to try, the slips people make, hints."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# llmkit's own functions by reference, and what stands in their place now.
_originals: dict[str, Callable] = {}
_installed: dict[str, Callable] = {}


@dataclass(frozen=True)
class Case:
    """One call to try. `make` builds fresh arguments every time, so that no run can spoil another's.

    >>> Case("two words", lambda: (["a", "b"], 1)).make()
    (['a', 'b'], 1)
    """

    label: str
    make: Callable[[], tuple]


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson; lessons list theirs in `llmkit/course/checks/lesson_NN.py`.

    reference     "llmkit.models.ngram:count_ngrams", or a function without arguments for an answer by hand
    cases         gives the Cases, easiest first: type and shape, special cases, toy numbers, random ones
    wrong         known wrong answers: what to say -> the function that makes this mistake
    hints         shown one by one by hint("1.2"); never the solution
    starts_from   for "find the bug" and "fill the gap": the function that the learner is given to mend
    tolerance     relative; chosen above float noise and well below the nearest wrong answer
    gradients     also compare the gradients with respect to every floating-point tensor argument
    compare       (expected, got, arguments) -> None or a sentence, where a right answer is not unique
    max_slowdown  refuse answers slower than this many times the reference, on the last case
    time_limit    seconds for one call
    """

    number: str
    name: str
    reference: str | Callable[[], Any]
    hints: tuple[str, ...]
    cases: Callable[[], list[Case]] = lambda: [Case("your answer", lambda: ())]
    wrong: dict[str, Callable] = field(default_factory=dict)
    starts_from: Callable | None = None
    tolerance: float = 1e-6
    gradients: bool = False
    compare: Callable[[Any, Any, tuple], str | None] | None = None
    max_slowdown: float | None = None
    time_limit: float = 5.0

    @property
    def by_hand(self) -> bool:
        """True when the answer is a value, not a function."""
        return not isinstance(self.reference, str)

    @property
    def lesson(self) -> int:
        return int(self.number.split(".")[0])

    def original(self) -> Callable:
        """llmkit's own function, also while a learner's stands in its place."""
        if self.by_hand:
            return self.reference
        if self.reference not in _originals:
            module, name = self.reference.split(":")
            _originals[self.reference] = getattr(importlib.import_module(module), name)
        return _originals[self.reference]


@cache
def exercises(lesson: int) -> tuple[Exercise, ...]:
    """The exercises of a lesson in order; empty for a lesson that has none yet."""
    name = f"llmkit.course.checks.lesson_{lesson:02d}"
    if importlib.util.find_spec(name) is None:
        return ()
    return tuple(importlib.import_module(name).EXERCISES)


def find(number: str) -> Exercise:
    """The exercise "2.1"; raises ValueError with the numbers there are."""
    lesson = number.split(".")[0]
    if lesson.isdigit():
        for exercise in exercises(int(lesson)):
            if exercise.number == number:
                return exercise
    known = ", ".join(e.number for e in exercises(int(lesson))) if lesson.isdigit() else ""
    raise ValueError(f"there is no exercise {number!r}." + (f" Lesson {lesson} has {known}." if known else ""))


def install(exercise: Exercise, function: Callable) -> None:
    """Put `function` in the place of llmkit's own wherever llmkit looks it up in this process.

    The course's own modules keep the original: they compare with it.
    """
    if exercise.by_hand:
        return
    current = _installed.get(exercise.reference, exercise.original())
    for name, module in list(sys.modules.items()):
        if name.startswith("llmkit.") and not name.startswith("llmkit.course"):
            for attribute, value in list(vars(module).items()):
                if value is current:
                    setattr(module, attribute, function)
    _installed[exercise.reference] = function
