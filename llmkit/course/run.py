"""Call a learner's function safely: with a time limit, its own traceback, and what it printed."""

import ctypes
import io
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

COURSE = str(Path(__file__).parent)


class OutOfTime(BaseException):
    """Raised inside the learner's code. A BaseException, so that `except Exception` does not swallow it."""


@dataclass
class Outcome:
    """What one call gave: a value (and gradients), or the exception that ended it."""

    value: Any = None
    gradients: list = field(default_factory=list)
    error: BaseException | None = None
    printed: str = ""

    @property
    def not_written(self) -> bool:
        """Raised by the stub, or bare by the learner; torch raises one too, for a kernel that a dtype does not have."""
        return isinstance(self.error, NotImplementedError) and str(self.error).partition(" ")[0] in ("", "exercise")


def call(function: Callable, arguments: tuple, time_limit: float = 10.0, gradients: bool = False) -> Outcome:
    """Call `function(*arguments)`; whatever it raises ends in the Outcome, not here."""
    outcome, printed = Outcome(), io.StringIO()
    try:
        with redirect_stdout(printed), _time_limit(time_limit):
            if gradients:
                outcome.value, outcome.gradients = _with_gradients(function, arguments)
            else:
                outcome.value = function(*arguments)
    except (Exception, OutOfTime, SystemExit) as error:
        outcome.error = error
    outcome.printed = printed.getvalue()
    return outcome


def _with_gradients(function: Callable, arguments: tuple) -> tuple[Any, list]:
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_(True)
    value = function(*arguments)
    if not (isinstance(value, torch.Tensor) and value.requires_grad):
        return value, [None] * len(leaves)
    # Uneven weights, so that errors in different places cannot cancel in the sum.
    weights = torch.arange(1, value.numel() + 1, dtype=value.dtype).view_as(value) / value.numel()
    gradients = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
    return value.detach(), list(gradients)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Stop the body after `seconds` by raising OutOfTime in its thread.

    Signals would stop C code too, but exist neither on Windows nor off the main thread. An exception set from
    a watchdog thread reaches every Python loop on every platform; one endless call inside C is beyond it.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    lock, finished = threading.Lock(), threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not finished.wait(max(deadline - time.monotonic(), 0.05)):
            with lock:
                if not finished.is_set():
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(OutOfTime))

    watchdog = threading.Thread(target=watch, daemon=True)
    watchdog.start()
    try:
        yield
    finally:
        with lock:
            finished.set()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # take back one that has not arrived yet


def own_traceback(error: BaseException, limit: int = 6) -> str:
    """The traceback without the course's frames, cells named "your cell".

    >>> def half(x): return x / 0
    >>> print(own_traceback(call(half, (1,)).error).splitlines()[-1])
    ZeroDivisionError: division by zero
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(COURSE)]
    lines = []
    for frame in frames[-limit:]:
        in_notebook = "ipykernel" in frame.filename or "<ipython-input" in frame.filename
        file = "your cell" if in_notebook else frame.filename
        lines.append(f"{file}, line {frame.lineno}, in {frame.name}")
        if frame.line:
            lines.append(f"    {frame.line}")
    if isinstance(error, OutOfTime):
        return "\n".join(lines)
    return "\n".join([*lines, *traceback.format_exception_only(type(error), error)]).rstrip()


def seconds(function: Callable, make: Callable[[], tuple], repeats: int = 3) -> float:
    """The shortest of a few runs: the one that other work on the machine disturbed least."""
    best = sys.float_info.max
    for _ in range(repeats):
        arguments = make()
        start = time.perf_counter()
        function(*arguments)
        best = min(best, time.perf_counter() - start)
    return best
