"""The tables of docs/results.md: one function for each file of llmkit/results/, from what is stored to Markdown."""

from collections.abc import Callable
from typing import Any

from llmkit.course.site_index import table


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by(points: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Points in groups that agree in these keys."""
    groups: dict[tuple, list[dict]] = {}
    for point in points:
        groups.setdefault(tuple(point[key] for key in keys), []).append(point)
    return groups


def toyland(r: dict[str, Any]) -> str:
    rows = [
        (f"{run['n_params']:,}", f"{run['stories']:,}", f"{run['steps']:,}", f"{run['unigram']:.3f}",
         f"{run['loss']:.3f}", f"{run['entropy']:.3f}", f"{run['closed']:.1%}", f"{run['above']:.1%}")
        for run in (r[name] for name in ("minutes", "long") if name in r)
    ]  # fmt: skip
    heads = (
        "parameters | stories read | steps | counts of words | model | exact entropy | way closed | above the entropy"
    )
    note = f"The first line had {r['minutes']['seconds']:.0f} seconds on two cores; a second one had no clock."
    return table(heads, rows) + f"\n\n{note}"


def parity(r: dict[str, Any]) -> str:
    kinds = ("noise", "fresh", "gradient", "dropout")
    rows = [(name, *(f"{one[key]:.1e}" if key in one else "–" for key in kinds)) for name, one in r["models"].items()]
    note = f"Against transformers {r['transformers']}; the tests demand 1e-5 of outputs and 5e-5 of gradients."
    heads = (
        "model | outputs, noise on every parameter | outputs, fresh weights | gradient of the token table, noise | "
        "outputs in training, the same seed for dropout"
    )
    return table(heads, rows) + f"\n\n{note}"


def speed(r: dict[str, Any]) -> str:
    rows = [(one["name"], one["ours"], one["peer"], f"{one['ratio']:.2f}", f"{one['required']:g}")
            for one in r["reports"]]  # fmt: skip
    note = (
        "Above 1 the measured one is faster than its peer, in the same run; below what we want it misses our own aim. "
        "Cold is a tokenizer's first call, warm a later one, which finds words in its cache."
    )
    return table("what | measured | its peer | times the peer's speed | we want", rows) + f"\n\n{note}"


def exact_rlhf(r: dict[str, Any]) -> str:
    rows = [(name, f"{p['reward']:.3f}", f"{p['kl_to_reference']:.3f}", f"{p['J']:.3f}", f"{p['J'] / r['best']:.1%}",
             f"{p['kl_to_best']:.4f}") for name, p in r["policies"].items()]  # fmt: skip
    note = f"Reward and KL are weighed as J = reward - {r['beta']:g} KL; no policy has more than J* = {r['best']:.3f}."
    heads = "policy | reward | KL to the reference, nats | J | of J* | KL to the best policy, nats"
    return table(heads, rows) + f"\n\n{note}"


def capstone(r: dict[str, Any]) -> str:
    base, domain, sft, prefer, ppo, files = r["stages"].values()
    share = "{:.1%}".format
    again = f"SFT with other random numbers {share(prefer['wins']['sft again'][0])}"
    rows = [
        ("base: bits a byte", f"{base['all']['model']:.3f}",
         f"counting {base['all']['ngram']:.3f}, the source's entropy {base['all']['exact']:.3f}"),
        ("LoRA: bits a byte of the new domain", f"{domain['after']['domain']:.3f}",
         f"before {domain['before']['domain']:.3f}, entropy {domain['exact']['domain']:.3f}"),
        ("LoRA: bits a byte of what the base had read", f"{domain['after']['general']:.3f}",
         f"before {domain['before']['general']:.3f}"),
        ("SFT: right replies, known phrasings", share(sft["after"]["instances"]["all"][0]),
         f"before {share(sft['before']['instances']['all'][0])}"),
        ("SFT: right replies, new phrasings", share(sft["after"]["phrasings"]["all"][0]),
         f"before {share(sft['before']['phrasings']['all'][0])}"),
        ("reward model: agrees with labels", share(prefer["reward"]["labels"][0]),
         f"the best judge {share(prefer['reward']['ceiling'])}"),
        ("DPO: wins against SFT", share(prefer["wins"]["dpo"][0]), again),
        ("PPO: wins against SFT", share(ppo["wins"]["sft"][0]), again),
        ("PPO: KL, nats an answer", f"{ppo['measured']['kl']:.1f}", ""),
    ]  # fmt: skip
    rows += [(f"GGUF {kind}: replies as in float32", share(one["llmkit"]["replies"]), f"{one['bytes'] / 1e6:.2f} MB")
             for kind, one in files["files"].items()]  # fmt: skip
    minutes = sum(one["seconds"] for one in r["stages"].values()) / 60
    return table("stage | measured | beside it", rows) + f"\n\nAll stages together took {minutes:.1f} minutes."


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
    "parity": parity,
    "speed": speed,
    "toyland": toyland,
    "pretraining": pretraining,
    "isoflop": isoflop,
    "optimizers": optimizers,
    "transfer": transfer,
    "finetuning": finetuning,
    "instructions": instructions,
    "instructions_small": instructions_small,
    "exact_rlhf": exact_rlhf,
    "alignment": alignment,
    "reasoning": reasoning,
    "capstone": capstone,
}
