"""Training with a verifier in pictures: the same measure under several rewards, and pass@k."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

Curve = tuple[Sequence[float], Sequence[float]]  # x, y


def draw_seeds(axis: Axes, arms: Mapping[str, Sequence[Curve]], colors: Mapping[str, str], apart: float = 0.07) -> None:
    """One colour an arm: a thin line for each seed, their mean as a thick one, the arm's name at its end.

    arms    name -> one curve a seed, all over the same x
    apart   least distance of two names, as a share of the axis' height; y goes from 0 to 1

    Raises ValueError for an arm whose curves do not share x.
    """
    ends = []
    for name, curves in arms.items():
        x = list(curves[0][0])
        if any(list(other) != x or len(y) != len(x) for other, y in curves):
            raise ValueError(f"{name}: the curves of an arm must have the same x, and a y for each")
        mean = [sum(y[i] for _, y in curves) / len(curves) for i in range(len(x))]
        for _, y in curves:
            axis.plot(x, y, color=colors[name], linewidth=0.8, alpha=0.5)
        axis.plot(x, mean, color=colors[name], linewidth=2.2)
        ends.append((mean[-1], x[-1], name))
    lowest = -float("inf")
    for height, right, name in sorted(ends):
        lowest = max(height, lowest + apart)
        axis.text(right, lowest, f" {name}", color=colors[name], fontsize=9, va="center")
    axis.set(ylim=(-0.03, 1.05))


def draw_pass_at_k(axis: Axes, rates: Mapping[str, Curve], colors: Mapping[str, str]) -> None:
    """pass@k against k, which doubles from tick to tick; the name of each curve stands beside its third point."""
    for name, (k, rate) in rates.items():
        axis.plot(k, rate, "o-", color=colors[name], markersize=4)
        spot = k[min(2, len(k) - 1)], rate[min(2, len(k) - 1)]
        axis.annotate(name, spot, (7, -13), textcoords="offset points", color=colors[name], fontsize=9)
    axis.set_xscale("log", base=2)
    axis.set_xticks(k, [str(value) for value in k])
    axis.set(xlabel="k, answers drawn for each problem", ylabel="a right one is among them", ylim=(0, 1.05))
