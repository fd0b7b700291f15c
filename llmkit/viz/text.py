"""Text as a picture: tokens coloured by a number."""

from collections.abc import Sequence

import matplotlib.pyplot as plt

from llmkit.viz.style import show

_WIDTH = 92  # characters in a line of monospaced type at notebook width


def show_tokens(
    tokens: Sequence[str], values: Sequence[float], title: str, alt: str, cmap: str = "Oranges", edges: bool = False
) -> None:
    """Draw tokens in reading order, the background of each coloured by its value.

    values  one number a token, 0 and up; the colour scale goes from 0 to the largest
    edges   a thin line around each token, for showing where a text was cut

    Raises ValueError where the numbers of tokens and values differ.
    """
    if len(tokens) != len(values):
        raise ValueError(f"{len(tokens)} tokens and {len(values)} values; one value a token was expected")
    lines: list[list[tuple[int, str, float]]] = [[]]
    column = 0
    for token, value in zip(tokens, values, strict=True):
        shown = token.replace("\n", "⏎")
        if column + len(shown) > _WIDTH:
            lines.append([])
            column, shown = 0, shown.lstrip(" ") if not edges else shown
        lines[-1].append((column, shown, value))
        column += len(shown)
    fig, axis = plt.subplots(figsize=(7.2, 0.27 * len(lines) + 0.75))
    colors, strongest = plt.get_cmap(cmap), 0.4 if edges else 0.75  # black type must stay readable on the strongest
    largest = max([*values, 1e-9])
    for row, line in enumerate(lines):
        for at, shown, value in line:
            box = plt.Rectangle((at, row - 0.44), len(shown), 0.88, facecolor=colors(strongest * value / largest))
            box.set(edgecolor="#888888" if edges else "none", linewidth=0.6)
            axis.add_patch(box)
            axis.text(at, row, shown, family="DejaVu Sans Mono", fontsize=8.6, va="center", ha="left")
    axis.set(xlim=(-0.5, _WIDTH), ylim=(len(lines) - 0.4, -0.6), title=title)
    axis.axis("off")
    if not edges:
        scale = plt.cm.ScalarMappable(plt.Normalize(0, largest / strongest), colors)
        bar = fig.colorbar(
            scale, ax=axis, orientation="horizontal", fraction=0.35 / (len(lines) + 2), aspect=60, pad=0.01
        )
        bar.set_ticks([0, largest / 2, largest], labels=["0", f"{largest / 2:.1f}", f"{largest:.1f}"], fontsize=8)
        bar.ax.set_xlim(0, largest)
    show(fig, alt)
