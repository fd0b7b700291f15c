"""What matters in instruction tuning, on two families: the loss on the prompt, the number of examples, of phrasings.

Run: python benchmarks/results/instructions_small.py     about two minutes on one core
"""

import copy

from store import arguments, store

from llmkit.data.toyland.instructions import instructions
from llmkit.evaluation.instructions import replies, score
from llmkit.finetuning.sft import encode_conversations
from llmkit.finetuning.toyland_chat import fine_tune, small_setting

FAMILIES = ("reverse", "list")


def main() -> None:
    chosen = arguments(__doc__, steps=350, seeds=2, tests=240)
    small = small_setting(seed=chosen.seed)
    items = {split: instructions(chosen.tests, 1, split, FAMILIES) for split in ("instances", "phrasings")}
    taught = [item.conversation for item in small.taught]
    variants = {
        "answers alone": (taught, {}),
        "prompts too": (taught, {"on_prompt": True}),
        "300 examples": (taught[:300], {}),
        "one phrasing": ([in_one_phrasing(item) for item in small.taught], {}),
    }
    rows = []
    for name, (conversations, options) in variants.items():
        encoded = encode_conversations(conversations, small.tokenizer, **options)
        for seed in range(chosen.seeds):
            model = copy.deepcopy(small.base)
            fine_tune(model, encoded, chosen.steps, 32, seed=seed)
            row = {"variant": name, "seed": seed}
            for split, some in items.items():
                row[split] = round(score(some, replies(model, small.tokenizer, some)).all.estimate, 4)
            rows.append(row)
            print(row, flush=True)
    store("instructions_small", chosen, {"rows": rows})


def in_one_phrasing(item) -> list[dict[str, str]]:
    """The same task and answer, always asked in the same words."""
    if item.family == "list":
        kind = next(kind for kind in ("animals", "foods", "places") if kind in asked(item))
        words = f"List the {kind}: {item.content}"
    else:
        words = f"Reverse: {item.content}"
    return [{"role": "user", "content": words}, item.conversation[-1]]


def asked(item) -> str:
    return item.messages[-1]["content"].replace(item.content, "")


if __name__ == "__main__":
    main()
