"""What the learner reads after a check."""

from dataclasses import dataclass, field

from llmkit.course.exercise import Exercise


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


def right(exercise: Exercise) -> Report:
    n = len(exercise.cases())
    text = "" if exercise.by_hand else f" All {n} cases pass; from here on this notebook runs on your code."
    return Report(exercise, "right", [f"{_head(exercise)}: right.{text}"])


def not_written(exercise: Exercise) -> Report:
    return Report(exercise, "not written", [f"{_head(exercise)}: not written yet.", _next(exercise)])


def wrong(exercise: Exercise, *problems: str, slip: str = "", printed: str = "", count: str = "") -> Report:
    """What is wrong, in the order in which it helps; empty texts are left out."""
    texts = [*problems, f"looks like: {slip}" if slip else "", printed]
    lines = [f"  {line}" for text in texts for line in text.splitlines()]
    head = f"{_head(exercise)}: not yet." + (f" {count}" if count else "")
    return Report(exercise, "wrong", [head, *lines, _next(exercise)], slip)


def _head(exercise: Exercise) -> str:
    return f"{exercise.number} {exercise.name}"


def _next(exercise: Exercise) -> str:
    going_on = "the right value" if exercise.by_hand else f"llmkit's {exercise.name}"
    return f'  next: hint("{exercise.number}") · going on with {going_on}'
