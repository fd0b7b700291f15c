"""docs/results.md: what long runs found, from llmkit/results/*.json and the README, each with its command.

`python -m llmkit.course.site_results` writes the page anew; a test compares.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

from llmkit import results
from llmkit.course.badges import ROOT
from llmkit.course.lessons import LESSONS
from llmkit.course.site_index import table

PAGE = ROOT / "docs" / "results.md"
HEAD = """\
# Results

Figures that take longer than a lesson may: each was made by the command under it, with its seed, and is kept in `llmkit/results/`. `make results` makes them all anew. Losses are in nats a token where nothing else is said.
"""  # noqa: E501


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by(points: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Points in groups that agree in these keys."""
    groups: dict[tuple, list[dict]] = {}
    for point in points:
        groups.setdefault(tuple(point[key] for key in keys), []).append(point)
    return groups


def toyland(r: dict[str, Any]) -> str:
    row = (f"{r['n_params']:,}", f"{r['seconds']:.0f}", f"{r['unigram']:.3f}", f"{r['loss']:.3f}",
           f"{r['entropy']:.3f}", f"{r['closed']:.1%}")  # fmt: skip
    return table("parameters | seconds | counts of words | model | exact entropy | way closed", [row])


def isoflop(r: dict[str, Any]) -> str:
    rows = [(f"{m['budget']:.2g}", f"{m['n_params']:,.0f}", f"{m['loss']:.3f}") for m in r["minima"]]
    low, high = r["intervals_95"]["E"]
    law = f"The fitted law's E is {r['law']['E']:.3f} (95%: {low:.3f} to {high:.3f})."
    law += f" The true entropy is {r['entropy']:.3f}."
    return table("budget, FLOPs | best size, parameters | loss there", rows) + f"\n\n{law}"


def optimizers(r: dict[str, Any]) -> str:
    rows = []
    for (name,), runs in by(r["runs"], "optimizer").items():
        steps = [next((n for n, loss in run["losses"] if loss <= r["target"]), None) for run in runs]
        rows.append((name, str(len(runs)), ", ".join("not reached" if n is None else str(n) for n in steps)))
    return table(f"optimiser | seeds | first measured step at loss {r['target']:.3f} or less", rows)


def transfer(r: dict[str, Any]) -> str:
    rows = [(str(o["width"]), o["parametrization"], f"{o['lr']:.4f}", f"{o['loss']:.3f}") for o in r["optima"]]
    return table("width | parametrisation | best learning rate | loss there", rows)


def pretraining(r: dict[str, Any]) -> str:
    rows = [
        (
            str(times),
            f"{mean([p['held_out'][-1][1] for p in runs]):.3f}",
            f"{mean([p['training_loss'] for p in runs]):.3f}",
        )
        for (times,), runs in by(r["repeats"], "times").items()
    ]
    ends = [
        (name, str(length), f"{mean([p['loss'] for p in runs]):.3f}", str(len(runs)))
        for (name, length), runs in by(r["schedules"], "schedule", "length").items()
    ]
    return (
        table("each story read | held out | training", rows) + "\n\n" + table("schedule | steps | loss | seeds", ends)
    )


def finetuning(r: dict[str, Any]) -> str:
    base = r["base"]
    rows = [("the base", "", "", f"{base['stories']:.3f}", f"{base['code']:.3f}", "")]
    points = [p for p in r["points"] if p["warmup"] == 0.1 and p["rank"] in (None, 8)]
    chosen = [p for p in points if p["lr"] == r["best"].get(p["name"])]
    for (name, replay), runs in by(chosen, "name", "replay").items():
        losses = (f"{mean([p[key] for p in runs]):.3f}" for key in ("stories", "code"))
        label = "all weights" if name == "full" else "LoRA, rank 8"
        rows.append((label, f"{r['best'][name]:g}", f"{replay:.0%}", *losses, str(len(runs))))
    heads = "trained | learning rate | stories among the code | stories, bits a byte | code, bits a byte | seeds"
    return table(heads, rows) + f"\n\nThe perfect model of the stories has {r['perfect']:.3f}."


def instructions(r: dict[str, Any]) -> str:
    rows = [(name, f"{s['all'][0]:.1%}", f"{s['all'][1]:.1%} to {s['all'][2]:.1%}", str(s["n"]))
            for name, s in r["tuned"].items()]  # fmt: skip
    return table("asked | right | 95% | questions", rows)


def instructions_small(r: dict[str, Any]) -> str:
    rows = [
        (name, *(", ".join(f"{p[key]:.1%}" for p in runs) for key in ("instances", "phrasings")))
        for (name,), runs in by(r["rows"], "variant").items()
    ]
    return table("trained on | known phrasings, each seed | new phrasings", rows)


def reasoning(r: dict[str, Any]) -> str:
    rows = []
    for (name,), runs in by(r["rows"], "name").items():
        ends = (", ".join(f"{run['judged'][-1][key]:.1%}" for run in runs) for key in ("greedy", "strict"))
        rows.append((name, *ends))
    heads = "reward | right, likeliest answer, each seed | right, drawn answers"
    start = r["rows"][0]["judged"][0]
    note = f"Before training: {start['greedy']:.1%} of likeliest and {start['strict']:.1%} of drawn answers are right."
    return table(heads, rows) + f"\n\n{note}"


def alignment(r: dict[str, Any]) -> str:
    """Means over the seeds; the wins against SFT of each seed, since they differ most."""
    rows = []
    for name in r["runs"][0]["methods"]:
        runs = [run["methods"][name] for run in r["runs"]]
        figures = [f"{mean([one[key] for one in runs]):.2f}" for key in ("proxy", "score", "grammatical", "kl")]
        rows.append((name, *figures, ", ".join(f"{one['win_rate'][0]:.0%}" for one in runs)))
    heads = "method | reward model's score | true score | grammatical | KL, nats | wins against SFT, each seed"
    note = f"The true score of the source's own stories is {r['source']['score']:.2f}."
    return table(heads, rows) + f"\n\n{note} KL of best of n is its bound."


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "toyland_180s": toyland,
    "pretraining": pretraining,
    "isoflop": isoflop,
    "optimizers": optimizers,
    "transfer": transfer,
    "finetuning": finetuning,
    "instructions": instructions,
    "instructions_small": instructions_small,
    "alignment": alignment,
    "reasoning": reasoning,
}


def section(name: str) -> str:
    """Title (the script's own first line), figures, command, and the lesson that draws them."""
    stored = results.load(name)
    script = re.search(r"benchmarks/\S+\.py", stored["command"])[0]
    title = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8"))).partition("\n")[0].rstrip(".")
    masters = {one: ROOT / "solutions" / f"{one.name}.py" for one in LESSONS}
    drawn = [one for one, path in masters.items() if path.exists() and f'load("{name}")' in path.read_text("utf-8")]
    lessons = f"Drawn in {' and '.join(f'lesson {one.number:02d}' for one in drawn)}. " if drawn else ""
    made = f"{lessons}Made in {stored['cpu_seconds']:,} CPU seconds by"
    figures = SECTIONS[name](stored) if name in SECTIONS else ""
    return "\n\n".join(filter(None, (f"## {title}", figures, f"{made}\n\n```\n{stored['command']}\n```")))


def race() -> str:
    """The README's race on tiny Shakespeare, word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^### How fast it learns\n(.*?)(?=^## )", readme, re.DOTALL | re.MULTILINE)
    return "## How fast it learns\n" + found[1].replace("](docs/", "](").rstrip()


def render() -> str:
    """The whole page; a result without a function of its own is there with its command alone."""
    paths = (ROOT / "llmkit" / "results").glob("*.json")
    names = sorted(path.stem for path in paths if not path.stem.endswith(".partial"))  # of a run that is not done
    ordered = [name for name in SECTIONS if name in names] + [name for name in names if name not in SECTIONS]
    return "\n\n".join([HEAD.rstrip(), *map(section, ordered), race()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8", newline="\n")
