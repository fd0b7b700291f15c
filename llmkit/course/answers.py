"""What the learner wrote, kept as source: answers/01_next_token.py, one `# %%` section an exercise."""

import ast
import inspect
import linecache
import os
import re
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmkit.course import session
from llmkit.course.exercise import Exercise
from llmkit.course.lessons import Lesson, lesson
from llmkit.course.source import names

SECTION = re.compile(r"^# %% (\d+\.\d+) (\w+)[^\n]*\n", re.MULTILINE)
_GOOGLE_DRIVE = Path("/content/drive/MyDrive")
_chosen: Path | None = None


class AnswersError(ValueError):
    """A file of answers that is there and cannot be read."""


def answers_folder(path: str | Path | None = None) -> Path:
    """Where answers are kept; a path given here holds for the rest of the kernel's life.

    Otherwise: $LLMKIT_ANSWERS; on Colab with Drive mounted, MyDrive/llmkit-answers (Colab's own disk is
    wiped with the machine); in a checkout of the course, its answers/; else answers/ in the current folder.
    """
    global _chosen
    if path is not None:
        _chosen = Path(path).expanduser()
    if _chosen:
        return _chosen
    if os.environ.get("LLMKIT_ANSWERS"):
        return Path(os.environ["LLMKIT_ANSWERS"])
    if _GOOGLE_DRIVE.is_dir():
        return _GOOGLE_DRIVE / "llmkit-answers"
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "lessons").is_dir() and (folder / "llmkit").is_dir():
            return folder / "answers"
    return here / "answers"


def lost_with_the_machine() -> str:
    """What to say on Colab where Drive is not mounted; elsewhere an empty string."""
    if "COLAB_RELEASE_TAG" not in os.environ or _chosen or "LLMKIT_ANSWERS" in os.environ or _GOOGLE_DRIVE.is_dir():
        return ""
    return (
        "Your answers go when this Colab machine goes. To keep them in your Drive, run this now:\n"
        '    from google.colab import drive; drive.mount("/content/drive")'
    )


def save(exercise: Exercise, answer: Any) -> str:
    """Keep a right answer; returns why it could not be kept, or an empty string.

    Nothing is kept in a solution notebook, nor for llmkit's own function, which is nobody's answer.
    """
    if session.is_solution() or (not exercise.by_hand and answer is exercise.original()):
        return ""
    try:
        source = f"{exercise.name} = {answer!r}" if exercise.by_hand else standalone_source(answer)
        _write_section(lesson(exercise.lesson), exercise, source)
    except (OSError, TypeError, SyntaxError, ValueError) as error:
        return str(error)
    return ""


def read(of: Lesson) -> dict[str, str]:
    """The kept answers of a lesson, exercise number -> source; empty where there is no file.

    Raises AnswersError for one that cannot be read.
    """
    path = answers_folder() / f"{of.name}.py"
    if not path.exists():
        return {}
    try:
        parts = SECTION.split(path.read_text(encoding="utf-8"))[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise AnswersError(f"{path} cannot be read ({error}): mend it, or move it away") from None
    return {number: source.strip("\n") for number, _, source in zip(*[iter(parts)] * 3, strict=True)}


def load(exercise: Exercise, source: str) -> Callable | None:
    """The kept function, or None where its source no longer runs."""
    name = f"<your answer {exercise.number}>"
    # Runs the learner's own code, from the learner's own folder.
    namespace: dict[str, Any] = {"__name__": f"answer_{exercise.number}"}
    try:
        exec(compile(source, name, "exec"), namespace)
    except Exception:
        return None
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for tracebacks
    return namespace.get(exercise.name)


def _write_section(of: Lesson, exercise: Exercise, source: str) -> None:
    """Rewrite the lesson's file with this section replaced; written aside first, so that nothing is lost."""
    folder = answers_folder()
    folder.mkdir(parents=True, exist_ok=True)
    titles = {exercise.number: exercise.name}
    path = folder / f"{of.name}.py"
    sections = read(of) | {exercise.number: source}
    if path.exists():
        titles |= dict(SECTION.findall(path.read_text(encoding="utf-8"))) | titles
    ordered = sorted(sections, key=lambda number: [int(part) for part in number.split(".")])
    text = "\n\n".join(f"# %% {number} {titles[number]}\n{sections[number]}\n" for number in ordered)
    aside = path.with_suffix(".tmp")
    aside.write_text(f"# My answers to lesson {of.name}, kept by llmkit.\n\n{text}", encoding="utf-8")
    aside.replace(path)


def standalone_source(function: Callable) -> str:
    """Source that defines `function` on its own: with the imports, constants and helpers it uses.

    Raises ValueError naming what it uses and cannot be written down, OSError where there is no source.
    """
    needed: dict[str, str] = {}
    _collect(function.__name__, function, needed)
    return "\n\n".join(needed.values())


def _collect(name: str, value: Any, needed: dict[str, str]) -> None:
    if name in needed:
        return
    if isinstance(value, types.ModuleType):
        needed[name] = f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
    elif isinstance(value, types.FunctionType | type) and _is_own(value):
        source = textwrap.dedent(_source(value))
        needed[name] = ""  # so that a function that calls itself ends here
        for used in sorted(names(source)[1]):
            namespace = getattr(value, "__globals__", None) or vars(sys.modules[value.__module__])
            if used != name and used in namespace:
                _collect(used, namespace[used], needed)
        del needed[name]
        needed[name] = source.rstrip()
    elif hasattr(value, "__module__") and hasattr(value, "__qualname__"):
        alias = f" as {name}" if name != value.__qualname__ else ""
        needed[name] = f"from {value.__module__} import {value.__qualname__}{alias}"
    elif _survives_repr(value):
        needed[name] = f"{name} = {value!r}"
    elif home := _home_of(name, value):
        needed[name] = f"from {home} import {name}"
    else:
        raise ValueError(f"it uses {name!r} ({type(value).__name__}), which cannot be written down; pass it in")


def _source(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        if not isinstance(value, type):
            raise
    # inspect looks for a class in its module's file, which a notebook does not have: here are the cells, newest first
    for entry in reversed([entry for entry in linecache.cache.values() if len(entry) == 4 and entry[1] is None]):
        try:
            cell = ast.parse("".join(entry[2])).body
        except SyntaxError:
            continue
        for node in cell:
            if isinstance(node, ast.ClassDef) and node.name == value.__name__:
                start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return "".join(entry[2][start - 1 : node.end_lineno])
    raise OSError(f"the source of the class {value.__name__} is not available")


def _is_own(value: Any) -> bool:
    """Written by the learner (in a cell or a loaded answer), not imported from a package."""
    return value.__module__ == "__main__" or value.__module__.startswith("answer_")


def _home_of(name: str, value: Any) -> str | None:
    """The module of llmkit that has this very object under this name: constants such as CAUSAL, types such as Mask."""
    for module_name, module in sorted(sys.modules.items()):
        if module_name.startswith("llmkit.") and vars(module).get(name) is value:
            return module_name
    return None


def _survives_repr(value: Any) -> bool:
    try:
        return ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError):
        return False
