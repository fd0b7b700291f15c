"""One page about the whole run, from what the stages stored: capstone/report.md and capstone/report.png."""

from pathlib import Path
from typing import Any

from . import export, figures

PICTURE = "report.png"


def write(results: dict[str, Any], out: Path) -> Path:
    """results: stage's name -> its result.json. Gives the report's path."""
    figures.draw(results, out / PICTURE)
    path = out / "report.md"
    path.write_text(page(results), encoding="utf-8")
    return path


def page(results: dict[str, Any]) -> str:
    """The report's text; every number in it is a stage's."""
    base = results["1_pretrain"]
    seconds, cpu = (sum(one[key] for one in results.values()) for key in ("seconds", "cpu_seconds"))
    failed = [f"- {line}\n" for line in failures(results)] or ["- Nothing that a rule of failures() finds.\n"]
    times = [[name, f"{one['seconds']:.0f}", f"{one['cpu_seconds']:.0f}"] for name, one in results.items()]
    parts = [
        "# One model through the course\n",
        f"A LLaMA of {base['parameters']:,} parameters ({base['layers']} layers of width {base['width']}), trained "
        f"from nothing. The last call of each stage together took {seconds / 60:.1f} minutes ({cpu / 60:.1f} of CPU); "
        "what a stage had done before it was stopped and started again is not counted. In brackets are 95% bootstrap "
        "intervals over test examples; the run has one seed, and what another would change they do not say.\n",
        f"![{_alt(results)}]({PICTURE})\n",
        *(section(results) for section in (_base, _domain, _instructions, _preferences, _ppo, _export)),
        "## What did not work\n\n" + "".join(failed),
        "## Time\n\nOf each stage's last call.\n\n" + _table(["stage", "seconds", "of CPU"], times),
    ]
    return "\n".join(parts)


def _alt(results: dict[str, Any]) -> str:
    base, sft, prefer, ppo = (results[name] for name in ("1_pretrain", "3_instruct", "4_prefer", "5_reinforce"))
    return (
        f"Loss {base['all']['model']:.3f} bits a byte, entropy {base['all']['exact']:.3f}; instructions right "
        f"{sft['after']['instances']['all'][0]:.0%}, new phrasings {sft['after']['phrasings']['all'][0]:.0%}; win "
        f"rates DPO {prefer['wins']['dpo'][0]:.0%}, PPO {ppo['wins']['sft'][0]:.0%}; domain, PPO, GGUF sizes"
    )


def _base(results: dict[str, Any]) -> str:
    one = results["1_pretrain"]
    n = sum(got["texts"] for got in one["sources"].values())
    sources = one["sources"] | {"all": one["all"] | {"texts": n}}
    rows = [
        [name, f"{got['model']:.3f}", f"{got['exact']:.3f}", f"{got['model'] / got['exact'] - 1:+.0%}", got["texts"]]
        for name, got in sources.items()
    ]
    return (
        f"## 1 · Pretraining (05, 13)\n\n{one['tokens_read']:,} tokens of {one['texts']:,} texts. Bits a byte on "
        f"held-out texts, beside the source's own. The control, a {one['ngram']}-gram counted in the same texts, "
        f"reaches {one['all']['ngram']:.3f}.\n\n" + _table(["source", "model", "exact entropy", "above", "texts"], rows)
    )


def _domain(results: dict[str, Any]) -> str:
    one = results["2_domain"]
    rows = [[name, *(f"{one[when][key]:.3f}" for when in ("before", "after", "exact"))]
            for key, name in (("domain", "stories about moods"), ("general", "what the base had read"))]  # fmt: skip
    return (
        f"## 2 · A new domain by LoRA (15)\n\nRank {one['rank']}, {one['trained']:,} trained numbers "
        f"({one['trained'] / one['parameters']:.1%} of the model's); merged, its logits differ by at most "
        f"{one['merged_difference']:.1g}. Bits a byte.\n\n"
        + _table(["texts", "before", "after", "exact entropy"], rows)
    )


def _instructions(results: dict[str, Any]) -> str:
    one, ppo = results["3_instruct"], results["5_reinforce"]["instructions"]
    known, new = "instances", "phrasings"
    sides = {"before SFT (control)": one["before"], "after SFT": one["after"], "after PPO": ppo}
    rows = [
        [name, *(_share(side[split]["all"]) for split in (known, new)), f"{side[known]['stop_rate']:.0%}"]
        for name, side in sides.items()
    ]
    bare = one["before"]["bare"]
    return (
        f"## 3 · Instructions (16)\n\n{one['examples']:,} examples ({one['epochs']:.2f} epochs; {one['dropped']:,} "
        f"were too long and left out). Right replies to {one['after'][known]['n']} instructions of thirteen families "
        "about unseen contents. Before SFT and asked without a template the model is right in "
        f"{_share(bare['all'])} of {bare['n']}. The domain's stories, shown again among the examples, went from "
        f"{one['before']['story_bits']:.3f} to {one['after']['story_bits']:.3f} bits a byte.\n\n"
        + _table(["", "known phrasings", "new phrasings", "replies that end"], rows)
    )


def _preferences(results: dict[str, Any]) -> str:
    one, ppo = results["4_prefer"], results["5_reinforce"]
    reward, measured = one["reward"], one["measured"] | {"ppo": ppo["measured"]}
    wins = one["wins"] | {"ppo": ppo["wins"]["sft"]}
    rows = [[name, _share(wins[name]) if name in wins else "", f"{got['score']:.2f}", f"{got['sentiment']:+.2f}",
             f"{got['grammatical']:.0%}", f"{got['proxy']:+.2f}", f"{got['kl']:.1f}", _or_none(got["distinct_2"])]
            for name, got in measured.items()]  # fmt: skip
    truth = ""
    if reward["n_differ"]:
        truth = f" In the {reward['n_differ']} pairs whose answers are truly unequal it finds the better one in "
        truth += f"{_share(reward['truth'])}, labels like those that it learnt from in {reward['label_truth']:.1%}."
    return (
        f"## 4 · Preferences (17)\n\nThe reward model, from {one['pairs']:,} pairs, agrees with "
        f"{_share(reward['labels'])} of {one['test_pairs']} held-out labels; the best possible judge would with "
        f"{reward['ceiling']:.1%}, a coin with 50%.{truth} DPO's loss went from {one['dpo']['first_loss']:.3f} to "
        f"{one['dpo']['last_loss']:.3f}.\n\n"
        f"Every policy answers the same {len(measured['sft']['scores'])} fresh openings. A win is a truly better "
        "answer than SFT's, a tie half of one; `sft again` is SFT with other random numbers: the control.\n\n"
        + _table(["policy", "win rate", "true score", "mood", "grammatical", "proxy", "KL, nats", "distinct-2"], rows)
    )


def _ppo(results: dict[str, Any]) -> str:
    one = results["5_reinforce"]
    first, last = one["curve"][0], one["curve"][-1]
    return (
        f"## 5 · PPO (18)\n\n{one['answers_seen']:,} answers, {one['beta']} of the proxy's spread a nat of KL. From "
        f"the first batch to the last the proxy went from {first[1]:+.2f} to {last[1]:+.2f}, the true score from "
        f"{first[2]:.2f} to {last[2]:.2f}, KL from {first[3]:.1f} to {last[3]:.1f} nats an answer. Against DPO, PPO "
        f"wins {_share(one['wins']['dpo'])}. The source's own stories cost it {one['story_bits']:.3f} bits a byte, the "
        f"SFT model {results['3_instruct']['after']['story_bits']:.3f}.\n"
    )


def _export(results: dict[str, Any]) -> str:
    one = results["6_export"]
    rows = []
    for kind, got in one["files"].items():
        theirs = got["llama.cpp"]
        same = "not installed" if theirs is None else f"{theirs['replies']:.0%}, {theirs['tokens']:.0%}"
        rows.append([kind, f"{got['bytes'] / 1e6:.2f}", f"{got['story_bits']:.4f}",
                     f"{got['llmkit']['replies']:.0%}, {got['llmkit']['tokens']:.0%}", same])  # fmt: skip
    int8, bits = one["int8"]["llmkit"], one["int8"]["story_bits"]
    rows.append(["int8 in memory", "", f"{bits:.4f}", f"{int8['replies']:.0%}, {int8['tokens']:.0%}", ""])
    speed = [[name, f"{tokens:.0f}"] for name, tokens in one["speed"].items()]
    return (
        f"## 6 · GGUF (20)\n\nGreedy replies to {one['prompts']} instructions beside those of the float32 model: the "
        "same to the end, and tokens up to the first that differs.\n\n"
        + _table(["file", "MB", "bits a byte, stories", "llmkit: replies, tokens", "llama.cpp: replies, tokens"], rows)
        + f"\nTokens a second, one text at a time, threads: llmkit {one['threads']}, llama.cpp {export.LLAMA_THREADS}; "
        "prompt included, best of three:\n\n"
        + _table(["", "tokens a second"], speed)
    )  # fmt: skip


def failures(results: dict[str, Any]) -> list[str]:
    """What a reader should not overlook, each found by a rule."""
    base, tuned, sft, prefer, ppo, files = results.values()
    known, new = (sft["after"][split] for split in ("instances", "phrasings"))
    weak = [f"{name} {share:.0%}" for name, (share, _, _) in known["families"].items() if share < 0.5]
    found = [f"Families of which less than half is right, known phrasings: {', '.join(weak)}."] if weak else []
    if base["all"]["model"] > base["all"]["ngram"]:
        found.append("The base is worse than counting.")
    if tuned["after"]["general"] > tuned["before"]["general"]:
        cost = tuned["after"]["general"] - tuned["before"]["general"]
        found.append(f"The domain cost {cost:.3f} bits a byte on what the base had read.")
    if new["all"][0] < known["all"][0]:
        found.append(f"New phrasings: {new['all'][0]:.0%}, known ones {known['all'][0]:.0%}.")
    if (gap := prefer["reward"]["ceiling"] - prefer["reward"]["labels"][0]) > 0.02:
        found.append(f"The reward model agrees with {gap:.1%} fewer labels than the best possible judge.")
    for name, (share, low, high) in {"DPO": prefer["wins"]["dpo"], "PPO": ppo["wins"]["sft"]}.items():
        if low <= 0.5:
            verdict = "is worse than SFT" if high < 0.5 else "is not shown to be better than SFT"
            found.append(f"{name} {verdict}: {_share((share, low, high))} of answers win.")
    start = prefer["measured"]["sft"]
    for name, got in {"DPO": prefer["measured"]["dpo"], "PPO": ppo["measured"]}.items():
        if got["grammatical"] < start["grammatical"]:
            found.append(f"{name} writes less grammatically: {got['grammatical']:.0%}, SFT {start['grammatical']:.0%}.")
        if got["distinct_2"] is None:
            found.append(f"{name} says nothing: no answer has two words.")
        elif got["distinct_2"] < 0.9 * (start["distinct_2"] or 0):
            found.append(f"{name} repeats itself: distinct-2 {got['distinct_2']:.2f}, SFT {start['distinct_2']:.2f}.")
    if ppo["instructions"]["instances"]["all"][0] < known["all"][0]:
        after = _share(ppo["instructions"]["instances"]["all"])
        found.append(f"PPO, on stories alone, took instructions from {known['all'][0]:.1%} to {after}.")
    for kind, got in files["files"].items():
        if got["llama.cpp"] is None:
            found.append(f"{kind} was not tried in llama.cpp: the package xllamacpp is not installed.")
        elif got["llama.cpp"]["replies"] < 1:
            found.append(f"{kind}: llama.cpp's reply is another in {1 - got['llama.cpp']['replies']:.0%}.")
    return found


def _or_none(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _share(interval: Any) -> str:
    share, low, high = interval
    return f"{share:.1%} [{low:.1%}, {high:.1%}]"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
