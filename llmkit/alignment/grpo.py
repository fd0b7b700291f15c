"""GRPO and its relatives: answers to one prompt are compared with each other, so no value model is needed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmkit.alignment.advantages import (
    check_beta,
    group_advantages,
    kl_estimate,
    masked_mean,
    zero_variance_fraction,
)
from llmkit.alignment.minibatches import UpdateSettings, checked_scores, minibatches
from llmkit.alignment.rollout import Rollout, completion_log_probs
from llmkit.training.optim import clip_gradients


def importance_log_ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """log of new over old probability: (B, T) for "token", (B, 1) for "sequence", the mean over the answer's tokens.

    "sequence" is GSPO: one ratio for an answer, the geometric mean. Source: Zheng et al. 2025 (GSPO, arXiv 2507.18071).
    """
    log_ratio = (log_probs - old_log_probs).masked_fill(~mask, 0.0)
    if level == "token":
        return log_ratio
    if level == "sequence":
        return log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    raise ValueError(f"level is 'token' or 'sequence', got {level!r}")


def token_losses(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    level: str = "token",
    ref_log_probs: Tensor | None = None,
    beta: float = 0.0,
    correct_kl: bool = False,
) -> Tensor:
    """(B, T): the clipped loss of every token, with beta times k3 added where beta is above 0.

    advantages   (B,), one for an answer
    clip_high    above clip_low it is DAPO's clip-higher, which lets rare tokens grow
    correct_kl   multiply k3 by the ratio: k3 differentiated as it stands pulls towards the minimum of
                 KL(reference || policy), see `kl_estimate`

    Sources: Shao et al. 2024, equations 3 and 4; Yu et al. 2025 (DAPO), section 3.1.
    """
    check_beta(beta)
    if beta > 0 and ref_log_probs is None:
        raise ValueError(f"beta is {beta}, so the reference's log-probabilities are needed: give ref_log_probs")
    ratio = importance_log_ratio(log_probs, old_log_probs, mask, level).exp()
    A = advantages[:, None]
    losses = -torch.minimum(ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A).expand(mask.shape)
    if beta > 0:
        kl = kl_estimate(log_probs, ref_log_probs, "k3")
        losses = losses + beta * (kl * ratio if correct_kl else kl)
    return losses.masked_fill(~mask, 0.0)


def per_answer_mean(losses: Tensor, mask: Tensor, max_new_tokens: int, n_tokens: float) -> Tensor:
    """GRPO: the mean of each answer, then of those. A long wrong answer is blamed less per token than a short one."""
    return (losses.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)).mean()


def token_mean(losses: Tensor, mask: Tensor, max_new_tokens: int, n_tokens: float) -> Tensor:
    """BNPO: all tokens of this (mini)batch alike."""
    return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def constant_mean(losses: Tensor, mask: Tensor, max_new_tokens: int, n_tokens: float) -> Tensor:
    """Dr. GRPO: divided by answers times greatest length, the same whatever the policy wrote."""
    return losses.masked_fill(~mask, 0.0).sum() / (len(mask) * max_new_tokens)


def global_token_mean(losses: Tensor, mask: Tensor, max_new_tokens: int, n_tokens: float) -> Tensor:
    """DAPO: divided by n_tokens, the tokens of the whole batch, of which this may be a part."""
    return losses.masked_fill(~mask, 0.0).sum() / max(n_tokens, 1)


# How (B, T) losses become one number; all take the mask, the greatest length, and the tokens of the whole batch.
REDUCTIONS: dict[str, Callable[[Tensor, Tensor, int, float], Tensor]] = {
    "grpo": per_answer_mean,
    "bnpo": token_mean,
    "dr_grpo": constant_mean,
    "dapo": global_token_mean,
}


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(UpdateSettings):
    """TRL's defaults but two: there `reduction` is "dapo" and `correct_kl` (use_bias_correction_kl, which counts only
    with a beta) is true, here they are the paper's. Always say which you mean.

    kl   "loss": beta k3 in every token's loss (the paper). "reward": beta k1, summed over the answer, comes off its
         reward, which is the KL that RLHF's optimum is defined with
    """

    beta: float = 0.0
    n_epochs: int = 1
    group_size: int = 8
    reduction: str = "grpo"
    std: str = "sample"
    clip_low: float = 0.2
    clip_high: float = 0.2
    level: str = "token"
    kl: str = "loss"
    correct_kl: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.group_size < 2:
            raise ValueError(f"a group of {self.group_size} has nothing to be compared with: take at least 2 answers")
        self._above_0("clip_low", "clip_high")
        self._one_of(
            reduction=tuple(REDUCTIONS),
            std=("sample", "population", "none"),
            level=("token", "sequence"),
            kl=("loss", "reward"),
        )


@dataclass(frozen=True)
class GRPOStats:
    """Means over the batch; the first minibatch is on policy, with ratio 1 and clip fraction 0."""

    reward: float
    kl: float  # nats an answer
    length: float  # tokens an answer
    zero_variance: float  # share of the groups of equal rewards: they teach nothing but a KL that is in the reward
    first_ratio: float
    first_clip_fraction: float
    clip_fraction: float
    loss: float


def grpo_step(
    policy: nn.Module,
    optimizer,
    rollout: Rollout,
    rewards: Tensor,
    settings: GRPOSettings = GRPOSettings(),  # noqa: B008 (frozen)
    generator: torch.Generator | None = None,
) -> GRPOStats:
    """Learn from one batch of groups: rewards (B,), answers to one prompt together, group_size of them.

    With several minibatches answers are shuffled; advantages are those of the whole groups. Raises ValueError for
    rewards that make no groups, a group of answers to different prompts, an answer without tokens, or more minibatches
    than answers.
    """
    rewards = checked_scores(rollout, rewards)
    _check_groups(rollout, settings.group_size)
    kl = (rollout.log_probs - rollout.ref_log_probs).sum(1)  # (B,) k1 of each answer
    in_loss = settings.beta if settings.kl == "loss" else 0.0
    paid = rewards if settings.kl == "loss" else rewards - settings.beta * kl
    advantages = group_advantages(paid, settings.group_size, settings.std)
    max_new_tokens = rollout.mask.size(1)
    log = []
    for rows, part in minibatches(rollout, settings.n_epochs, settings.n_minibatches, generator):
        log_probs = completion_log_probs(policy, part, settings.temperature)
        losses = token_losses(
            log_probs, part.log_probs, advantages[rows], part.mask, settings.clip_low, settings.clip_high,
            settings.level, part.ref_log_probs, in_loss, settings.correct_kl,
        )  # fmt: skip
        n_tokens = float(rollout.mask.sum()) / settings.n_minibatches  # of the whole batch, a minibatch's share
        loss = REDUCTIONS[settings.reduction](losses, part.mask, max_new_tokens, n_tokens)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(policy.parameters(), settings.max_grad_norm)
        optimizer.step()
        log.append((*_ratio_stats(log_probs.detach(), part, advantages[rows], settings), float(loss.detach())))
    return GRPOStats(
        float(rewards.mean()), float(kl.mean()), float(rollout.mask.sum(1).float().mean()),
        zero_variance_fraction(rewards, settings.group_size), log[0][0], log[0][1], log[-1][1], log[-1][2],
    )  # fmt: skip


def _check_groups(rollout: Rollout, n: int) -> None:
    """A group is compared with its own mean, which says nothing where its prompts differ."""
    prompts = rollout.prompts.masked_fill(~rollout.prompt_mask, -1)
    if len(prompts) % n == 0:  # if not, group_advantages says so
        same = (prompts.unflatten(0, (-1, n)) == prompts[::n, None]).flatten(1).all(1)
        if not bool(same.all()):
            raise ValueError(
                f"group {int((~same).nonzero()[0])} has answers to different prompts: answers to one prompt stand "
                f"together, [prompt for prompt in prompts for _ in range({n})]"
            )


def _ratio_stats(log_probs: Tensor, part: Rollout, advantages: Tensor, settings: GRPOSettings) -> tuple[float, float]:
    """Mean ratio, and the share of tokens whose gradient the clip took away."""
    ratio = importance_log_ratio(log_probs, part.log_probs, part.mask, settings.level).exp().expand(part.mask.shape)
    A = advantages[:, None]
    clipped = ((ratio > 1 + settings.clip_high) & (A > 0)) | ((ratio < 1 - settings.clip_low) & (A < 0))
    return float(masked_mean(ratio, part.mask)), float(masked_mean(clipped.float(), part.mask))
