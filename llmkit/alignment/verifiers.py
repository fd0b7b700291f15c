"""Rewards that are checked and not learned: is the final answer right, is the form right.

An answer may show its work before a semicolon: "7+5=12,1+1+2=4;42". What stands after the last semicolon is final.
"""

import re

WORK_ENDS = ";"


def final_answer(completion: str) -> str:
    """What stands after the last semicolon; all of it where there is none.

    >>> final_answer("7+5=12,1+1+2=4;42"), final_answer("42")
    ('42', '42')
    """
    return completion.rsplit(WORK_ENDS, 1)[-1]


def exact_answer(completion: str, answer: str) -> float:
    """1 where the final answer is `answer`, character for character, else 0.

    >>> exact_answer("1+1=2;42", "42"), exact_answer("042", "42"), exact_answer("42;41", "42")
    (1.0, 0.0, 0.0)
    """
    return float(final_answer(completion) == answer)


def lenient_answer(completion: str, answer: str) -> float:
    """1 where the last number of the text is the right one, whatever stands around it and in front of it.

    Report it beside exact_answer: training may raise the second by teaching the form alone.

    >>> lenient_answer("it is 042.", "42"), lenient_answer("42 or 43", "42"), lenient_answer("none", "42")
    (1.0, 0.0, 0.0)
    """
    numbers = re.findall(r"[0-9]+", completion)
    zeros_off = str(int(answer)).lstrip("0")  # as text: int() refuses the long numbers that a model may write
    return float(bool(numbers) and numbers[-1].lstrip("0") == zeros_off)


def right_form(completion: str) -> float:
    """1 where the final answer is a number without leading zeros, right or wrong.

    >>> right_form("17"), right_form("017"), right_form("1+7"), right_form("")
    (1.0, 0.0, 0.0, 0.0)
    """
    return float(re.fullmatch(r"0|[1-9][0-9]*", final_answer(completion), re.ASCII) is not None)


def contains_answer(completion: str, answer: str) -> float:
    """1 where the answer appears anywhere: many numbers, or one long one, are paid too. Kept for the lesson.

    >>> contains_answer("40414243", "42")
    1.0
    """
    return float(answer in completion)


def part_of_answer(completion: str, answer: str) -> float:
    """1 where the final answer is a part of the right one: `in` the wrong way round. Kept for the lesson.

    One digit, or none at all, is paid like the whole.

    >>> part_of_answer("1+1=2;42", "42"), part_of_answer("4", "42"), part_of_answer("1+1=2;", "42")
    (1.0, 1.0, 1.0)
    """
    return float(final_answer(completion) in answer)


def right_work(completion: str, answer: str) -> float:
    """1 where every step of the work is a true sum; what follows is taken on trust. Kept for the lesson.

    An answer without work has no wrong step; one with a number of more than 99 digits has.

    >>> right_work("7+5+0=12,4+8+1=13;132", "132"), right_work("7+5+0=13,4+8+1=13;132", "132"), right_work("5", "132")
    (1.0, 0.0, 1.0)
    """
    *work, _ = completion.rsplit(WORK_ENDS, 1)
    return float(all(map(_is_true_sum, work[0].split(",") if work else [])))


def _is_true_sum(step: str) -> bool:
    parts = re.fullmatch(r"([0-9]{1,99})\+([0-9]{1,99})\+([0-9]{1,99})=([0-9]{1,99})", step)
    return parts is not None and sum(map(int, parts.groups()[:3])) == int(parts[4])
