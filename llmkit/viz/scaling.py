"""Scaling laws in pictures: a parabola for each budget, how little a fit knows, where the best learning rate lies."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from llmkit.training.isoflop import isoflop_minimum
from llmkit.training.scaling import Law, interval
from llmkit.viz.style import COLORS, SEQUENTIAL


def draw_isoflop(axis: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], entropy: float) -> None:
    """For each budget (its name -> parameters, losses) the points, their parabola and its minimum as a star.

    A hollow star is a minimum outside the sizes that were trained. Raises ValueError as isoflop_minimum does.
    """
    for (name, (n_params, losses)), color in zip(curves.items(), _shades(len(curves)), strict=True):
        best = isoflop_minimum(n_params, losses)
        x = np.geomspace(min(*n_params, best.n_params), max(*n_params, best.n_params), 60)
        axis.plot(x, [best.at(n) for n in x], color=color, linewidth=1.5)
        axis.plot(n_params, losses, "o", color=color, markersize=5)
        axis.plot(best.n_params, best.loss, "*", color=color, markersize=14, markeredgewidth=1.2,
                  markerfacecolor=color if best.inside else "white", markeredgecolor="black", zorder=3)  # fmt: skip
        last = int(np.argmax(n_params))
        axis.annotate(name, (n_params[last], losses[last]), xytext=(6, 0), textcoords="offset points", color=color,
                      va="center", fontsize=9)  # fmt: skip
    _entropy_line(axis, entropy)
    axis.set_xscale("log")
    axis.set(xlabel="parameters N", ylabel="held-out loss (nats a token)")


def draw_law(axis: Axes, law: Law, laws: Sequence[Law], budgets: Sequence[float], losses: Sequence[float],
             entropy: float, flops: float = 6.0, level: float = 0.95) -> None:  # fmt: skip
    """The loss of the best size at each budget: law, interval of bootstrapped laws, fitted E and the true entropy.

    budgets, losses   the lowest loss that was measured at each budget (FLOPs)
    flops             training costs flops * N * D, as in Law.optimal
    """
    x = np.geomspace(min(budgets) / 2, max(budgets) * 1e4, 80)
    curves = np.array([[one.loss(*one.optimal(c, flops)) for c in x] for one in laws])
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    axis.fill_between(x, low, high, color=COLORS["model"], alpha=0.2, linewidth=0)
    axis.plot(x, [law.loss(*law.optimal(c, flops)) for c in x], color=COLORS["model"])
    axis.plot(budgets, losses, "o", color=COLORS["model"], zorder=3)
    bottom, top = interval([one.E for one in laws], level)
    beyond = x[-1] * 3
    axis.errorbar(beyond, law.E, [[max(0.0, law.E - bottom)], [max(0.0, top - law.E)]], fmt="s", capsize=4,
                  color=COLORS["model"], markersize=5)  # fmt: skip
    axis.annotate("fitted E", (beyond, law.E), xytext=(7, 4), textcoords="offset points", fontsize=9,
                  color=COLORS["model"])  # fmt: skip
    _entropy_line(axis, entropy)
    axis.set_xscale("log")
    axis.set(xlabel="training budget (FLOPs)", ylabel="loss of the best size (nats a token)")


def draw_learning_rates(axis: Axes, curves: Mapping[int, tuple[Sequence[float], Sequence[float]]],
                        names: bool = True) -> None:  # fmt: skip
    """For each width (-> learning rates, losses) a curve, dark for narrow and bright for wide, its best rate marked.

    names   write the widths at the right ends
    """
    for (width, (rates, losses)), color in zip(curves.items(), _shades(len(curves)), strict=True):
        axis.plot(rates, losses, "o-", color=color, linewidth=1.5, markersize=4)
        best = int(np.argmin(losses))
        axis.plot(rates[best], losses[best], "*", color=color, markersize=14, markeredgecolor="black", zorder=3)
        if names:
            axis.annotate(str(width), (rates[-1], losses[-1]), xytext=(6, 0), textcoords="offset points", color=color,
                          va="center", fontsize=9)  # fmt: skip
    axis.set_xscale("log", base=2)
    every = sorted({rate for rates, _ in curves.values() for rate in rates})
    axis.set_xticks(every, [f"{rate:.3g}" for rate in every])
    axis.set(xlabel="learning rate", ylabel="held-out loss (nats a token)")


def draw_coordinates(axis: Axes, widths: Sequence[int], moves: Mapping[str, Sequence[float]]) -> None:
    """How far each layer's output has moved, by width: flat lines mean that the width does not matter.

    moves   layer -> one number a width
    """
    for (layer, values), color in zip(moves.items(), _shades(len(moves)), strict=True):
        axis.plot(widths, values, "o-", color=color, linewidth=1.5, markersize=4, label=layer)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(widths, [str(width) for width in widths])
    axis.set(xlabel="width", ylabel="root mean square of the change")


def _shades(n: int) -> list:
    """From dark to bright, without the brightest, which is hard to see on white."""
    return [colormaps[SEQUENTIAL](0.72 * i / max(1, n - 1)) for i in range(n)]


def _entropy_line(axis: Axes, entropy: float) -> None:
    axis.axhline(entropy, color=COLORS["truth"], linewidth=1.5, zorder=1)
    axis.annotate("true entropy", (0, entropy), xycoords=("axes fraction", "data"), xytext=(3, 3),
                  textcoords="offset points", fontsize=9)  # fmt: skip
