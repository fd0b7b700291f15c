"""check(f), hint("1.2") and use_my_answers(): what a lesson's cells call."""

from typing import Any

from llmkit.course import answers, session
from llmkit.course.compare import show
from llmkit.course.examine import examine
from llmkit.course.exercise import Exercise, exercises, find, install
from llmkit.course.lessons import LESSONS

_hints_shown: dict[str, int] = {}


def check(answer: Any, number: str = "") -> Any:
    """Check an exercise; say what is wrong, or put the learner's function to work.

    A function is recognised by its name: `merge = check(merge)`. An answer by hand needs its number:
    `p = check(p, "1.1")`. Either way something right comes back, the learner's answer or else llmkit's own,
    so that the rest of the notebook runs. Raises ValueError when no exercise has this name or number.
    """
    exercise = find(number) if number else _by_name(answer)
    if answer is exercise.original() and not session.is_solution():  # the check's cell run again, after a wrong answer
        print(f"{exercise.number} {exercise.name}: this is llmkit's own. Run the cell with yours, then this one.")
        return answer
    report = examine(exercise, answer)
    print(report)
    if not report.right:
        install(exercise, exercise.original())
        return exercise.reference() if exercise.by_hand else exercise.original()
    install(exercise, answer)
    problem = answers.save(exercise, answer)
    if problem:
        print(f"  (not kept for later lessons: {problem})")
    return answer


def hint(number: str) -> None:
    """Print the next hint of an exercise, and the ones before it."""
    exercise = find(number)
    shown = min(_hints_shown.get(number, 0) + 1, len(exercise.hints))
    _hints_shown[number] = shown
    for i, text in enumerate(exercise.hints[:shown], 1):
        print(f"hint {i} of {len(exercise.hints)}: {text}")
    if shown == len(exercise.hints):
        print(f"That was the last one. The answer is in {session.solution_place()}, section {number}.")


def use_my_answers() -> None:
    """Bring back the functions that you wrote in earlier lessons; each is checked again before it is used."""
    if session.is_solution():
        print("These are the solutions: llmkit's own functions are in use.")
        return
    back, left = [], []
    for one in LESSONS:
        if one.number >= (session.lesson_number() or 21):
            break
        kept = answers.read(one)
        for exercise in exercises(one.number):
            if exercise.by_hand or exercise.number not in kept:
                continue
            function = answers.load(exercise, kept[exercise.number])
            report = examine(exercise, function) if function else None
            if report and report.right:
                install(exercise, function)
                back.append(f"{exercise.number} {exercise.name}")
            else:
                left.append(f"{exercise.number} {exercise.name}")
    if back:
        print(f"Your code is back in use: {', '.join(back)}.")
    elif not left:
        print(f"No answers of earlier lessons are kept in {answers.answers_folder()} yet.")
    if left:
        print(f"Not used, because the kept code no longer passes its check: {', '.join(left)}.")


def _by_name(answer: Any) -> Exercise:
    name = getattr(answer, "__name__", None)
    lesson = session.lesson_number()
    candidates = exercises(lesson) if lesson else [e for n in range(1, 21) for e in exercises(n)]
    for exercise in candidates:
        if exercise.name == name and not exercise.by_hand:
            return exercise
    known = ", ".join(f"{e.number} {e.name}" for e in candidates)
    what = repr(name) if name else f"{show(answer)} (an answer by hand needs its number: check(x, '1.1'))"
    raise ValueError(f"no exercise is called {what}. The exercises here: {known}")
