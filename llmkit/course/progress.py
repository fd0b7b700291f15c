"""The table of lessons and exercises done, for a terminal or a notebook."""

from llmkit.course import session
from llmkit.course.answers import answers_folder, read
from llmkit.course.exercise import exercises
from llmkit.course.lessons import LESSONS


def progress() -> None:
    """Print which exercises of each lesson are done (● done, ○ open), counted from the kept answers."""
    if session.is_solution():
        print("These are the solutions; progress() counts what you solve in lessons/.")
        return
    done_in_all = open_in_all = 0
    part = ""
    for lesson in LESSONS:
        if lesson.part != part:
            part = lesson.part
            print(f"{part}")
        if not lesson.exists:
            print(f"  {lesson.name:24} planned")
            continue
        kept = read(lesson)
        marks = [exercise.number in kept for exercise in exercises(lesson.number)]
        done_in_all, open_in_all = done_in_all + sum(marks), open_in_all + len(marks) - sum(marks)
        dots = "".join("●" if mark else "○" for mark in marks)
        print(f"  {lesson.name:24} {dots:10} {sum(marks)} of {len(marks)}")
    noun = "exercise" if done_in_all == 1 else "exercises"
    print(f"{done_in_all} {noun} done, {open_in_all} open. Answers are kept in {answers_folder()}")
