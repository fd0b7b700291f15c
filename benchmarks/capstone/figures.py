"""The report's picture: six panels, one a stage."""

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from PIL import Image  # noqa: E402

from llmkit.viz.instructions import draw_families  # noqa: E402
from llmkit.viz.style import COLORS, use_house_style  # noqa: E402

SMALL = 8.5


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw all stages' results as one PNG; the same results give the same bytes."""
    use_house_style()
    fig, axes = plt.subplots(2, 3, figsize=(13.5, 8.2))
    panels = (_loss, _domain, _families, _wins, _ppo, _files)
    for axis, panel, (_, result) in zip(axes.flat, panels, results.items(), strict=True):
        panel(axis, result, results)
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", bbox_inches="tight")
    plt.close(fig)
    Image.open(drawn).convert("RGB").save(path, "png", optimize=True)


def _line(axis: Axes, height: float, name: str, color: str, side: str) -> None:
    """A dashed line with its name above ("bottom") or below it ("top")."""
    axis.axhline(height, color=color, linestyle="--", linewidth=1.4)
    axis.text(0.99, height, f"{name} {height:.3f}", transform=axis.get_yaxis_transform(), ha="right", va=side,
              color=color, fontsize=SMALL)  # fmt: skip


def _loss(axis: Axes, one: dict[str, Any], _: Any) -> None:
    steps, bits = zip(*one["curve"], strict=True)
    axis.plot(steps, bits, "o-", color=COLORS["model"], markersize=3.5)
    _line(axis, one["all"]["exact"], "exact entropy", COLORS["truth"], "top")
    _line(axis, one["all"]["ngram"], f"{one['ngram']}-gram", "#777777", "bottom")
    axis.set(
        title="1 · Loss against entropy, and counting", xlabel="step", ylabel="bits a byte, held out", xlim=(0, None)
    )
    axis.set_ylim(0, None)


def _domain(axis: Axes, one: dict[str, Any], _: Any) -> None:
    for place, key in enumerate(("domain", "general")):
        for shift, when, color in ((-0.18, "before", COLORS["control"]), (0.18, "after", COLORS["model"])):
            axis.bar(place + shift, one[when][key], 0.32, color=color)
            axis.text(place + shift, one[when][key], f"{one[when][key]:.2f}", ha="center", va="bottom", fontsize=SMALL)
            if place == 0:
                axis.text(place + shift, 0.02, when, ha="center", va="bottom", color="white", fontsize=SMALL)
        axis.plot([place - 0.38, place + 0.38], [one["exact"][key]] * 2, "--", color=COLORS["truth"], linewidth=1.4)
    axis.set_xticks([0, 1], ["the domain", "what was read before"])
    axis.grid(False, axis="x")
    axis.set(title="2 · LoRA learns a domain (dashed: entropy)", ylabel="bits a byte, held out")


def _families(axis: Axes, one: dict[str, Any], _: Any) -> None:
    before, after = one["before"]["instances"]["families"], one["after"]
    draw_families(axis, {"before SFT": before, "known phrasings": after["instances"]["families"],
                         "new phrasings": after["phrasings"]["families"]})  # fmt: skip
    axis.get_legend().remove()
    for height, name, color in ((0.16, "before SFT", "#777777"), (0.1, "known phrasings", COLORS["model"]),
                                (0.04, "new phrasings", COLORS["key"])):  # fmt: skip
        axis.text(0.07, height, name, transform=axis.transAxes, color=color, fontsize=SMALL)
    known, new = (after[split]["all"][0] for split in ("instances", "phrasings"))
    axis.set_title(f"3 · Instructions: {known:.0%} known, {new:.0%} new")


def _wins(axis: Axes, one: dict[str, Any], results: dict[str, Any]) -> None:
    rows = {"SFT again": (one["wins"]["sft again"], "control"), "DPO": (one["wins"]["dpo"], "key"),
            "PPO": (results["5_reinforce"]["wins"]["sft"], "model")}  # fmt: skip
    for height, (name, ((share, low, high), color)) in enumerate(reversed(rows.items())):
        axis.plot([low, high], [height] * 2, color=COLORS[color])
        axis.plot(share, height, "o", color=COLORS[color])
        axis.text(share, height + 0.1, f"{name} {share:.0%}", ha="center", color=COLORS[color], fontsize=SMALL)
    axis.axvline(0.5, color=COLORS["truth"], linestyle="--", linewidth=1.4)
    axis.set_yticks([])
    axis.set(title="4 · Truly better than SFT's answer", xlabel="win rate, ties half, 95% interval", ylim=(-0.5, 2.6),
             xlim=(0, 1))  # fmt: skip


def _ppo(axis: Axes, one: dict[str, Any], _: Any) -> None:
    steps, proxy, true, kl = zip(*one["curve"], strict=True)
    for values, name, color in ((proxy, "proxy", "guess"), (true, "true score", "good"),
                                ([x / 10 for x in kl], "KL, tens of nats", "bad")):  # fmt: skip
        axis.plot(steps, values, color=COLORS[color], label=name, linewidth=1.5)
    axis.legend(fontsize=SMALL)
    axis.set(title="5 · PPO: proxy, truth and their price", xlabel="step", ylabel="mean of a batch of answers")


def _files(axis: Axes, one: dict[str, Any], _: Any) -> None:
    for place, (kind, got) in enumerate(one["files"].items()):
        axis.bar(place, got["bytes"] / 1e6, 0.55, color=COLORS["model"])
        label = f"{got['bytes'] / 1e6:.1f} MB\n{got['story_bits']:.3f} bits a byte"
        speed = one["speed"].get(f"llama.cpp, {kind}")
        label += f"\n{speed:.0f} tokens/s" if speed else ""
        axis.text(place, got["bytes"] / 1e6, label, ha="center", va="bottom", fontsize=SMALL)
    axis.set_xticks(range(len(one["files"])), list(one["files"]))
    axis.grid(False, axis="x")
    axis.margins(y=0.25)
    axis.set(title="6 · GGUF files (speed: llama.cpp)", ylabel="MB")
