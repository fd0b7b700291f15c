"""Best of n: draw n answers, keep the one that scores most. No training, and its distribution is known exactly."""

import math

import torch
from torch import Tensor

from llmkit.alignment.exact import check_shapes


def best_of_n_distribution(ref_log_probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    """log P of what comes out when n answers are drawn from the reference and the one with most reward is kept.

    Tables (P, N) -> (P, N). Of equal rewards among the n the first is kept, which shares their part in proportion to
    the reference; what the reference never says is never kept. With F the reference's probability of a reward no larger
    than this one and f of an equal one, the best is of this reward with probability F^n - (F - f)^n.

    >>> best_of_n_distribution(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.0, 1.0]]), n=2).exp()
    tensor([[0.2500, 0.7500]])
    """
    _check_n(n)
    check_shapes(ref_log_probs=ref_log_probs, rewards=rewards)
    rows = zip(ref_log_probs.double(), rewards, strict=True)
    return torch.stack([_best_of_n(log_p, reward, n) for log_p, reward in rows]).type_as(ref_log_probs)


def _best_of_n(log_p: Tensor, reward: Tensor, n: int) -> Tensor:
    levels, level = reward.unique(return_inverse=True)
    mass = log_p.new_zeros(len(levels)).index_add(0, level, log_p.exp())
    up_to = mass.cumsum(0)
    up_to = up_to / up_to[-1]
    # F^n - (F - f)^n as F^n (1 - (1 - f / F)^n): no difference of nearly equal numbers where f is small
    share = (mass / up_to).clamp(max=1.0)
    log_best = n * up_to.log() + (-torch.expm1(n * torch.log1p(-share))).log()
    gain = (log_best - mass.log()).masked_fill(mass == 0, 0.0)  # -inf - -inf for what is never said
    return log_p + gain[level]


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n nats: best-of-n's KL from the reference is at most this; less where answers tie or are few.

    Source: Beirami et al. 2024 (arXiv 2401.01879), theorem 3.1; the formula without "at most": Stiennon et al. 2020.

    >>> round(best_of_n_kl_bound(4), 3)
    0.636
    """
    _check_n(n)
    return math.log(n) - (n - 1) / n


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"best of n needs n >= 1 answers to choose from, got {n}")
