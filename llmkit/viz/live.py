"""A loss curve that grows while a notebook trains."""

import math
import time
from typing import Any

from IPython.display import display
from matplotlib import pyplot as plt

from llmkit.viz.style import COLORS, figure
from llmkit.viz.training import draw_losses, smooth


class LivePlot:
    """Draws a trainer's losses in the cell's output and replaces the drawing as lines arrive.

        trainer.log.listeners.append(LivePlot())

    entropy   the line that no model can cross, where it is known
    seconds   between two drawings; the last line of a run is drawn in any case when `show` is called
    """

    def __init__(self, entropy: float | None = None, seconds: float = 2.0):
        self.entropy, self.seconds = entropy, seconds
        self.training: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float]] = []
        self._handle, self._drawn = None, float("-inf")

    def __call__(self, line: dict[str, Any]) -> None:
        if math.isfinite(line.get("loss", math.nan)):  # the running mean would never forget a NaN
            self.training.append((line["step"], line["loss"]))
        if math.isfinite(line.get("validation_loss", math.nan)):
            self.validation.append((line["step"], line["validation_loss"]))
        if time.monotonic() - self._drawn > self.seconds:
            self.show()

    def show(self) -> None:
        """Draw what has arrived; nothing before the first loss."""
        if not self.training:
            return
        fig, axis = figure(height=2.8)
        steps, losses = zip(*self.training, strict=True)
        curves = {"training": (steps, smooth(losses, 0.8))}
        if self.validation:
            curves["held out"] = tuple(zip(*self.validation, strict=True))
        draw_losses(axis, curves, self.entropy, colors={"training": COLORS["control"], "held out": COLORS["model"]})
        axis.set(xlabel="step", ylabel="nats a token", title=f"step {steps[-1]}: training loss {losses[-1]:.3f}")
        if self._handle is None:
            self._handle = display(fig, display_id=True)
        else:
            self._handle.update(fig)
        plt.close(fig)
        self._drawn = time.monotonic()
