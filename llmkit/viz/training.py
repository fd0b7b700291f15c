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
    left = min(min(x) for x, _ in curves.values())
    labels = []  # (height, text, color): written at the end, where they would otherwise stand on each other
    for name, value in (baselines or {}).items():
        axis.plot([left, right], [value, value], color=COLORS["control"], linewidth=1.2, linestyle="--", zorder=1)
        labels.append((value, name, "#666666"))
    for name, (x, y) in curves.items():
        if len(x) != len(y):
            raise ValueError(f"{name}: {len(x)} points on x and {len(y)} on y")
        (line,) = axis.plot(x, y, color=(colors or {}).get(name))
        labels.append((y[-1], name, line.get_color()))
    if entropy is not None:
        axis.plot([left, right], [entropy, entropy], color=COLORS["truth"], linewidth=1.5, zorder=1)
        labels.append((entropy, "entropy", COLORS["truth"]))
    heights = [value for _, y in curves.values() for value in y] + [height for height, _, _ in labels]
    apart, lowest = 0.06 * (max(heights) - min(heights)), -float("inf")
    for height, text, color in sorted(label for label in labels if label[1]):
        lowest = max(height, lowest + apart)
        axis.text(right, lowest, f" {text}", color=color, va="center", fontsize=9)
