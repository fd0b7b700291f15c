"""From a completer to an assistant: one base model, instruction-tuned on thirteen families; accuracy by family.

Run: python benchmarks/results/instructions.py     about 30 minutes on one core
"""

import time

from store import arguments, store

from llmkit.checkpoints.pretrained import save_pretrained
from llmkit.data.toyland.instruction_families import FAMILIES
from llmkit.data.toyland.instructions import instructions
from llmkit.evaluation.instructions import replies, replies_to, score
from llmkit.finetuning.sft import encode_conversations, pack
from llmkit.finetuning.toyland_chat import (
    END_OF_TEXT,
    END_OF_TURN,
    base_model,
    chat_tokenizer,
    fine_tune,
    plain_texts,
    pretrain,
)

SPLITS = ("instances", "phrasings")
CONTEXT, ROWS = 144, 24  # tokens of a packed row, and rows a step
# Further examples of the families that are learnt last; to refuse is the hardest: what is asked for is not there.
HARD = {"answer": 15_000, "refuse": 30_000, "count": 15_000, "list": 15_000}


def main() -> None:
    sizes = {"base_steps": 400, "steps": 3900, "examples": 130_000, "width": 160, "tests": 200}
    chosen = arguments(__doc__, **sizes, model="")
    folder = vars(chosen).pop("model")  # where to save the model, for python -m llmkit.chat
    tokenizer = chat_tokenizer(seed=chosen.seed)
    model = base_model(tokenizer, chosen.width, seed=chosen.seed)
    base = pretrain(model, tokenizer, plain_texts(38_000, chosen.seed), chosen.base_steps, 96, seed=chosen.seed)
    say("base model", round(base.losses[-1], 2))
    items = {split: instructions(len(FAMILIES) * chosen.tests, chosen.seed + 1, split) for split in SPLITS}
    few = {split: found[: len(FAMILIES) * chosen.tests // 4] for split, found in items.items()}
    measured = {
        "parameters": model.n_params(),
        "base": {"template": short(figures(model, tokenizer, few["instances"]))},
    }
    for name, form in FORMS.items():
        measured["base"][name] = short(without_template(model, tokenizer, few["instances"], form, END_OF_TEXT))
    taught = instructions(chosen.examples, chosen.seed)
    for family, n in HARD.items():
        taught += instructions(n, chosen.seed + 2, families=(family,))
    encoded = encode_conversations([item.conversation for item in taught], tokenizer, max_len=CONTEXT)
    rows = pack(encoded, CONTEXT)
    say(
        len(encoded),
        "conversations in",
        len(rows.ids),
        "rows:",
        round(chosen.steps * ROWS / len(rows.ids), 2),
        "epochs",
    )

    def evaluate(model):
        found = {split: short(figures(model, tokenizer, some)) for split, some in few.items()}
        say({split: (one["all"], one["families"]) for split, one in found.items()})
        return found

    points = [chosen.steps // 16, chosen.steps // 4, chosen.steps // 2]
    history = fine_tune(model, rows, chosen.steps, ROWS, seed=chosen.seed, evaluate=evaluate, evaluate_at=points)
    measured["curve"] = [{"step": step, **found} for step, found in history.evaluations]
    measured["losses"] = [round(sum(history.losses[i : i + 50]) / 50, 4) for i in range(0, chosen.steps, 50)]
    if folder:
        save_pretrained(model, folder, tokenizer)
    measured["tuned"] = {split: figures(model, tokenizer, found) for split, found in items.items()}
    measured["mismatch"] = {
        name: short(without_template(model, tokenizer, few["instances"], form, END_OF_TURN))
        for name, form in FORMS.items()
    }
    store("instructions", chosen, measured)


FORMS = {"bare": "{}\n", "User/Assistant": "User: {}\nAssistant: "}


def without_template(model, tokenizer, items, form: str, end: str) -> dict:
    """The same questions as plain text, for what has one turn: what a base model sees, and a wrong template."""
    items = [item for item in items if len(item.messages) == 1]
    start = [tokenizer.special_tokens[END_OF_TEXT]] if end == END_OF_TEXT else []
    prompts = [start + tokenizer.encode(form.format(item.messages[0]["content"])) for item in items]
    found = replies_to(model, tokenizer, prompts, tokenizer.special_tokens[end])
    return as_json(items, found)


def figures(model, tokenizer, items) -> dict:
    return as_json(items, replies(model, tokenizer, items))


def as_json(items, found) -> dict:
    """Accuracies with their intervals, and one reply of each family, right or wrong."""
    scores = score(items, found)
    shown = {
        item.family: [item.messages[-1]["content"], reply.text, item.target]
        for item, reply in zip(items, found, strict=True)
    }
    wrong = [
        [item.family, item.messages[-1]["content"], reply.text, item.target]
        for item, reply in zip(items, found, strict=True) if not item.correct(reply.text)
    ]  # fmt: skip
    return {
        "all": rounded(scores.all), "stop_rate": round(scores.stop_rate, 4), "n": len(items),
        "families": {family: rounded(interval) for family, interval in scores.families.items()},
        "replies": shown, "wrong": wrong[:12],
    }  # fmt: skip


def short(found: dict) -> dict:
    """The figures without the texts, but for three replies."""
    some = dict(list(found["replies"].items())[:3])
    return {key: value for key, value in found.items() if key not in ("replies", "wrong")} | {"replies": some}


def rounded(interval) -> list[float]:
    return [round(value, 4) for value in interval]


def say(*what) -> None:
    print(round(time.process_time()), *what, flush=True)


if __name__ == "__main__":
    main()
