"""Pretraining in pictures: what lies in packed rows, and a run that was interrupted."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from llmkit.data.packing import PADDING, Packed
from llmkit.viz.style import COLORS

TINTS = ("#9EC9E2", "#F6D58E", "#8FD1B9", "#E8B4D0")  # of documents that are neighbours


def draw_packed(axis: Axes, packed: Packed, rows: Sequence[int]) -> None:
    """Some rows as strips: neighbouring documents in different tints, padding in dark grey."""
    documents = packed.documents[list(rows)].numpy()
    shown, tint = np.zeros(documents.shape), {}
    for row, column in np.ndindex(documents.shape):
        number = int(documents[row, column])
        if number != PADDING and number not in tint:
            tint[number] = len(tint) % len(TINTS)
        shown[row, column] = len(TINTS) if number == PADDING else tint[number]
    axis.imshow(shown, aspect="auto", cmap=ListedColormap([*TINTS, "#555555"]), vmin=0, vmax=len(TINTS),
                interpolation="nearest")  # fmt: skip
    axis.hlines(np.arange(0.5, len(documents) - 1), -0.5, documents.shape[1] - 0.5, color="white", linewidth=3)
    axis.set(xlabel="token of the row", yticks=range(len(documents)), yticklabels=rows)
    axis.grid(False)


def draw_resumed(axis: Axes, whole: Sequence[float], before: Sequence[float], after: Sequence[float], at: int) -> None:
    """Losses by step of a run that was never interrupted, and of one that died and went on from step `at`.

    before   the dead run's losses, from step 1
    after    those of the run that resumed it, from step at + 1
    """
    axis.plot(range(1, len(whole) + 1), whole, color=COLORS["control"], linewidth=6, alpha=0.5)
    axis.plot(range(1, len(before) + 1), before, color=COLORS["model"], linewidth=1.5)
    axis.plot(range(at + 1, at + len(after) + 1), after, color=COLORS["bad"], linewidth=1.5)
    axis.plot(len(before), before[-1], "X", color=COLORS["truth"], markersize=9, zorder=4)
    axis.axvline(at + 0.5, color=COLORS["truth"], linewidth=0.8, linestyle=":")
    axis.set(xlabel="step", ylabel="training loss (nats a token)")
