"""Fine-tuning in pictures: learning rates, learnt against forgotten, the directions of a change."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from llmkit.viz.style import COLORS, CYCLE

KINDS = {"full": CYCLE[0], "lora": CYCLE[3], "attention": COLORS["control"]}


def draw_rates(axis: Axes, curves: Mapping[str, Mapping[float, Sequence[float]]], names: Mapping[str, str]) -> None:
    """For each kind the held-out loss at each learning rate: a dot a seed, a line through the means, the best marked.

    curves   kind -> learning rate -> one loss a seed
    names    kind -> what is written beside its curve
    """
    for kind, points in curves.items():
        rates, color = sorted(points), KINDS[kind]
        means = [np.mean(points[rate]) for rate in rates]
        axis.plot(rates, means, color=color)
        for rate in rates:
            axis.plot([rate] * len(points[rate]), points[rate], "o", color=color, markersize=4, alpha=0.7)
        best = int(np.argmin(means))
        axis.plot(rates[best], means[best], "*", color=color, markersize=14, markeredgecolor="black", zorder=3)
        high = 0 if means[0] >= means[-1] else -1  # the end of the curve that stands apart
        axis.annotate(names[kind], (rates[high], means[high]), xytext=(-8, 0) if high else (0, 8), color=color,
                      textcoords="offset points", ha="right" if high else "left", fontsize=9)  # fmt: skip
    axis.set_xscale("log")
    axis.set(xlabel="learning rate at its peak", ylabel="held-out code (bits a byte)")


def draw_frontier(axis: Axes, groups: Mapping[str, tuple[str, str, Sequence[tuple[float, float]]]],
                  base: tuple[float, float], perfect: float) -> None:  # fmt: skip
    """Learnt against forgotten: (code, stories) in bits a byte, both better towards the lower left.

    groups    what is written beside -> (kind, marker, points in the order of a line through them)
    base      where tuning began
    perfect   what the source of the stories loses itself
    """
    for name, (kind, marker, points) in groups.items():
        x, y = zip(*points, strict=True)
        hollow = {"markerfacecolor": "white"} if marker != "o" else {}
        axis.plot(x, y, marker + "-", color=KINDS[kind], markersize=6, linewidth=1, label=name, **hollow)
    axis.plot(*base, "D", color=COLORS["control"], markersize=7)
    axis.annotate("base", base, xytext=(-6, 6), textcoords="offset points", ha="right", fontsize=9)
    axis.axhline(perfect, color=COLORS["truth"], linestyle="--", linewidth=1)
    axis.annotate("the village itself", (base[0], perfect), xytext=(0, 3), textcoords="offset points", ha="right",
                  fontsize=8)  # fmt: skip
    axis.set(xlabel="held-out code (bits a byte): learnt to the left",
             ylabel="held-out stories (bits a byte):\nforgotten upwards")  # fmt: skip
    axis.legend(fontsize=8, loc="upper center", frameon=False)


def draw_energy(axis: Axes, changes: Mapping[str, Sequence[float]], random: Sequence[float], rank: int) -> None:
    """The share of each change that its r largest directions hold, for r = 1, 2, …, and that of a random matrix.

    changes   name -> rising shares, from `energy`; their names are not written, there are too many
    """
    for shares in changes.values():
        axis.plot(range(1, len(shares) + 1), shares, color=COLORS["model"], linewidth=0.9, alpha=0.6)
    axis.plot(range(1, len(random) + 1), random, color=COLORS["control"], linestyle="--")
    axis.axvline(rank, color=COLORS["bad"], linewidth=1)
    axis.annotate(f"rank {rank}", (rank, 0.04), xytext=(4, 0), textcoords="offset points", color=COLORS["bad"],
                  fontsize=9)  # fmt: skip
    middle = len(random) // 3
    axis.annotate("random matrix", (middle, random[middle]), xytext=(8, -12), textcoords="offset points",
                  color=COLORS["control"], fontsize=9)  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set(xlabel="directions r", ylabel="share of the change's squared size", ylim=(0, 1.03))
