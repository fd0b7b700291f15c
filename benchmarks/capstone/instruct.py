"""Lesson 16: the model learns to answer; thirteen families of instructions, judged by rule."""

from pathlib import Path
from typing import Any

from llmkit.alignment.toyland import prompt_ids
from llmkit.alignment.toyland_truth import end_id
from llmkit.data.toyland.instructions import instructions
from llmkit.data.toyland.preferences import mood_stories
from llmkit.evaluation.instructions import replies, replies_to
from llmkit.finetuning.sft import Encoded, encode_conversations, pack, sft_loss
from llmkit.training.losses import IGNORE, Summed

from . import common, domain
from .plan import Plan

NAME = "3_instruct"
SPLITS = ("instances", "phrasings")


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """Conversations, and the domain's stories again, so that those are not forgotten."""
    model, tokenizer = common.load(out / domain.NAME)
    stories = common.domain(tokenizer, plan)
    items = {split: common.test_items(plan, split) for split in SPLITS}
    before = {"story_bits": stories.bits(model), **measure(model, tokenizer, items)}
    before["bare"] = common.accuracy(*_bare(model, tokenizer, items["instances"]))
    taught = instructions(plan.instructions, plan.seed)
    examples = encode_conversations([item.conversation for item in taught], tokenizer, max_len=plan.context,
                                    too_long="drop")  # fmt: skip
    dropped = len(taught) - len(examples)
    told = ["".join(story) for story in mood_stories(plan.story_examples, plan.seed)]
    examples += [Encoded(ids, [*ids[1:], IGNORE]) for ids in common.documents(tokenizer, told)]
    rows = pack(examples, plan.context)
    lines = common.train(model, rows, plan.sft_steps, plan, out / NAME, loss=_answers_loss)
    common.save(model, tokenizer, out / NAME)
    after = {"story_bits": stories.bits(model), **measure(model, tokenizer, items)}
    losses = [[line["step"], line["loss"]] for line in lines if "loss" in line]
    return {
        "before": before, "after": after, "losses": losses, "examples": len(examples), "dropped": dropped,
        "epochs": plan.sft_steps * plan.batch / len(rows.ids),
    }  # fmt: skip


def _answers_loss(model: Any, ids: Any, targets: Any, documents: Any) -> Summed:
    """sft_loss as the trainer wants it: a sum. Logits are made only where an answer is learnt."""
    nats = sft_loss(model, ids, targets, documents) * (targets != IGNORE).sum()
    return Summed(nats, nats)


def measure(model: Any, tokenizer: Any, items: dict[str, list]) -> dict[str, Any]:
    """Accuracy on each split."""
    return {split: common.accuracy(some, replies(model, tokenizer, some)) for split, some in items.items()}


def _bare(model: Any, tokenizer: Any, items: list) -> tuple[list, list]:
    """Questions of one turn as plain text, which is all that a base model can know."""
    items = [item for item in items if len(item.messages) == 1]
    prompts = prompt_ids(tokenizer, [item.messages[0]["content"] + "\n" for item in items])
    return items, replies_to(model, tokenizer, prompts, end_id(tokenizer))
