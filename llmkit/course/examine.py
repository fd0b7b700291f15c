"""The check itself: try the cases, show the first that fails, say what is wrong."""

import inspect
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from llmkit.course import report
from llmkit.course.compare import Difference, first_difference, show
from llmkit.course.exercise import Case, Exercise
from llmkit.course.report import Report
from llmkit.course.run import Outcome, OutOfTime, call, own_traceback, seconds

ALIKE = 0.8  # share of cases on which an answer must agree with a known slip to be taken for it
SLIP_TIME_LIMIT = 1.0  # seconds for a call that only looks for the likely slip


@dataclass(frozen=True)
class Try:
    """One case, what the learner's function gave for it, and what is wrong with that (empty where nothing is)."""

    case: Case
    got: Outcome
    problem: str


def examine(exercise: Exercise, answer: Any) -> Report:
    """The check itself, without side effects: tries all cases, in order, and shows the first that fails."""
    if exercise.by_hand:
        return _examine_by_hand(exercise, answer)
    if not callable(answer):
        return report.wrong(exercise, f"expected a function, got {type(answer).__name__}: {show(answer)}")
    mismatch = _signature_problem(exercise.original(), answer)
    return report.wrong(exercise, mismatch) if mismatch else _examine_function(exercise, answer)


def _examine_by_hand(exercise: Exercise, answer: Any) -> Report:
    """Never says what the value should be: that would give the answer away."""
    if answer is None:
        return report.not_written(exercise)
    as_list = answer.tolist() if hasattr(answer, "tolist") else answer  # a tensor of the right numbers is right
    if any(first_difference(exercise.reference(), a, exercise.tolerance) is None for a in (answer, as_list)):
        return report.right(exercise)
    for message, wrong in exercise.wrong.items():
        if first_difference(wrong(), answer, exercise.tolerance) is None:
            return report.wrong(exercise, slip=message)
    return report.wrong(exercise, _kind_problem(exercise.reference(), as_list) or f"{show(answer)} is not it")


def _kind_problem(wanted: Any, answer: Any) -> str:
    """What is wrong with the kind of an answer by hand, or an empty string; nothing is said of values or of length."""
    if isinstance(answer, str) and not isinstance(wanted, str):
        return f"{show(answer)} is a text; write it without the quotes"
    if not isinstance(wanted, list | tuple):
        return ""
    if not isinstance(answer, list | tuple):
        return f"{show(answer)} is not a list; the answer is a list, as in [1, 2]"
    texts = [a for w, a in zip(wanted, answer, strict=False) if isinstance(a, str) and not isinstance(w, str)]
    return f"{show(texts[0])} is a text; write it without the quotes" if texts else ""


def _examine_function(exercise: Exercise, function: Callable) -> Report:
    cases, tries = exercise.cases(), []
    enough = time.monotonic() + exercise.time_limit
    for case in cases:
        arguments = case.make()
        got = call(function, arguments, exercise.time_limit, exercise.gradients)
        failed = any(one.problem for one in tries)
        if got.not_written and not failed:
            return report.not_written(exercise)
        tries.append(Try(case, got, _problem(exercise, case, arguments, got)))
        if isinstance(got.error, OutOfTime) or (failed and time.monotonic() > enough):
            break  # after the first failure cases are only counted, and nobody should wait long for that
    if any(one.problem for one in tries):
        return _failed(exercise, function, cases, tries)
    slow = exercise.max_slowdown and _slowness(exercise, function, cases[-1])
    return report.wrong(exercise, slow) if slow else report.right(exercise)


def _failed(exercise: Exercise, function: Callable, cases: list[Case], tries: list[Try]) -> Report:
    """How many cases pass, and what is wrong with the first that does not."""
    first = next(one for one in tries if one.problem)
    case, got = first.case, first.got
    passed = sum(not one.problem for one in tries)
    untried = len(cases) - len(tries)
    count = f"{passed} of {len(cases)} cases pass" + (f", {untried} not tried" if untried else "") + "."
    where = f"fails on: {case.label} ({', '.join(show(a, 40) for a in case.make())})"
    slip = remark = ""
    if not isinstance(got.error, OutOfTime):  # else looking for it would run the endless loop again and again
        slip = _known_slip(exercise, function, cases, case)
        remark = "" if slip else _unsteadiness(exercise, function, case)
    printed = "it printed: " + show(got.printed, 200) if got.printed else ""
    return report.wrong(exercise, where, first.problem, remark, slip=slip, printed=printed, count=count)


def _problem(exercise: Exercise, case: Case, arguments: tuple, got: Outcome) -> str:
    """What is wrong with this outcome, or an empty string."""
    if isinstance(got.error, OutOfTime):
        where = own_traceback(got.error)
        return f"still running after {exercise.time_limit:g} s, so it was stopped:\n{where}"
    expected = call(exercise.original(), theirs := case.make(), gradients=exercise.gradients)
    wrong = _outcome_problem(exercise, case, expected, got)
    spoilt = _spoilt_argument(exercise, case.make(), arguments, theirs)
    if not spoilt:
        return wrong
    return f"{spoilt}\n{wrong}" if wrong else f"the value is right, but {spoilt}"


def _outcome_problem(exercise: Exercise, case: Case, expected: Outcome, got: Outcome) -> str:
    if expected.error is not None:  # a bad input: the reference refuses it, so should the learner's
        return _error_problem(expected.error, got)
    if got.error is not None:
        return f"it raised an exception:\n{own_traceback(got.error)}"
    if exercise.compare:
        return exercise.compare(expected.value, got.value, case.make()) or ""
    difference = first_difference(expected.value, got.value, exercise.tolerance)
    return str(difference or _gradient_difference(exercise, expected, got) or "")


def _error_problem(expected: BaseException, got: Outcome) -> str:
    wanted = type(expected).__name__
    if isinstance(got.value, BaseException):
        return f"this input should raise {wanted} ({expected}); {show(got.value)} was returned: write `raise`"
    if got.error is None:
        return f"this input should raise {wanted} ({expected}), but {show(got.value)} came back"
    if isinstance(got.error, type(expected)):
        return ""
    return f"this input should raise {wanted}; instead:\n{own_traceback(got.error)}"


def _gradient_difference(exercise: Exercise, expected: Outcome, got: Outcome) -> Difference | None:
    for i, (e, g) in enumerate(zip(expected.gradients, got.gradients, strict=True)):
        difference = first_difference(e, g, exercise.tolerance)
        if difference and g is None:
            return Difference("", f"the value is right, but no gradient flows to argument {i}: was something detached?")
        if difference:
            text = f"the value is right, but not the gradient of argument {i}: {difference.text}"
            return Difference("", text)
    return None


def _spoilt_argument(exercise: Exercise, untouched: tuple, arguments: tuple, theirs: tuple) -> str:
    """Did the call change what it was given, where the reference does not?"""
    names = inspect.signature(exercise.original()).parameters
    for name, before, after, allowed in zip(names, untouched, arguments, theirs, strict=False):
        plain = isinstance(before, list | dict | set) or hasattr(before, "shape")
        if plain and first_difference(before, after, 0.0) and not first_difference(before, allowed, 0.0):
            return f"the argument {name!r} was changed in place; work on a copy"
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


def _unsteadiness(exercise: Exercise, function: Callable, case: Case) -> str:
    """What to say of a function that gives something else when it is called again, else an empty string."""

    def ten_times() -> list:
        return [deepcopy(function(*case.make())) for _ in range(10)]  # copies: it may return one thing and fill it

    results = call(ten_times, (), SLIP_TIME_LIMIT).value or [None]
    if all(first_difference(results[0], other, exercise.tolerance) is None for other in results):
        return ""
    return (
        "called again with the same arguments it gives something else: does it draw random numbers of its own, "
        "or keep something from the call before?"
    )


def _same_outcome(exercise: Exercise, one: Callable, other: Callable, case: Case) -> bool:
    a = call(one, mine := case.make(), SLIP_TIME_LIMIT, exercise.gradients)
    b = call(other, theirs := case.make(), SLIP_TIME_LIMIT, exercise.gradients)
    if a.error is not None or b.error is not None:
        return type(a.error) is type(b.error)
    if bool(_spoilt_argument(exercise, case.make(), mine, theirs)) or bool(
        _spoilt_argument(exercise, case.make(), theirs, mine)
    ):
        return False  # one of them changed what it was given, the other did not
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
