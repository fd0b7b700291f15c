"""The checks themselves: right answers of any style pass, wrong ones are refused with the right words.

tests/alternatives/lesson_NN.py holds, for each exercise, right answers written differently from llmkit's, and
the mutants that no check can refuse because they compute the same, each with its reason.
"""

import dataclasses
import importlib

import numpy as np
import pytest
import torch
from mutate import mutants

from llmkit.course.compare import first_difference
from llmkit.course.examine import examine
from llmkit.course.exercise import Exercise, exercises
from llmkit.course.lessons import LESSONS
from llmkit.course.run import call

ALL = [exercise for lesson in LESSONS for exercise in exercises(lesson.number)]
FUNCTIONS = [exercise for exercise in ALL if not exercise.by_hand]
KILL_RATE = 0.95  # of the mutants that are not listed as equivalent


def ids(exercise: Exercise) -> str:
    return f"{exercise.number}-{exercise.name}"


def alternatives(exercise: Exercise):
    return importlib.import_module(f"alternatives.lesson_{exercise.lesson:02d}")


def test_there_are_exercises():
    assert len(ALL) >= 7, "no exercise was found, so nothing below would be tested"
    assert len({e.number for e in ALL}) == len(ALL)


@pytest.mark.parametrize("exercise", ALL, ids=ids)
def test_llmkits_own_answer_is_right(exercise):
    answer = exercise.reference() if exercise.by_hand else exercise.original()
    report = examine(exercise, answer)
    assert report.right, str(report)


@pytest.mark.parametrize("exercise", ALL, ids=ids)
def test_each_known_slip_is_named(exercise):
    assert len(exercise.wrong) >= 3, "write down the three or four wrong answers that people really give"
    for message, wrong in exercise.wrong.items():
        report = examine(exercise, wrong() if exercise.by_hand else wrong)
        assert report.state == "wrong", f"accepted: {message}"
        assert report.slip == message, f"said {report.slip!r} for {message!r}\n{report}"


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=ids)
def test_right_answers_written_differently_are_accepted(exercise):
    others = alternatives(exercise).RIGHT[exercise.name]
    assert len(others) >= 3
    for other in others:
        report = examine(exercise, other)
        assert report.right, f"refused {other.__name__}:\n{report}"


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=ids)
def test_mutants_are_refused(exercise):
    impatient = dataclasses.replace(exercise, time_limit=1.0, wrong={}, max_slowdown=None)
    equivalent = getattr(alternatives(exercise), "EQUIVALENT", {}).get(exercise.name, {})
    survivors, refused, listed = [], 0, set()
    for mutant in mutants(exercise.reference):
        if mutant.change in equivalent:
            listed.add(mutant.change)
        elif examine(impatient, mutant.function).right:
            survivors.append(mutant.change)
        else:
            refused += 1
    rate = refused / (refused + len(survivors))
    print(f"{ids(exercise)}: {refused} refused, {len(survivors)} accepted, {len(listed)} equivalent: {rate:.1%}")
    assert rate >= KILL_RATE, "accepted:\n" + "\n".join(survivors)
    assert listed == set(equivalent), f"listed as equivalent, but no such mutant: {set(equivalent) - listed}"


@pytest.mark.parametrize("exercise", [e for e in FUNCTIONS if e.starts_from], ids=ids)
def test_what_the_learner_is_given_is_not_right_yet(exercise):
    assert not examine(exercise, exercise.starts_from).right


@pytest.mark.parametrize("exercise", ALL, ids=ids)
def test_hints_and_messages_do_not_give_the_answer_away(exercise):
    assert 2 <= len(exercise.hints) <= 5
    if exercise.by_hand:
        report = examine(exercise, "something else")
        assert repr(exercise.reference()) not in str(report)


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=ids)
def test_cases_are_built_afresh(exercise):
    """A run cannot spoil the next one, and every case has the reference agree with itself."""
    for case in exercise.cases():
        first, second = case.make(), case.make()
        shared = {id(part) for part in _changeable(first)} & {id(part) for part in _changeable(second)}
        assert not shared, f"two runs of the case {case.label!r} share something that can be changed in place"
        results = [call(exercise.original(), arguments) for arguments in (first, second)]
        assert type(results[0].error) is type(results[1].error)
        if exercise.compare is None:
            assert first_difference(results[0].value, results[1].value, 0.0) is None


def _changeable(value):
    """Everything in a case's arguments that can be changed in place, however deep."""
    if isinstance(value, list | dict | set | torch.Tensor | np.ndarray):
        yield value
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _changeable(part)
