"""Lesson 17: pairs from a noisy judge, a reward model, and DPO from the same pairs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmkit.alignment.reward import RewardModel, reward_model
from llmkit.alignment.toyland import BETA, compare, prompt_ids, sample_answers, train_dpo, train_reward
from llmkit.alignment.toyland_truth import Measured, end_id, measure, proxy_scores, win_rate
from llmkit.checkpoints.safetensors import SafetensorsFolder, save_safetensors
from llmkit.data.toyland.preferences import openings
from llmkit.evaluation.bootstrap import bootstrap_interval

from . import common, instruct
from .plan import Plan

NAME, REWARD = "4_prefer", "reward"
WIDTH = 64  # of lesson 17's model, whose learning rates are scaled: AdamW's go with 1 / width (lesson 14)
TRAIN, TEST, ASKED, PPO = 10, 11, 12, 13  # seeds of openings, apart from plan.seed's stories


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """The reward model is kept for the next stage, the DPO policy is this stage's model."""
    sft, tokenizer = common.load(out / instruct.NAME)
    pairs, test = (compare(sft, tokenizer, n, plan.seed + seed) for n, seed in
                   ((plan.pairs, TRAIN), (plan.test_pairs, TEST)))  # fmt: skip
    reward = train_reward(sft, pairs, plan.reward_steps, plan.seed, lr=2e-3 * WIDTH / plan.d_model)
    chosen, rejected = (proxy_scores(reward, test.prompts, side) for side in (test.chosen, test.rejected))
    policy, log = train_dpo(sft, pairs, plan.dpo_steps, plan.seed, lr=1e-3 * WIDTH / plan.d_model)
    common.save(policy, tokenizer, out / NAME)
    save_safetensors(reward.state_dict(), out / NAME / REWARD)
    measured = {name: judged(model, sft, tokenizer, reward, plan, seed) for name, model, seed in
                (("sft", sft, 0), ("sft again", sft, 1), ("dpo", policy, 2))}  # fmt: skip
    return {
        "pairs": len(pairs.prompts), "test_pairs": len(test.prompts), "beta": BETA,
        "reward": _reward_figures(chosen > rejected, test.lead, test.ceiling),
        "dpo": {"first_loss": float(log[0].loss), "last_loss": float(log[-1].loss), "margin": float(log[-1].margin)},
        "measured": {name: one.as_json() for name, one in measured.items()},
        "wins": {name: list(win_rate(measured[name].scores, measured["sft"].scores)) for name in ("sft again", "dpo")},
    }  # fmt: skip


def _reward_figures(as_labelled: Tensor, lead: Tensor, ceiling: float) -> dict[str, Any]:
    """as_labelled, lead (M,): does the model say what the label says, and by how much is the chosen answer better?"""
    differ = lead.abs() > 1e-6  # of answers that are worth the same, none is the better one
    right = (as_labelled == (lead > 0))[differ]
    labels_right = (lead > 0)[differ].float()
    return {
        "labels": list(bootstrap_interval(as_labelled.numpy())), "ceiling": ceiling, "n_differ": int(differ.sum()),
        "truth": list(bootstrap_interval(right.numpy())) if len(right) else None,
        "label_truth": float(labels_right.mean()) if len(right) else None,
    }  # fmt: skip


def load_reward(sft: Any, folder: Path) -> RewardModel:
    """The reward model that this stage left."""
    model = reward_model(sft)
    model.load_state_dict(dict(SafetensorsFolder(folder / REWARD)))
    return model.requires_grad_(False)


def fresh_openings(plan: Plan, n: int, seed: int) -> list[str]:
    """Openings that are in no pair."""
    used = set(openings(plan.pairs, plan.seed + TRAIN)) | set(openings(plan.test_pairs, plan.seed + TEST))
    return [opening for opening in openings(n + len(used), plan.seed + seed) if opening not in used][:n]


def judged(policy: Any, sft: Any, tokenizer: Any, reward: RewardModel, plan: Plan, seed: int) -> Measured:
    """One answer to each opening of the test, measured."""
    prompts = prompt_ids(tokenizer, fresh_openings(plan, plan.answers, ASKED))
    generator = torch.Generator().manual_seed(plan.seed + 100 + seed)
    rollout = sample_answers(policy, sft, prompts, end_id(tokenizer), generator)
    kl = float((rollout.log_probs - rollout.ref_log_probs).sum(1).mean())
    return measure(tokenizer, prompts, rollout.answers(), reward, kl)
