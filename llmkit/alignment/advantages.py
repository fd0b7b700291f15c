"""From the score of an answer to one number for every token: rewards, advantages, whitening.

B answers of at most T tokens. A mask (B, T) is true for the tokens of an answer, its end-of-text token included, and
false after them; answers stand at the left, so a mask is true first and false then.
"""

import torch
from torch import Tensor

KL_ESTIMATORS = ("k1", "k2", "k3")


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, kind: str = "k1") -> Tensor:
    """KL(policy || reference) in nats from tokens that the policy drew, one estimate a token, any shape.

    With d = log_probs - ref_log_probs: k1 = d, k2 = d²/2, k3 = exp(-d) - 1 + d. The means of k1 and k3 are the KL
    exactly; k3 is never negative; k2 is biased. Their *gradients* are another matter: differentiated through d, k1
    gives nothing on average, k2 the gradient of KL(policy || reference), k3 that of KL(reference || policy). Used as a
    reward, without a gradient, k1 is right. Source: Schulman 2020, "Approximating KL divergence" (joschu.net).

    >>> kl_estimate(torch.tensor([0.5]), torch.tensor([0.0]), "k3")
    tensor([0.1065])
    """
    d = log_probs - ref_log_probs
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    if kind == "k3":
        return torch.expm1(-d) + d
    raise ValueError(f"kl estimator {kind!r} is not known: take one of {', '.join(KL_ESTIMATORS)}")


def last_token(mask: Tensor) -> Tensor:
    """(B,): where the last token of each answer stands. Raises ValueError for an answer without tokens.

    >>> last_token(torch.tensor([[True, True, False], [True, True, True]]))
    tensor([1, 2])
    """
    lengths = mask.sum(-1)
    if mask.size(-1) == 0 or (lengths == 0).any():
        raise ValueError("an answer has no tokens: sample at least one, and count the end-of-text token in the mask")
    return lengths - 1


def penalise_missing_end(scores: Tensor, ended: Tensor, penalty: float | None) -> Tensor:
    """scores (B,) less `penalty` where the answer was cut off before its end-of-text token; None changes nothing.

    TRL subtracts (PPO); other trainers put a fixed low score in its place.
    """
    return scores if penalty is None else torch.where(ended, scores, scores - penalty)


def token_rewards(
    log_probs: Tensor, ref_log_probs: Tensor, scores: Tensor, mask: Tensor, beta: float, score_at: str = "eos",
    kl: str = "k1",
) -> Tensor:  # fmt: skip
    """The reward of every token, (B, T): -beta times its KL estimate, and the answer's score at the end.

    scores     (B,)
    score_at   "eos": with the last token. "eos+1": with the first place after it, where there is one, as TRL does;
               the value of that state must then be learned too (`value_mask`)

    Raises ValueError for beta < 0, which would pay for leaving the reference. Source: Ziegler et al. 2019, section 2.

    >>> mask = torch.tensor([[True, True, False]])
    >>> now, ref = torch.tensor([[0.0, -1.0, 0.0]]), torch.tensor([[-0.5, -0.5, 0.0]])
    >>> token_rewards(now, ref, torch.tensor([2.0]), mask, 0.1)
    tensor([[-0.0500,  2.0500,  0.0000]])
    """
    check_beta(beta)
    at = last_token(mask)
    if score_at == "eos+1":
        at = (at + 1).clamp(max=mask.size(1) - 1)
    elif score_at != "eos":
        raise ValueError(f"score_at is 'eos' or 'eos+1', got {score_at!r}")
    rewards = (-beta * kl_estimate(log_probs, ref_log_probs, kl)).masked_fill(~mask, 0.0)
    return rewards.scatter_add(1, at[:, None], scores[:, None].to(rewards.dtype))


def check_beta(beta: float) -> None:
    """Raises ValueError for a KL weight below 0."""
    if beta < 0:
        raise ValueError(f"beta is {beta}: below 0 it pays the policy for leaving the reference; use 0 for no KL")


def value_mask(mask: Tensor, score_at: str = "eos") -> Tensor:
    """(B, T): the states whose value counts: those before each token, and with "eos+1" the one after the last too.

    >>> value_mask(torch.tensor([[True, False, False]]), "eos+1").tolist()
    [[True, True, False]]
    """
    if score_at == "eos":
        return mask
    longer = mask.clone()
    longer[:, 1:] |= mask[:, :-1]
    return longer


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: advantages and returns, (B, T) each, 0 outside the mask.

    rewards   (B, T) for the token written at each place
    values    (B, T) of the state *before* that token
    mask      (B, T) places that exist; after the last one the value is 0, whether the answer ended or was cut off

    delta_t = r_t + gamma V_(t+1) - V_t; A_t = delta_t + gamma lam A_(t+1); returns = A + V.
    lam 1 is the whole future reward less the value, lam 0 one step. Source: Schulman et al. 2016, equations 11 to 16.

    >>> mask = torch.ones(1, 3, dtype=torch.bool)
    >>> gae(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]]), mask, lam=1.0)[0]
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    if rewards.shape != values.shape or rewards.shape != mask.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and mask {tuple(mask.shape)} must all be "
            "(B, T): one value for the state before each token"
        )
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(values)  # rewards may be whole numbers
    advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(rewards.size(1))):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * advantage
        advantages[:, t], next_value = advantage, values[:, t]
    return advantages.masked_fill(~mask, 0.0), (advantages + values).masked_fill(~mask, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is true. Raises ValueError where it is nowhere.

    >>> masked_mean(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    if not mask.any():
        raise ValueError("no token is counted: the mask is false everywhere")
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()


def masked_whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Values of variance 1, and of mean 0 with shift_mean, both taken over the mask; outside it 0.

    The variance divides by n - 1, and 1e-8 is added to it. Rewards are scaled without shift: a shift would pay for
    length. Raises ValueError for fewer than two counted tokens.

    >>> masked_whiten(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False]))
    tensor([-0.7071,  0.7071,  0.0000])
    """
    n = int(mask.sum())
    if n < 2:
        raise ValueError(f"whitening needs at least two tokens, got {n}: enlarge the batch, or turn it off")
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask) * n / (n - 1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean).masked_fill(~mask, 0.0)


def group_advantages(rewards: Tensor, group_size: int, std: str = "sample", eps: float = 1e-4) -> Tensor:
    """GRPO: how much better an answer is than the others to the same prompt. Rewards (N,) -> advantages (N,).

    rewards   answers to one prompt stand together, group_size of them
    std       what the distance from the group's mean is divided by: "sample" deviation (n - 1, TRL), "population" (n,
              DeepSeekMath's formula as numpy writes it), "none" (Dr. GRPO)

    The advantages of a group sum to 0; a group of equal rewards gets 0 and teaches nothing. The answer itself is in the
    mean that it is compared with, so "none" gives (n - 1) / n of the true policy gradient on average, for groups of n;
    with a deviation the mean gradient has another direction, too. Sources: Shao et al. 2024,
    section 4.1.2; Liu et al. 2025 (Dr. GRPO), section 3.1.

    >>> group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), 4)
    tensor([ 1.4997, -0.4999, -0.4999, -0.4999])
    """
    grouped = _groups(rewards, group_size)
    centred = grouped - grouped.mean(1, keepdim=True)
    if std == "none":
        return centred.flatten()
    if std not in ("sample", "population"):
        raise ValueError(f"std is 'sample', 'population' or 'none', got {std!r}")
    return (centred / (grouped.std(1, correction=int(std == "sample"), keepdim=True) + eps)).flatten()


def zero_variance_fraction(rewards: Tensor, group_size: int) -> float:
    """The share of groups whose answers all got the same reward, so that they give no gradient.

    >>> zero_variance_fraction(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2)
    0.5
    """
    grouped = _groups(rewards, group_size)
    return float((grouped == grouped[:, :1]).all(1).float().mean())


def _groups(rewards: Tensor, group_size: int) -> Tensor:
    if group_size < 2:
        raise ValueError(f"a group of {group_size} has nothing to be compared with: sample at least 2 answers a prompt")
    if rewards.dim() != 1 or rewards.numel() == 0 or rewards.numel() % group_size:
        raise ValueError(f"rewards {tuple(rewards.shape)} do not make groups of {group_size} answers to one prompt")
    return rewards.float().unflatten(0, (-1, group_size))  # (N,) -> (groups, group_size)
