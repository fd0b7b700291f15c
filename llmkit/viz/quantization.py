"""Rounded weights in pictures: what bits cost, which layers lose, which channels stand out; and intervals."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from llmkit.viz.style import COLORS

GREY_TEXT = "#666666"  # COLORS["control"] is too pale for words
STYLES = {"nearest": (COLORS["control"], "o-"), "gptq": (COLORS["model"], "s-")}


def draw_bits(axis: Axes, curves: Mapping[str, Mapping[float, float]], whole: float, names: Mapping[str, str]) -> None:
    """Held-out bits a byte against bits a weight, a curve for each way of rounding.

    curves   way -> bits a weight -> bits a byte
    whole    bits a byte of the model as it was trained
    names    way -> what is written beside its curve's first point: the highest curve's name on the right
    """
    least = min(min(points) for points in curves.values())
    highest = max(curves, key=lambda way: curves[way][least])
    for way, points in curves.items():
        color, style = STYLES[way]
        axis.plot(sorted(points), [points[bits] for bits in sorted(points)], style, color=color, markersize=5)
        name_color = GREY_TEXT if color == COLORS["control"] else color
        side, ha = (8, "left") if way == highest else (-8, "right")
        axis.annotate(names[way], (least, points[least]), (side, 0), textcoords="offset points", ha=ha, va="center",
                      color=name_color, fontsize=9)  # fmt: skip
    axis.axhline(whole, color=COLORS["truth"], linestyle="--", linewidth=1)
    most = max(max(points) for points in curves.values())
    axis.annotate("32 bits a weight", (most, whole), (0, -5), textcoords="offset points", fontsize=8, ha="right",
                  va="top")  # fmt: skip
    axis.set(xlabel="bits a weight, scales included", ylabel="held-out bits a byte")
    axis.set_ylim(bottom=whole - 0.15 * (axis.get_ylim()[1] - whole))  # room for the words under the line
    axis.set_xlim(left=least - 0.12 * (most - least))


def draw_layer_errors(axis: Axes, names: Sequence[str], errors: Mapping[str, Sequence[float]]) -> None:
    """A row for each matrix: what its product loses, as a share of its length, with each way of rounding."""
    places = range(len(names))
    for way, values in errors.items():
        color, style = STYLES[way]
        axis.plot(values, places, style[0], color=color, markersize=6)
    for y, pair in zip(places, zip(*errors.values(), strict=True), strict=True):
        axis.plot([min(pair), max(pair)], [y, y], color=COLORS["masked"], linewidth=2, zorder=1)
    axis.set_yticks(list(places), names, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="error of the product", xlim=(0, None))


def draw_channels(
    axis: Axes, before: Sequence[float], after: Sequence[float], chosen: Sequence[int], names: tuple[str, str]
) -> None:
    """Root mean square of each channel, in a model and in one that computes the same with a few channels blown up.

    names   what is written beside the bars of the first model, and beside the tallest of the second
    """
    axis.bar(range(len(after)), after, color=COLORS["bad"], width=1.0)
    axis.bar(range(len(before)), before, color=COLORS["control"], width=1.0)
    for channel in chosen:
        axis.annotate(f"{channel}", (channel, after[channel]), (0, 2), textcoords="offset points", ha="center",
                      fontsize=8, color=COLORS["bad"])  # fmt: skip
    tallest = max(chosen, key=lambda channel: after[channel])
    axis.annotate(names[1], (tallest, after[tallest]), (8, -4), textcoords="offset points", va="top", fontsize=9,
                  color=COLORS["bad"])  # fmt: skip
    axis.annotate(names[0], (len(before) - 1, max(before)), (0, 4), textcoords="offset points", ha="right", fontsize=9,
                  color=GREY_TEXT)  # fmt: skip
    axis.set(xlabel="channel", ylabel="root mean square", ylim=(0, 1.15 * max(after)))  # room for the numbers


def draw_intervals(axis: Axes, rows: Mapping[str, tuple[float, float, float]], colors: Mapping[str, str]) -> None:
    """A row for each (estimate, low, high), its name on the left, its numbers over it; a line where nothing differs."""
    for y, (name, (estimate, low, high)) in enumerate(rows.items()):
        axis.plot([low, high], [y, y], color=colors[name], linewidth=8, solid_capstyle="butt")
        axis.plot(estimate, y, "|", color="black", markersize=8, markeredgewidth=1)
        axis.annotate(f"{estimate:.2f}, from {low:.2f} to {high:.2f}", (estimate, y), (5, 7), fontsize=8,
                      textcoords="offset points")  # fmt: skip
    axis.axvline(0, color=COLORS["truth"], linestyle="--", linewidth=1)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=9)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.invert_yaxis()
