"""Loss curves, with the line that no model can cross."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from llmkit.viz.style import COLORS

Curve = tuple[Sequence[float], Sequence[float]]  # x (steps, tokens, …), y


def smooth(values: Sequence[float], share: float = 0.9) -> list[float]:
    """An exponential running mean that starts at the first value without a lag: `share` is what is kept a step.

    >>> smooth([1.0, 2.0, 3.0], 0.5)
    [1.0, 1.6666666666666667, 2.4285714285714284]
    """
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = share * mean + (1 - share) * value, share * weight + (1 - share)
        smoothed.append(mean / weight)
    return smoothed


def draw_losses(
    axis: Axes,
    curves: Mapping[str, Curve],
    entropy: float | None = None,
    baselines: Mapping[str, float] | None = None,
    colors: Mapping[str, str] | None = None,
) -> None:
    """Curves with their names at their ends, grey lines for baselines, a black one for the exact entropy.

    Raises ValueError for a curve whose x and y differ in length.
    """
    right = max(max(x) for x, _ in curves.values())
    for name, value in (baselines or {}).items():
        axis.axhline(value, color=COLORS["control"], linewidth=1.2, linestyle="--", zorder=1)
        axis.text(right, value, f" {name}", color="#666666", va="center", fontsize=9)
    for name, (x, y) in curves.items():
        if len(x) != len(y):
            raise ValueError(f"{name}: {len(x)} points on x and {len(y)} on y")
        (line,) = axis.plot(x, y, color=(colors or {}).get(name))
        axis.text(right, y[-1], f" {name}", color=line.get_color(), va="center", fontsize=9)
    if entropy is not None:
        axis.axhline(entropy, color=COLORS["truth"], linewidth=1.5, zorder=1)
        axis.text(right, entropy, " entropy", color=COLORS["truth"], va="center", fontsize=9)
