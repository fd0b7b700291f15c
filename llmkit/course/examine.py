"""The check itself: try the cases in order, stop at the first that fails, say what is wrong."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmkit.course.compare import Difference, first_difference, show
from llmkit.course.exercise import Case, Exercise
from llmkit.course.run import Outcome, OutOfTime, call, own_traceback, seconds

ALIKE = 0.8  # share of cases on which an answer must agree with a known slip to be taken for it
SLIP_TIME_LIMIT = 1.0  # seconds for a call that only looks for the likely slip


@dataclass
class Report:
    """What the check found. `lines` is what the learner reads."""

    exercise: Exercise
    state: str  # "right", "wrong" or "not written"
    lines: list[str] = field(default_factory=list)
    slip: str = ""  # the known mistake that it looks like

    @property
    def right(self) -> bool:
        return self.state == "right"

    def __str__(self) -> str:
        return "\n".join(self.lines)


def examine(exercise: Exercise, answer: Any) -> Report:
    """The check itself, without side effects: tries the cases in order and stops at the first that fails."""
    if exercise.by_hand:
        return _examine_by_hand(exercise, answer)
    if not callable(answer):
        text = f"expected a function, got {type(answer).__name__}: {show(answer)}"
        return _wrong(exercise, text)
    mismatch = _signature_problem(exercise.original(), answer)
    return _wrong(exercise, mismatch) if mismatch else _examine_function(exercise, answer)


def _examine_by_hand(exercise: Exercise, answer: Any) -> Report:
    """Never says what the value should be: that would give the answer away."""
    if answer is None:
        return _not_written(exercise)
    if first_difference(exercise.reference(), answer, exercise.tolerance) is None:
        return Report(exercise, "right", [f"{_head(exercise)}: right."])
    for message, wrong in exercise.wrong.items():
        if first_difference(wrong(), answer, exercise.tolerance) is None:
            lines = [f"{_head(exercise)}: not yet.", *_indented(f"looks like: {message}"), _next(exercise)]
            return Report(exercise, "wrong", lines, message)
    return _wrong(exercise, f"{show(answer)} is not it")


def _examine_function(exercise: Exercise, function: Callable) -> Report:
    cases = exercise.cases()
    for passed, case in enumerate(cases):
        arguments = case.make()
        got = call(function, arguments, exercise.time_limit, exercise.gradients)
        if got.not_written:
            return _not_written(exercise)
        problem = _problem(exercise, case, arguments, got)
        if problem:
            endless = isinstance(got.error, OutOfTime)  # comparing would run it again and again
            slip = "" if endless else _known_slip(exercise, function, cases, case)
            return _report_case(exercise, case, problem, slip, passed, len(cases), got.printed)
    slow = exercise.max_slowdown and _slowness(exercise, function, cases[-1])
    return _wrong(exercise, slow) if slow else _right(exercise, len(cases))


def _problem(exercise: Exercise, case: Case, arguments: tuple, got: Outcome) -> str:
    """What is wrong with this outcome, or an empty string."""
    if isinstance(got.error, OutOfTime):
        where = own_traceback(got.error)
        return f"still running after {exercise.time_limit:g} s, so it was stopped:\n{where}"
    expected = call(exercise.original(), case.make(), gradients=exercise.gradients)
    if expected.error is not None:  # a bad input: the reference refuses it, so should the learner's
        return _error_problem(expected.error, got)
    if got.error is not None:
        return f"it raised an exception:\n{own_traceback(got.error)}"
    if exercise.compare:
        text = exercise.compare(expected.value, got.value, case.make())
        if text:
            return text
    else:
        difference = first_difference(expected.value, got.value, exercise.tolerance)
        difference = difference or _gradient_difference(exercise, expected, got)
        if difference:
            return str(difference)
    return _spoilt_argument(exercise, case, arguments)


def _error_problem(expected: BaseException, got: Outcome) -> str:
    wanted = type(expected).__name__
    if got.error is None:
        return f"this input should raise {wanted} ({expected}), but {show(got.value)} came back"
    if isinstance(got.error, type(expected)):
        return ""
    return f"this input should raise {wanted}; instead:\n{own_traceback(got.error)}"


def _gradient_difference(exercise: Exercise, expected: Outcome, got: Outcome) -> Difference | None:
    for i, (e, g) in enumerate(zip(expected.gradients, got.gradients, strict=True)):
        difference = first_difference(e, g, exercise.tolerance)
        if difference:
            text = f"the value is right, but not the gradient of argument {i}: {difference.text}"
            return Difference("", text)
    return None


def _spoilt_argument(exercise: Exercise, case: Case, arguments: tuple) -> str:
    """Did the call change what it was given, where the reference does not?"""
    untouched = case.make()
    call(exercise.original(), theirs := case.make())
    for i, (before, after, allowed) in enumerate(zip(untouched, arguments, theirs, strict=True)):
        plain = isinstance(before, list | dict | set) or hasattr(before, "shape")
        if plain and first_difference(before, after, 0.0) and not first_difference(before, allowed, 0.0):
            return f"the value is right, but argument {i} was changed in place; work on a copy"
    return ""


def _known_slip(exercise: Exercise, function: Callable, cases: list[Case], failed: Case) -> str:
    """The message of the known wrong answer that gives the same as the learner's, or an empty string.

    It must agree on the case that failed and on most others; a guess that misleads is worse than none.
    """
    best, message = ALIKE, ""
    for said, wrong in exercise.wrong.items():
        if _same_outcome(exercise, function, wrong, failed):
            share = sum(_same_outcome(exercise, function, wrong, case) for case in cases) / len(cases)
            if share > best:
                best, message = share, said
    return message


def _same_outcome(exercise: Exercise, one: Callable, other: Callable, case: Case) -> bool:
    a = call(one, case.make(), SLIP_TIME_LIMIT, exercise.gradients)
    b = call(other, case.make(), SLIP_TIME_LIMIT, exercise.gradients)
    if a.error is not None or b.error is not None:
        return type(a.error) is type(b.error)
    same = first_difference(b.value, a.value, exercise.tolerance) is None
    return same and _gradient_difference(exercise, b, a) is None


def _slowness(exercise: Exercise, function: Callable, case: Case) -> str:
    theirs, ours = seconds(function, case.make), seconds(exercise.original(), case.make)
    if theirs <= exercise.max_slowdown * ours:
        return ""
    return (
        f"the values are right, but it took {theirs / ours:.0f} times as long as llmkit's on {case.label}; "
        f"{exercise.max_slowdown:g} times is allowed"
    )


def _signature_problem(reference: Callable, answer: Callable) -> str:
    """Learners' functions are called by position; say so early when the parameters cannot fit."""
    try:
        wanted, got = inspect.signature(reference), inspect.signature(answer)
        got.bind(*[None for p in wanted.parameters.values() if p.default is p.empty])
    except TypeError as error:
        return f"its parameters should be {wanted}, but they are {got} ({error})"
    except ValueError:  # a built-in without a signature
        return ""
    return ""


def _head(exercise: Exercise) -> str:
    return f"{exercise.number} {exercise.name}"


def _right(exercise: Exercise, n_cases: int) -> Report:
    text = f"right. All {n_cases} cases pass; from here on this notebook runs on your code."
    return Report(exercise, "right", [f"{_head(exercise)}: {text}"])


def _not_written(exercise: Exercise) -> Report:
    first = [f"  hint 1 of {len(exercise.hints)}: {exercise.hints[0]}"] if exercise.hints else []
    return Report(exercise, "not written", [f"{_head(exercise)}: not written yet.", *first, _next(exercise)])


def _wrong(exercise: Exercise, problem: str) -> Report:
    lines = [f"{_head(exercise)}: not yet.", *_indented(problem), _next(exercise)]
    return Report(exercise, "wrong", lines)


def _report_case(
    exercise: Exercise, case: Case, problem: str, slip: str, passed: int, n_cases: int, printed: str
) -> Report:
    arguments = ", ".join(show(a, 40) for a in case.make())
    lines = [f"{_head(exercise)}: not yet. {passed} of {n_cases} cases pass."]
    lines += [f"  fails on: {case.label} ({arguments})", *_indented(problem)]
    if slip:
        lines += _indented(f"looks like: {slip}")
    if printed:
        lines += _indented("it printed: " + show(printed, 200))
    return Report(exercise, "wrong", [*lines, _next(exercise)], slip)


def _next(exercise: Exercise) -> str:
    going_on = "the right value" if exercise.by_hand else f"llmkit's {exercise.name}"
    return f'  next: hint("{exercise.number}") · going on with {going_on}'


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
