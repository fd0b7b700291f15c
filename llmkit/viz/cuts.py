"""How a word is cut into pieces, as drawings: the tree of BPE's merges, the lattice of Unigram, a row of boxes."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Arc

from llmkit.viz.style import COLORS


def draw_merge_tree(axis: Axes, word: str, merges: Sequence[tuple[str, str]]) -> None:
    """Draw how merges put a word together: letters below, each merge above its two parts, with its number.

    merges   pairs of pieces in the order of learning
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    nodes = [(float(i), 0.0, letter) for i, letter in enumerate(word)]  # x, height, piece
    for x, _, letter in nodes:
        axis.text(x, 0, letter.replace(" ", "␣"), ha="center", va="center", family="DejaVu Sans Mono")
    while possible := [
        (ranks[a[2], b[2]], i) for i, (a, b) in enumerate(zip(nodes, nodes[1:], strict=False)) if (a[2], b[2]) in ranks
    ]:
        rank, i = min(possible)
        left, right = nodes[i], nodes[i + 1]
        x, y, piece = (left[0] + right[0]) / 2, max(left[1], right[1]) + 1.0, left[2] + right[2]
        for child in (left, right):
            axis.plot([child[0], x], [child[1] + 0.25, y - 0.25], color=COLORS["control"], linewidth=1.2, zorder=0)
        axis.text(x, y, piece.replace(" ", "␣"), ha="center", va="center", family="DejaVu Sans Mono", fontsize=9,
                  bbox={"facecolor": "#DCEAF5", "edgecolor": "none", "pad": 2})  # fmt: skip
        beside = x + 0.2 + 0.16 * len(piece)
        axis.text(beside, y + 0.12, f"{rank + 1}", ha="left", va="bottom", fontsize=7, color="#666666")
        nodes[i : i + 2] = [(x, y, piece)]
    axis.set(xlim=(-0.7, len(word) - 0.3), ylim=(-0.5, max(node[1] for node in nodes) + 0.9))
    axis.axis("off")


def draw_lattice(axis: Axes, word: str, log_probs: Mapping[str, float], best: Sequence[str]) -> None:
    """Draw every piece of a word as an arc from where it begins to where it ends; the best cut in colour.

    log_probs  piece -> log P (nats); an arc is the darker, the more probable its piece
    """
    chosen, at = set(), 0
    for piece in best:
        chosen.add((at, at + len(piece)))
        at += len(piece)
    for i, letter in enumerate(word):
        axis.text(i + 0.5, -0.16, letter, ha="center", va="top", family="DejaVu Sans Mono", fontsize=11)
    axis.plot(range(len(word) + 1), [0] * (len(word) + 1), "o", color="black", markersize=4)
    top = 0.0
    for i in range(len(word)):
        for j in range(i + 1, len(word) + 1):
            if word[i:j] not in log_probs:
                continue
            height = 0.55 + 0.42 * (j - i)
            is_best = (i, j) in chosen
            arc = Arc(((i + j) / 2, 0), j - i, 2 * height, theta1=0, theta2=180)
            strength = 1.0 if is_best else max(0.15, min(0.7, math.exp((log_probs[word[i:j]] + 3) / 4)))
            arc.set(color=COLORS["good"] if is_best else COLORS["control"], alpha=strength)
            arc.set(linewidth=2.6 if is_best else 1.2)
            axis.add_patch(arc)
            if is_best or j - i > 1:
                color = COLORS["good"] if is_best else COLORS["control"]
                label = f"{log_probs[word[i:j]]:.1f}"
                axis.text((i + j) / 2, height + 0.05, label, ha="center", va="bottom", fontsize=7, color=color)
                top = max(top, height)
    axis.set(xlim=(-0.2, len(word) + 0.2), ylim=(-0.9, top + 0.5))
    axis.axis("off")


def draw_boxes(axis: Axes, pieces: Sequence[str]) -> None:
    """Draw pieces as boxes in a row, each as wide as it is long; ## is set in grey."""
    at = 0.0
    for piece in pieces:
        mark, text = ("##", piece[2:]) if piece.startswith("##") else ("", piece)
        width = len(text)
        axis.barh(0, width - 0.12, 0.7, left=at + 0.06, color="#DCEAF5", edgecolor=COLORS["model"])
        axis.text(at + width / 2, 0, text, ha="center", va="center", family="DejaVu Sans Mono", fontsize=11)
        if mark and width > 2:
            axis.text(at + 0.12, 0.4, mark, ha="left", va="bottom", fontsize=7, color=COLORS["control"])
        at += width
    axis.set(xlim=(-0.2, at + 0.2), ylim=(-0.8, 1.1))
    axis.axis("off")
