"""Running a learner's function: time limit, traceback, printing, gradients, comparison."""

import math
import random
import re
import time
from collections import Counter

import numpy as np
import pytest
import torch

from llmkit.course.compare import first_difference
from llmkit.course.examine import examine
from llmkit.course.exercise import Case, Exercise
from llmkit.course.run import OutOfTime, call, own_traceback


def test_an_endless_loop_is_stopped():
    def endless(x):
        while True:
            x += 1

    start = time.monotonic()
    outcome = call(endless, (0,), time_limit=0.3)
    assert isinstance(outcome.error, OutOfTime)
    assert time.monotonic() - start < 3
    assert call(lambda: 1, (), time_limit=0.3).value == 1, "the next call must not inherit the exception"


def test_an_endless_loop_that_swallows_exceptions_is_stopped():
    def stubborn():
        while True:
            try:
                math.sqrt(-1)
            except Exception:
                continue

    assert isinstance(call(stubborn, (), time_limit=0.3).error, OutOfTime)


def test_nothing_is_raised_after_a_call_that_ends_near_its_limit():
    def slow():
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
        return "done"

    for _ in range(20):
        outcome = call(slow, (), time_limit=0.1)
        assert outcome.value == "done" or isinstance(outcome.error, OutOfTime)
        sum(range(10_000))  # a stray exception would arrive here


def test_the_traceback_shows_the_learners_frames_only():
    def outer(x):
        return inner(x)

    def inner(x):
        return x["missing"]

    text = own_traceback(call(outer, ({},)).error)
    assert "KeyError: 'missing'" in text and 'return x["missing"]' in text and "in outer" in text
    assert "course/run.py" not in text and "course\\run.py" not in text


def test_what_it_printed_is_kept_apart(capsys):
    outcome = call(lambda: print("looking at", 3), ())
    assert outcome.printed == "looking at 3\n"
    assert capsys.readouterr().out == ""


def test_gradients_are_compared():
    def reference(x):
        return x * x

    def detached(x):
        return x.detach() * x.detach()

    def half(x):
        return x.detach() * x

    make = [Case("three numbers", lambda: (torch.tensor([1.0, 2.0, 3.0]),))]
    exercise = _exercise(reference, make, gradients=True)
    assert examine(exercise, lambda x: x**2).right
    for wrong, words in ((detached, "no gradient flows to argument 0"), (half, "not the gradient of argument 0")):
        report = examine(exercise, wrong)
        assert not report.right and words in str(report) and "return" not in str(report)


def _exercise(reference, cases, **options) -> Exercise:
    class Local(Exercise):
        by_hand = False

        def original(self):
            return reference

    return Local("0.1", "local", "here:local", ("one", "two"), cases=lambda: cases, **options)


def test_an_argument_changed_in_place_is_told():
    exercise = _exercise(lambda items: sorted(items), [Case("three", lambda: ([3, 1, 2],))])

    def in_place(items):
        items.sort()
        return items

    report = examine(exercise, in_place)
    assert "the value is right, but the argument 'items' was changed in place" in str(report)
    assert examine(exercise, lambda items: sorted(items)).right


def test_what_the_reference_changes_in_place_may_be_changed():
    def append(items):
        items.append(0)
        return len(items)

    exercise = _exercise(append, [Case("three", lambda: ([3, 1, 2],))])
    assert examine(exercise, lambda items: items.extend([0]) or len(items)).right


@pytest.mark.parametrize("ending", ["return items[:2]", "return items['x']"])
def test_an_argument_changed_in_place_is_told_before_what_came_of_it(ending):
    cases = [Case("three", lambda: ([3, 1, 2],)), Case("four", lambda: ([4, 3, 1, 2],))]
    namespace = {}
    exec(f"def spoils(items):\n    items.sort()\n    {ending}", namespace)
    said = str(examine(_exercise(sorted_copy, cases), namespace["spoils"]))
    assert "0 of 2 cases pass." in said
    wrong = "expected 3 items, got 2" if "2" in ending else "TypeError"
    assert said.index("the argument 'items' was changed in place; work on a copy") < said.index(wrong)
    assert "value is right" not in said


def test_all_cases_are_counted_and_the_first_failure_is_shown():
    cases = [Case(f"up to {n}", lambda n=n: (list(range(n, 0, -1)),)) for n in range(1, 9)]
    report = examine(_exercise(sorted_copy, cases), lambda items: sorted(items) if len(items) not in (3, 5) else items)
    assert "6 of 8 cases pass.\n  fails on: up to 3 ([3, 2, 1])" in str(report)


def test_cases_are_not_counted_for_longer_than_the_time_limit():
    cases = [Case(f"case {n}", lambda n=n: ([n],)) for n in range(50)]
    calls = []

    def slow_and_wrong(items):
        calls.append(items)
        time.sleep(0.1)
        return items[1:] if items[0] else items

    start = time.monotonic()
    said = str(examine(_exercise(sorted_copy, cases, time_limit=0.5), slow_and_wrong))
    assert time.monotonic() - start < 3
    passed, untried = map(int, re.search(r"(\d+) of 50 cases pass, (\d+) not tried", said).groups())
    assert passed == 1 and 40 <= untried <= 47 and "fails on: case 1 " in said

    def endless(items):
        while items != [2]:
            pass
        return items

    said = str(examine(_exercise(sorted_copy, cases, time_limit=0.2), endless))
    assert "0 of 50 cases pass, 49 not tried" in said and "so it was stopped" in said


def test_a_function_that_changes_its_mind_is_told():
    cases = [Case("three", lambda: ([3, 1, 2],)), Case("four", lambda: ([3, 1, 2, 4],))]
    exercise = _exercise(sorted_copy, cases, wrong={"unsorted": lambda items: items})

    def shuffles(items):
        return random.sample(items, len(items))

    def remembers(items, kept=[]):  # noqa: B006
        kept.extend(items)
        return kept

    for answer in (shuffles, remembers):
        assert "called again with the same arguments" in str(examine(exercise, answer))
    for answer in (lambda items: items, lambda items: items[:1], lambda items: items[9]):
        assert "called again" not in str(examine(exercise, answer))


def test_slowness_is_told_only_where_it_matters():
    def slow(items):
        time.sleep(0.05)
        return sorted(items)

    cases = [Case("many", lambda: (list(range(1000)),))]
    assert "times as long" in str(examine(_exercise(sorted_copy, cases, max_slowdown=5), slow))
    assert examine(_exercise(sorted_copy, cases), slow).right


def sorted_copy(items):
    return sorted(items)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda items: None, "return"),
        (lambda items: items[5], "IndexError"),
        (lambda: 1, "parameters"),
        (lambda items, other: 1, "parameters"),
        ("a string", "expected a function"),
        (lambda items: (item for item in sorted(items)), "wrap it in list"),
        (lambda items: sorted(items)[:2], "expected 3 items, got 2"),
        (lambda items: [1, 2, 7], r"\[2\]: expected 3, got 7"),
    ],
)
def test_messages_name_what_is_wrong(answer, words):
    report = examine(_exercise(sorted_copy, [Case("three", lambda: ([3, 1, 2],))]), answer)
    assert report.state == "wrong"
    assert re.search(words, str(report)), str(report)


def test_an_error_that_is_returned_is_not_raised():
    def strict(x):
        if x < 0:
            raise ValueError("x is below 0")
        return x

    exercise = _exercise(strict, [Case("good", lambda: (1.0,)), Case("bad", lambda: (-1.0,))])
    lines = str(examine(exercise, lambda x: x if x >= 0 else ValueError("no")))
    assert "was returned: write `raise`" in lines and "something else" not in lines


def test_an_input_that_must_be_refused():
    def reference(x):
        if x < 0:
            raise ValueError("negative")
        return x

    exercise = _exercise(reference, [Case("negative", lambda: (-1,))])
    assert "should raise ValueError" in str(examine(exercise, lambda x: x))
    assert "instead" in str(examine(exercise, lambda x: x.nothing))

    def refuses(x):
        raise ValueError

    assert examine(exercise, refuses).right


def test_a_kernel_that_torch_lacks_is_not_an_unwritten_answer():
    def missing():
        raise NotImplementedError("\"svd_cpu\" not implemented for 'BFloat16'")

    assert not call(missing, ()).not_written


def test_not_written_yet_is_not_wrong():
    def stub(items):
        raise NotImplementedError("exercise 0.1")

    report = examine(_exercise(sorted_copy, [Case("three", lambda: ([3],))]), stub)
    assert report.state == "not written"
    assert "one" not in str(report) and 'hint("0.1")' in str(report), "hints open when they are asked for"


def test_half_written_is_wrong_where_the_written_half_is():
    def half(items):
        if len(items) > 3:
            raise NotImplementedError
        return items

    cases = [Case(f"{n} items", lambda n=n: (list(range(n, 0, -1)),)) for n in (2, 4)]
    report = examine(_exercise(sorted_copy, cases), half)
    assert report.state == "wrong" and "0 of 2 cases pass.\n  fails on: 2 items" in str(report)


SAME = [
    ([1, 2], (1, 2)),
    (Counter("aab"), {"a": 2, "b": 1}),
    (Counter("a"), {"a": 1, "b": 0}),
    (2.0, 2),
    (2, 2.0),
    (0.1 + 0.2, 0.3),
    (1.5, torch.tensor(1.5)),
    (3, np.int64(3)),
    (float("nan"), float("nan")),
    (float("inf"), float("inf")),
    ({"a", "b"}, frozenset("ab")),
    (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")])),
    (np.arange(3), np.arange(3)),
    (True, np.bool_(True)),
]
DIFFERENT = [
    ([1, 2], [1, 2, 3]),
    ([1, 2], "12"),
    ({"a": 1}, {"a": 1, "b": 0}),
    ({"a": 1}, {}),
    (2, 2.001),
    (1, True),
    ("a", b"a"),
    ({"a"}, {"b"}),
    (float("inf"), float("-inf")),
    (float("inf"), 1e300),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    (torch.zeros(2), [0.0, 0.0]),
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])),
    (torch.tensor([1.0]), torch.tensor([float("nan")])),
    ([[1], [2]], [[1], [3]]),
    (1, None),
]


@pytest.mark.parametrize(("expected", "got"), SAME)
def test_what_is_the_same_to_a_reader_is_the_same(expected, got):
    assert first_difference(expected, got) is None


@pytest.mark.parametrize(("expected", "got"), DIFFERENT)
def test_what_differs_is_found(expected, got):
    assert first_difference(expected, got) is not None


def test_the_place_of_the_difference():
    assert first_difference({"a": [1, 2]}, {"a": [1, 5]}).where == "['a'][1]"
    expected, got = torch.zeros(2, 3), torch.zeros(2, 3)
    got[1, 2] = 1
    assert first_difference(expected, got).where == "[1, 2]"
