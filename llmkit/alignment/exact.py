"""The exact optimum: with 8 tokens and answers of 4, all 4096 are counted, and RLHF's best policy is arithmetic.

P prompts, N = vocab ** length answers, L = length. A policy is a table of log-probabilities (P, N), a reward a table
(P, N). Tables are float64: the identities here hold to 1e-9 and not to 1e-6.
"""

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llmkit.training.loop import History, train

VOCAB, LENGTH = 8, 4


def answers(vocab: int = VOCAB, length: int = LENGTH) -> Tensor:
    """All answers, (vocab ** length, length), counting up; answer i has the digits of i in base `vocab`.

    >>> answers(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    if vocab < 1 or length < 1:
        raise ValueError(f"answers need vocab >= 1 and length >= 1, got {vocab} and {length}")
    return torch.cartesian_prod(*[torch.arange(vocab)] * length).reshape(-1, length)


def answer_index(ids: Tensor, vocab: int = VOCAB) -> Tensor:
    """(..., L) -> (...): which row of `answers` each answer is, to look sampled answers up in a table.

    >>> answer_index(torch.tensor([[0, 0, 1, 3]]))
    tensor([11])
    """
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab:
        raise ValueError(f"answers have tokens 0 … {vocab - 1}, got {int(ids.min())} to {int(ids.max())}")
    return (ids * vocab ** torch.arange(ids.size(-1) - 1, -1, -1, device=ids.device)).sum(-1)


def log_probs(model: Callable[[Tensor], Tensor], prompts: Tensor, vocab: int = VOCAB, length: int = LENGTH) -> Tensor:
    """log P of every answer after every prompt, with gradients: (P, N), each row of exp sums to 1.

    model     ids (B, T) -> logits (B, T, V), causal, V >= vocab; tokens from `vocab` on are ruled out
    prompts   (P, T) without padding

    Only the vocab ** (length - 1) beginnings are run: the model's last logits hold all their ends.
    """
    P = len(prompts)
    begun = answers(vocab, length - 1) if length > 1 else torch.empty(1, 0, dtype=torch.long)
    begun = begun.to(prompts.device)
    rows = torch.cat([prompts.repeat_interleave(len(begun), 0), begun.repeat(P, 1)], 1)  # (P * N / vocab, T + L - 1)
    logits = model(rows)[:, prompts.size(1) - 1 :, :vocab]  # (P * N / vocab, L, vocab)
    steps = logits.double().log_softmax(-1)
    before = steps[:, :-1].gather(-1, rows[:, prompts.size(1) :, None]).sum((1, 2))  # (P * N / vocab,)
    return (before[:, None] + steps[:, -1]).reshape(P, -1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats for tables (..., N) -> (...): what q loses where p is true. An answer with p = 0 adds 0.

    >>> kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.75, 0.25]).log())
    tensor(0.1438)
    """
    check_shapes(log_p=log_p, log_q=log_q)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def objective(log_p: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """J = E_p[reward] - beta KL(p || reference), tables (P, N) -> (P,). RLHF makes its mean over prompts large."""
    _check_beta(beta)
    check_shapes(log_p=log_p, ref_log_probs=ref_log_probs, rewards=rewards)
    return (log_p.exp() * rewards).sum(-1) - beta * kl(log_p, ref_log_probs)


class Optimum(NamedTuple):
    """The best policy there is."""

    log_probs: Tensor  # (P, N)
    log_z: Tensor  # (P,)
    value: Tensor  # (P,) J* = beta log Z


def optimum(ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Optimum:
    """pi* = reference exp(reward / beta) / Z, and J* = beta log Z.

    For every policy J* - J(p) = beta KL(p || pi*), so nothing does better. Source: Rafailov et al. 2023, appendix A.1.

    >>> optimum(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.0, 1.0]]), beta=0.5).log_probs.exp()
    tensor([[0.1192, 0.8808]])
    """
    _check_beta(beta)
    check_shapes(ref_log_probs=ref_log_probs, rewards=rewards)
    weights = ref_log_probs + rewards / beta
    log_z = weights.logsumexp(-1)
    return Optimum(weights - log_z[..., None], log_z, beta * log_z)


def policy_gradient_loss(log_p: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """A scalar whose gradient is the expectation of REINFORCE's, over all answers: that of minus the mean J.

    Each answer's log p is weighed by p (reward - beta log(p / reference) - J), held fixed; taking J off changes no
    expectation. The value means nothing: only the gradient does. Source: Williams 1992.
    """
    _check_beta(beta)
    check_shapes(log_p=log_p, ref_log_probs=ref_log_probs, rewards=rewards)
    fixed = log_p.detach()
    returns = rewards - beta * (fixed - ref_log_probs)
    advantages = returns - (fixed.exp() * returns).sum(-1, keepdim=True)
    return -(fixed.exp() * advantages * log_p).sum(-1).mean()


def exact_policy_gradient(
    model: nn.Module,
    prompts: Tensor,
    ref_log_probs: Tensor,
    rewards: Tensor,
    beta: float,
    n_steps: int = 150,
    lr: float = 2e-2,
    evaluate: Callable[[nn.Module], Any] | None = None,
    evaluate_at: Sequence[int] = (),
) -> History:
    """Train the model itself by the gradient without noise, over all answers: what a sampled method can hope for.

    ref_log_probs, rewards   (P, N) of the prompts, N = VOCAB ** LENGTH
    """

    def loss(model: nn.Module, prompts: Tensor) -> Tensor:
        return policy_gradient_loss(log_probs(model, prompts), ref_log_probs, rewards, beta)

    return train(
        model, repeat((prompts,)), n_steps, lr, weight_decay=0.0, loss=loss, evaluate=evaluate,
        evaluate_at=evaluate_at, progress=False,
    )  # fmt: skip


class Frontier(NamedTuple):
    """The best there is at each price of KL; means over the prompts, all (M,)."""

    betas: Tensor
    kl: Tensor
    reward: Tensor


def frontier(ref_log_probs: Tensor, rewards: Tensor, betas: Sequence[float]) -> Frontier:
    """Reward and KL of pi* for each beta: on the plane of KL and reward no policy lies above this line."""
    points = []
    for beta in betas:
        best = optimum(ref_log_probs, rewards, beta).log_probs
        points.append([beta, kl(best, ref_log_probs).mean().item(), (best.exp() * rewards).sum(-1).mean().item()])
    return Frontier(*torch.tensor(points, dtype=torch.float64).T)


def most_reward(at_kl: float, ref_log_probs: Tensor, rewards: Tensor, betas: Sequence[float]) -> float:
    """A ceiling for the mean reward of any policy whose mean KL is at_kl nats: the least of J* + beta KL over betas.

    Every beta gives a true ceiling; the finer the betas, the nearer it is to the frontier.
    """
    return min(optimum(ref_log_probs, rewards, beta).value.mean().item() + beta * at_kl for beta in betas)


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta, the price of a nat of KL, must be above 0, got {beta}")


def check_shapes(**tables: Tensor) -> None:
    if len({tuple(table.shape) for table in tables.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(table.shape)}" for name, table in tables.items())
        raise ValueError(f"tables must have one shape (P, N), got {shapes}")
