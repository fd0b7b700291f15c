"""PPO for language models: clipped losses, and the update on a batch of drawn answers."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from llmkit.alignment.advantages import (
    KL_ESTIMATORS,
    gae,
    masked_mean,
    masked_whiten,
    penalise_missing_end,
    token_rewards,
    value_mask,
)
from llmkit.alignment.minibatches import UpdateSettings, checked_scores, minibatches
from llmkit.alignment.rollout import Rollout, completion_logits
from llmkit.alignment.value import completion_values
from llmkit.training.optim import clip_gradients


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """PPO's clipped loss, (B, T) each -> a scalar.

    ratio = exp(log_probs - old_log_probs); per token max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip)), the mean over
    the mask. No gradient flows where the ratio is already beyond the clip *on the side the advantage pushes to*: above
    1 + clip for A > 0, below 1 - clip for A < 0. Source: Schulman et al. 2017, equation 7.

    >>> one, on = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    >>> policy_loss(one + 1.0, one, one + 2.0, on)  # e is above 1.2, and the answer was good
    tensor(-2.4000)
    """
    ratio = (log_probs - old_log_probs).exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(plain, clipped), mask)


def clip_fraction(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """The share of tokens from which the clip takes the gradient, (B, T) each -> a scalar.

    >>> one, on = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    >>> clip_fraction(one + 1.0, one, one + 2.0, on), clip_fraction(one + 1.0, one, one - 2.0, on)
    (tensor(1.), tensor(0.))
    """
    ratio = (log_probs - old_log_probs).exp()
    taken = -advantages * ratio.clamp(1 - clip, 1 + clip) > -advantages * ratio
    return masked_mean(taken.float(), mask)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """Half the squared error of the values, clipped like the policy's, (B, T) each -> a scalar.

    The clipped value stays within clip of old_values; of the two errors the larger counts. Source: Schulman's baselines
    code; Huang et al. 2022, "The 37 implementation details of PPO", detail 9.

    >>> zero, on = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    >>> value_loss(zero + 1.0, zero, zero + 1.0, on)  # right, but farther than 0.2 from where it was
    tensor(0.3200)
    """
    near = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
    return 0.5 * masked_mean(torch.maximum((values - returns).square(), (near - returns).square()), mask)


@dataclass(frozen=True, kw_only=True)
class PPOSettings(UpdateSettings):
    """The defaults are those of TRL 1.0's PPO trainer but three: it draws at temperature 0.7, puts the score one place
    after the end ("eos+1"), and does not clip gradients."""

    beta: float = 0.05
    n_epochs: int = 4
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    kl: str = "k1"
    score_at: str = "eos"
    missing_eos_penalty: float | None = None
    whiten_rewards: bool = False
    whiten_advantages: bool = True

    def __post_init__(self):
        super().__post_init__()
        self._above_0("clip", "value_clip")
        self._one_of(kl=KL_ESTIMATORS, score_at=("eos", "eos+1"))
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class PPOStats:
    """Means over the batch. The first minibatch is still on policy: ratio 1, clip fraction 0, approximate KL 0."""

    score: float
    kl: float  # nats an answer, policy against reference
    length: float  # tokens an answer
    entropy: float  # nats a token
    first_ratio: float
    first_clip_fraction: float
    first_approx_kl: float
    clip_fraction: float  # the last minibatch's, as those below
    approx_kl: float
    policy_loss: float
    value_loss: float


@dataclass(frozen=True)
class Targets:
    """What the update aims at, (B, T) each, fixed while the policy moves."""

    advantages: Tensor
    returns: Tensor
    old_values: Tensor
    value_mask: Tensor

    def rows(self, index: Tensor) -> "Targets":
        """Those of some of the answers: a minibatch."""
        return Targets(*(getattr(self, field.name)[index] for field in fields(self)))


@torch.no_grad()
def ppo_targets(rollout: Rollout, scores: Tensor, values: Tensor, settings: PPOSettings) -> Targets:
    """Scores (B,) and values (B, T) -> advantages and returns, as PPOSettings says."""
    scores = penalise_missing_end(scores, rollout.ended, settings.missing_eos_penalty)
    states = value_mask(rollout.mask, settings.score_at)
    rewards = token_rewards(
        rollout.log_probs, rollout.ref_log_probs, scores, rollout.mask, settings.beta, settings.score_at, settings.kl
    )
    if settings.whiten_rewards:
        rewards = masked_whiten(rewards, states, shift_mean=False)
    values = values.masked_fill(~states, 0.0)
    advantages, returns = gae(rewards, values, states, settings.gamma, settings.lam)
    if settings.whiten_advantages:
        advantages = masked_whiten(advantages, rollout.mask)
    return Targets(advantages.masked_fill(~rollout.mask, 0.0), returns, values, states)


def ppo_step(
    policy: nn.Module,
    value_model: nn.Module,
    optimizer,
    rollout: Rollout,
    scores: Tensor,
    settings: PPOSettings = PPOSettings(),  # noqa: B008 (frozen)
    generator: torch.Generator | None = None,
) -> PPOStats:
    """Learn from one batch of answers: n_epochs passes over it in n_minibatches parts, shuffled by the generator.

    optimizer   of both models' parameters (AdamW of llmkit, or torch's)
    scores      (B,) what the answers are worth, from a reward model or a verifier

    Raises ValueError for scores of another length, an answer without tokens, or more minibatches than answers.
    """
    scores = checked_scores(rollout, scores)
    with torch.no_grad():
        targets = ppo_targets(rollout, scores, completion_values(value_model, rollout), settings)
    parameters = [*policy.parameters(), *value_model.parameters()]
    log = []
    for rows, part in minibatches(rollout, settings.n_epochs, settings.n_minibatches, generator):
        loss, stats = _minibatch_loss(policy, value_model, part, targets.rows(rows), settings)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(parameters, settings.max_grad_norm)
        optimizer.step()
        log.append(stats)
    first, last = log[0], log[-1]
    kl = (rollout.log_probs - rollout.ref_log_probs).sum(1).mean()
    return PPOStats(
        float(scores.mean()), float(kl), float(rollout.mask.sum(1).float().mean()), first["entropy"],
        first["ratio"], first["clip_fraction"], first["approx_kl"],
        last["clip_fraction"], last["approx_kl"], last["policy_loss"], last["value_loss"],
    )  # fmt: skip


def _minibatch_loss(
    policy: nn.Module, value_model: nn.Module, part: Rollout, targets: Targets, settings: PPOSettings
) -> tuple[Tensor, dict[str, float]]:
    all_log_probs = completion_logits(policy, part, settings.temperature).log_softmax(-1)  # (b, T, V)
    log_probs = all_log_probs.gather(-1, part.completions[..., None]).squeeze(-1).masked_fill(~part.mask, 0.0)
    values = completion_values(value_model, part)
    now = (log_probs, part.log_probs, targets.advantages, part.mask, settings.clip)
    pg = policy_loss(*now)
    vf = value_loss(values, targets.old_values, targets.returns, targets.value_mask, settings.value_clip)
    with torch.no_grad():
        moved = log_probs - part.log_probs
        stats = {
            "ratio": masked_mean(moved.exp(), part.mask),
            "approx_kl": 0.5 * masked_mean(moved.square(), part.mask),
            "entropy": masked_mean(-(all_log_probs.exp() * all_log_probs).sum(-1), part.mask),
            "clip_fraction": clip_fraction(*now), "policy_loss": pg, "value_loss": vf,
        }  # fmt: skip
    return pg + settings.value_weight * vf, {name: float(x.detach()) for name, x in stats.items()}
