"""Each method at full length on the small world, where the best is known: for the tests and for docs/results.md.

Each takes a SmallWorld and gives the policy it trained, a copy of the world's model; the seeds are fixed.
"""

import copy
from itertools import repeat

import torch
from torch import Tensor, nn

from llmkit.alignment.dpo import PairLogProbs, dpo
from llmkit.alignment.exact import answer_index, exact_policy_gradient, log_probs
from llmkit.alignment.grpo import GRPOSettings, GRPOStats, grpo_step
from llmkit.alignment.ppo import PPOSettings, ppo_step
from llmkit.alignment.preferences import sample_pairs
from llmkit.alignment.rollout import Rollout, sample_rollout
from llmkit.alignment.small_world import SmallWorld
from llmkit.alignment.value import ValueModel
from llmkit.training.loop import train
from llmkit.training.optim import AdamW

LR = 1e-2  # at the first step; it falls to 0 in a straight line


def by_exact_gradient(world: SmallWorld) -> nn.Module:
    """The gradient without noise, over all answers: what the other methods can hope for."""
    policy = copy.deepcopy(world.model).requires_grad_(True)
    exact_policy_gradient(policy, world.prompts, world.ref_log_probs, world.rewards, world.beta)
    return policy


def by_ppo(world: SmallWorld, n_steps: int = 300, n_answers: int = 96) -> nn.Module:
    """PPO from n_answers drawn answers a prompt, with the KL as a price on each token."""
    policy = copy.deepcopy(world.model).requires_grad_(True)
    values = ValueModel(policy.transformer)
    settings = PPOSettings(
        beta=world.beta, lam=1.0, value_weight=0.5, value_clip=10.0, n_epochs=2, n_minibatches=2,
        whiten_advantages=False, max_grad_norm=100.0,
    )  # fmt: skip
    optimizer = AdamW([{"params": [*policy.parameters(), *values.parameters()]}], LR)
    generator = torch.Generator().manual_seed(0)
    for step in range(n_steps):
        optimizer.lr = LR * (1 - step / n_steps)
        rollout, scores = _answers(world, policy, n_answers, generator)
        ppo_step(policy, values, optimizer, rollout, scores, settings, generator)
    return policy


def by_grpo(
    world: SmallWorld, n_steps: int = 400, group_size: int = 64, **settings: object
) -> tuple[nn.Module, list[GRPOStats]]:
    """GRPO, and each step's stats. With std="none" and reduction="dr_grpo" it is REINFORCE with the group's mean."""
    policy = copy.deepcopy(world.model).requires_grad_(True)
    chosen = GRPOSettings(group_size=group_size, max_grad_norm=100.0, beta=world.beta, **settings)
    optimizer = AdamW([{"params": policy.parameters()}], LR)
    generator, stats = torch.Generator().manual_seed(0), []
    for step in range(n_steps):
        optimizer.lr = LR * (1 - step / n_steps)
        rollout, scores = _answers(world, policy, group_size, generator)
        stats.append(grpo_step(policy, optimizer, rollout, scores, chosen, generator))
    return policy, stats


def by_dpo(world: SmallWorld, n_pairs: int, n_steps: int) -> nn.Module:
    """DPO on n_pairs comparisons of the reference's answers, all of them in each step."""
    pairs = sample_pairs(world.ref_log_probs, world.rewards, n_pairs, torch.Generator().manual_seed(1))
    rows = (pairs.prompt, pairs.chosen), (pairs.prompt, pairs.rejected)
    fixed = [world.ref_log_probs[row] for row in rows]
    length = torch.full((n_pairs,), world.answers.size(1))

    def loss(model: nn.Module, prompts: Tensor) -> Tensor:
        table = log_probs(model, prompts)
        return dpo(PairLogProbs(*[table[row] for row in rows], *fixed, length, length), world.beta).loss

    policy = copy.deepcopy(world.model).requires_grad_(True)
    train(policy, repeat((world.prompts,)), n_steps, 2e-2, weight_decay=0.0, loss=loss, progress=False)
    return policy


def _answers(
    world: SmallWorld, policy: nn.Module, n_answers: int, generator: torch.Generator
) -> tuple[Rollout, Tensor]:
    """n_answers drawn answers to each prompt, and their rewards (P * n_answers,)."""
    prompts = [prompt for prompt in world.prompts.tolist() for _ in range(n_answers)]
    rollout = sample_rollout(policy, world.model, prompts, world.answers.size(1), None, generator=generator)
    rows = torch.arange(len(world.prompts)).repeat_interleave(n_answers)
    return rollout, world.rewards[rows, answer_index(rollout.completions)].float()
