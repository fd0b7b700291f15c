"""Measure things side by side."""

import sys
import time
from collections.abc import Callable

REPORTS: list[dict] = []  # what `report` was told, for benchmarks/results/speed.py


def whole_numbers(usage: str) -> list[int]:
    """The command line's; anything else, --help too, ends the script with `usage`."""
    if not all(word.isdecimal() for word in sys.argv[1:]):
        sys.exit(usage)
    return [int(word) for word in sys.argv[1:]]


def interleaved(*functions: Callable, repeats: int = 7) -> list[float]:
    """The shortest time of each in seconds; they take turns, after one run each to warm up."""
    for function in functions:
        function()
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def report(name: str, ours: float, theirs: float, required: float, names: tuple = ("llmkit", "transformers")) -> None:
    """One line; a ratio above 1 means that the first is faster."""
    ratio = theirs / ours
    REPORTS.append({"name": name, "ours": names[0], "peer": names[1], "ratio": round(ratio, 3), "required": required})
    verdict = "ok" if ratio >= required else f"below {required:.1f}x"
    print(f"{name:44} {names[0]} {ours:8.4f} s   {names[1]} {theirs:8.4f} s   {ratio:.2f}x  {verdict}")
