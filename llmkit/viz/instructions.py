"""Conversations and who follows instructions: tokens coloured by what is learnt, dots by family."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from llmkit.viz.style import COLORS, show

_WIDTH = 84  # characters in a line
_TINTS = {"text": "#EEEEEE", "control": "#FFFFFF", "learnt": "#BBD9EE"}


def show_mask(tokens: Sequence[str], learnt: Sequence[int], control: Sequence[int], title: str, alt: str) -> None:
    """Draw a conversation token by token: blue where it is learnt, grey where it is only read, framed where control.

    learnt, control   0 or 1 for each token. Raises ValueError where the lengths differ.
    """
    if not len(tokens) == len(learnt) == len(control):
        raise ValueError(f"{len(tokens)} tokens, {len(learnt)} and {len(control)} marks: each token needs one of both")
    placed, row, column = [], 0, 0.0
    for token in tokens:
        words = token.replace("\n", "⏎")
        if column + len(words) > _WIDTH:
            row, column = row + 1, 0.0
        placed.append((row, column, words))
        column += len(words) + 0.5
        if token.endswith("\n"):
            row, column = row + 1, 0.0
    n_rows = max(at for at, _, _ in placed) + 1
    fig, axis = plt.subplots(figsize=(7.2, 0.28 * n_rows + 0.6))
    for (at, left, words), mine, sign in zip(placed, learnt, control, strict=True):
        tint = _TINTS["learnt" if mine else "control" if sign else "text"]
        box = plt.Rectangle((left, at - 0.42), len(words) + 0.3, 0.84, facecolor=tint)
        box.set(edgecolor="#555555" if sign else "none", linewidth=0.7)
        axis.add_patch(box)
        axis.text(left + 0.15, at, words, family="DejaVu Sans Mono", fontsize=8.3, va="center", ha="left")
    axis.set(xlim=(-0.5, _WIDTH + 2), ylim=(n_rows - 0.4, -0.6), title=title)
    axis.axis("off")
    show(fig, alt)


def draw_families(axis: Axes, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Accuracy by family, one line a family: name of a series -> family -> (share, low, high); two series or
    three.

    Families come from the best to the worst of the last series but one; of three, the first is the control.
    """
    names = list(rows)
    order = sorted(rows[names[-2]], key=lambda family: rows[names[-2]][family][0])
    styles = ((COLORS["control"], "s", 0.0), (COLORS["model"], "o", 0.14), (COLORS["key"], "D", -0.14))[-len(names) :]
    for name, (color, marker, shift) in zip(names, styles, strict=True):
        for height, family in enumerate(order):
            if family in rows[name]:
                share, low, high = rows[name][family]
                axis.plot([low, high], [height + shift] * 2, color=color, linewidth=1.6)
                axis.plot(share, height + shift, marker, color=color, markersize=5)
        axis.plot([], [], marker, color=color, label=name)
    axis.set_yticks(range(len(order)), order)
    axis.set(xlim=(-0.03, 1.03), xlabel="share of replies that are right")
    axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, fontsize=8.5)
