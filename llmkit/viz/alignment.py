"""Alignment in pictures: true reward against KL, under a frontier that is known exactly."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from llmkit.viz.style import COLORS


def draw_frontier(axis: Axes, kl: Sequence[float], reward: Sequence[float]) -> None:
    """The most reward that any policy can have at each KL (nats from the reference): nothing lies above this line."""
    axis.plot(kl, reward, color=COLORS["truth"], linewidth=1.4)
    axis.set(xlabel="KL from the reference (nats)", ylabel="mean reward", xlim=(0, None))


def draw_overoptimisation(axis: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float], str]]) -> None:
    """Lines of true reward against the root of KL: name -> (KL in nats, reward, colour). A dot marks each top.

    The root is the axis of Gao et al. 2023. A name stands above the end of its line; one that begins with "_" does not.
    """
    for name, (kl, reward, color) in curves.items():
        root = [max(x, 0.0) ** 0.5 for x in kl]
        axis.plot(root, reward, color=color, linewidth=1.6)
        top = max(range(len(reward)), key=lambda i: reward[i])
        axis.plot(root[top], reward[top], "o", color=color, markersize=5)
        if not name.startswith("_"):
            axis.annotate(name, (root[-1], reward[-1]), xytext=(0, 6), textcoords="offset points", color=color,
                          ha="center", va="bottom", fontsize=9)  # fmt: skip
    axis.set(xlabel="√KL from the reference", ylabel="true reward")
