"""Entities as a picture: words with the spans that a tagger found, and where it is wrong."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from llmkit.viz.style import COLORS, CYCLE, show

_WIDTH = 96  # characters in a line of monospaced type at notebook width
_Span = tuple[int, int, str]  # start, end, type: evaluation.spans.Span


def show_spans(
    rows: Sequence[tuple[str, Sequence[str], Sequence[_Span], Sequence[_Span]]], title: str, alt: str
) -> None:
    """Draw sentences, one a line, with the entities that were predicted and the errors among them.

    rows   (name, words, predicted spans, true spans); the name stands in bold above the first of the lines that have it

    A right span is a coloured box with its type below. A wrong one has a broken red border and above it the type that
    was claimed; a true span that was not found has a black line and says below what it is. The type is always written,
    so that the colour is never the only sign. Raises ValueError for a sentence of more than 96 characters.
    """
    types = sorted({span[2] for _, _, predicted, true in rows for span in (*predicted, *true)})
    colors = dict(zip(types, (CYCLE[5], CYCLE[1], CYCLE[2], CYCLE[4]) * len(types), strict=False))
    heights, y, before = [], 0.0, None
    for name, *_ in rows:
        y += 0.9 if name != before else 0.0
        heights.append(y)
        before, y = name, y + 2.05
    fig, axis = plt.subplots(figsize=(7.2, 0.235 * y + 0.45))
    before = None
    for (name, words, predicted, true), top in zip(rows, heights, strict=True):
        if name != before:
            axis.text(0, top - 1.25, name, fontsize=9, fontweight="bold", va="center")
        before = name
        _draw_sentence(axis, top, words, set(predicted), set(true), colors)
    axis.set(xlim=(-0.5, _WIDTH), ylim=(y - 0.8, -0.9), title=title)
    axis.axis("off")
    show(fig, alt)


def _draw_sentence(
    axis: Axes, y: float, words: Sequence[str], predicted: set[_Span], true: set[_Span], colors: dict[str, str]
) -> None:
    places, column = [], 0
    for word in words:
        places.append((column, column + len(word)))
        column += len(word) + 1
    if column > _WIDTH + 1:
        raise ValueError(f"a sentence of {column - 1} characters does not fit on a line of {_WIDTH}")
    for word, (left, right) in zip(words, places, strict=True):
        axis.text((left + right) / 2, y, word, family="DejaVu Sans Mono", fontsize=8.3, va="center", ha="center")

    def ends(span: _Span) -> tuple[int, int]:
        return places[span[0]][0], places[span[1] - 1][1]

    for span in predicted:
        left, right = ends(span)
        is_right = span in true
        box = plt.Rectangle((left - 0.35, y - 0.42), right - left + 0.7, 0.84, zorder=0, linewidth=1.3)
        box.set(facecolor=colors[span[2]] if is_right else "none", alpha=0.55 if is_right else None)
        box.set(edgecolor="none" if is_right else COLORS["bad"], linestyle="-" if is_right else (0, (3, 2)))
        axis.add_patch(box)
        if is_right:
            axis.text(left, y + 0.72, span[2], fontsize=6.5, va="center", color="#333333")
        else:
            axis.text(left, y - 0.72, span[2], fontsize=6.5, va="center", color=COLORS["bad"])
    for span in true - predicted:
        left, right = ends(span)
        axis.plot([left, right], [y + 0.46, y + 0.46], color="black", linewidth=1.4, solid_capstyle="butt")
        axis.text(left, y + 0.76, f"is {span[2]}", fontsize=6.5, va="center")
