"""Policies in pictures: the plane of KL and reward."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from llmkit.viz.style import COLORS


def draw_plane(
    axis: Axes, kl: Sequence[float], reward: Sequence[float], paths: Mapping[str, tuple[Sequence, Sequence, str, tuple]]
) -> None:
    """The line of the best policies, which nothing crosses, and under it others' paths, a ring at the end of each.

    kl, reward   of the best policies, nats and reward an answer, in the order of KL
    paths        name -> (KLs, rewards, colour, where the name stands: points right of and above the last place)
    """
    top = max(reward) + 0.2 * (max(reward) - min(reward))
    axis.plot(kl, reward, color=COLORS["truth"], linewidth=1.5)
    axis.fill_between(kl, reward, top, color=COLORS["masked"], alpha=0.6, linewidth=0)
    axis.text(kl[0], 0.95 * top + 0.05 * min(reward), " no policy is here", fontsize=9, color="#555555", va="center")
    for name, (x, y, color, offset) in paths.items():
        axis.plot(x, y, "o-", color=color, markersize=3.5, linewidth=1.2)
        axis.plot(x[-1:], y[-1:], "o", color=color, markersize=8, fillstyle="none", zorder=4)
        axis.annotate(name, (x[-1], y[-1]), offset, textcoords="offset points", color=color, fontsize=9)
    axis.set(xlabel="KL(policy || reference), nats an answer", ylabel="mean reward", ylim=(None, top))


def draw_runs(
    axis: Axes, lines: Mapping[str, tuple[Sequence[Sequence[tuple[float, float]]], str]], label: bool
) -> None:
    """Several seeds of several methods: name -> (one list of (x, y) a seed, colour); the mean is drawn bold.

    With `label` each name stands at the end of its mean, moved apart where two would touch.
    """
    ends = []
    for name, (seeds, color) in lines.items():
        for points in seeds:
            axis.plot(*zip(*points, strict=True), color=color, linewidth=0.8, alpha=0.45)
        x = [point[0] for point in seeds[0]]
        y = [sum(points[i][1] for points in seeds) / len(seeds) for i in range(len(x))]
        axis.plot(x, y, color=color, linewidth=2)
        ends.append((y[-1], x[-1], name, color))
    low, high = axis.get_ylim()
    room, at = 0.075 * (high - low), -float("inf")
    for y, x, name, color in sorted(ends) if label else ():
        at = max(y, at + room)
        axis.text(x, at, f" {name}", color=color, fontsize=8.5, va="center")


def draw_paths(axis: Axes, paths: Mapping[str, tuple[Sequence[Sequence[tuple[float, float]]], str]]) -> None:
    """Ways through a plane: name -> (one list of (x, y) for each of up to three seeds, colour).

    The shape at the end is the seed's.
    """
    kinds = (("-", "o", "●"), ("--", "s", "■"), (":", "^", "▲"))[: max(len(seeds) for seeds, _ in paths.values())]
    for row, (name, (seeds, color)) in enumerate(paths.items()):
        for points, (style, end, _) in zip(seeds, kinds, strict=True):
            axis.plot(*zip(*points, strict=True), style, marker=".", color=color, linewidth=1, markersize=3, alpha=0.7)
            axis.plot(*points[-1], end, color=color, markersize=8, markeredgecolor="white", zorder=4)
        axis.text(0.98, 0.94 - 0.08 * row, name, color=color, fontsize=9, ha="right", transform=axis.transAxes)
    key = "ends of\n" + "\n".join(f"{shape} seed {seed}" for seed, (_, _, shape) in enumerate(kinds))
    axis.text(0.03, 0.03, key, color="#555555", fontsize=8.5, transform=axis.transAxes)


def draw_two_measures(axis: Axes, rows: Mapping[str, tuple[Sequence[float], Sequence[float], str]]) -> None:
    """What each method gained by the reward model and in truth: name -> (proxies, true scores, colour), one a seed.

    A method that is liked and no better lies far to the right and no higher than the first.
    """
    for name, (proxy, true, color) in rows.items():
        axis.plot(proxy, true, "o", color=color, markersize=5, alpha=0.8)
        right = max(range(len(proxy)), key=lambda i: proxy[i])
        axis.annotate(name, (proxy[right], true[right]), (7, 0), textcoords="offset points", va="center",
                      color=color, fontsize=8.5)  # fmt: skip
    axis.set(xlabel="proxy: mean score of the reward model", ylabel="mean true score")
