"""Lesson 15: a kind of text that the base never read, learnt by LoRA, and what it cost of the old kinds."""

from pathlib import Path
from typing import Any

import torch

from llmkit.data.batches import document_batches
from llmkit.data.toyland.preferences import mood_stories
from llmkit.finetuning.adapter_files import save_adapter
from llmkit.finetuning.adapters import add_lora, merge, n_trainable, remove
from llmkit.finetuning.lora import LoRAConfig
from llmkit.finetuning.toyland_chat import plain_texts
from llmkit.training.loop import train
from llmkit.training.optim import AdamW, decay_groups

from . import common, pretrain
from .plan import Plan

NAME = "2_domain"
LR = 1e-2


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """Adapters on all matrices of the blocks, trained, saved for PEFT, and merged."""
    model, tokenizer = common.load(out / pretrain.NAME)
    new, old = common.domain(tokenizer, plan), common.general(tokenizer, plan)

    def measure() -> dict[str, float]:
        return {"domain": new.bits(model), "general": common.over_all(old, {k: p.bits(model) for k, p in old.items()})}

    before = measure()
    parameters = model.n_params()
    texts = ["".join(story) for story in mood_stories(plan.stories, plan.seed)]
    texts += plain_texts(round(plan.replay * plan.stories), plan.seed)
    add_lora(model, LoRAConfig(plan.rank, alpha=2 * plan.rank), plan.seed)
    trained = n_trainable(model)
    batches = document_batches(common.documents(tokenizer, texts), 2 * plan.batch, plan.seed)
    optimizer = AdamW(decay_groups(model, 0.0), LR)
    train(model, batches, plan.domain_steps, LR, optimizer=optimizer, progress=False)
    probe = torch.tensor([tokenizer.encode(new.texts[0])])
    with torch.no_grad():
        apart = model(probe)
    save_adapter(model, out / NAME / "adapter")
    merge(model)
    remove(model)
    with torch.no_grad():
        difference = (model(probe) - apart).abs().max().item()
    common.save(model, tokenizer, out / NAME)
    return {
        "before": before, "after": measure(), "exact": {"domain": new.exact, "general": _exact(old)},
        "trained": trained, "parameters": parameters, "rank": plan.rank, "stories": plan.stories,
        "merged_difference": difference,
    }  # fmt: skip


def _exact(parts: dict[str, common.HeldOut]) -> float:
    return common.over_all(parts, {name: part.exact for name, part in parts.items()})
