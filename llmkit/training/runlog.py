"""A run's figures as lines of JSON, in memory and in a file that a killed process cannot spoil."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmkit.training.progress import tqdm


class RunLog:
    """folder/metrics.jsonl, one object a line with "step" in each; None as folder keeps the lines in memory only.

    listeners   called with each line as it is written, such as viz.live.LivePlot

    A line that was cut off by a kill is dropped when the file is read again.
    """

    def __init__(self, folder: Path | None):
        self.path = folder / "metrics.jsonl" if folder is not None else None
        self.lines: list[dict[str, Any]] = []
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, line: dict[str, Any]) -> None:
        """Add one line."""
        self.lines.append(line)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        for listener in self.listeners:
            listener(line)

    def warn(self, text: str) -> None:
        """Say it where a progress bar is drawn, and keep it in the log."""
        tqdm.write(text)
        self.write({"warning": text})

    def cut_after(self, step: int) -> None:
        """Keep the file's lines up to a step: what came later is trained, and written, again."""
        if self.path is None or not self.path.exists():
            self.lines = [line for line in self.lines if line.get("step", 0) <= step]
            return
        self.lines = [line for line in read_log(self.path) if line.get("step", 0) <= step]
        aside = self.path.with_name(self.path.name + ".partial")
        aside.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        os.replace(aside, self.path)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one that is cut off is passed over."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
