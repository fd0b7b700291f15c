"""Pairs of answers with the better one named, by a judge whose noise is known. P prompts, N answers, M pairs."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Pairs(NamedTuple):
    """M comparisons: chosen[m] was preferred to rejected[m] as an answer to prompt[m]. All (M,), numbers of rows."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor


def win_probability(first: Tensor, second: Tensor, flip: float = 0.0) -> Tensor:
    """P(first is preferred) under Bradley and Terry: sigmoid(first - second), any shape.

    flip   the share of comparisons whose answer is turned round afterwards, 0 to 0.5: a judge who clicks wrong

    Source: Bradley and Terry 1952.

    >>> win_probability(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), flip=0.1)
    tensor([0.6848, 0.5000])
    """
    if not 0 <= flip <= 0.5:
        raise ValueError(f"flip is a share of turned answers between 0 and 0.5, got {flip}")
    return flip + (1 - 2 * flip) * torch.sigmoid(first - second)


def sample_pairs(
    log_probs: Tensor, scores: Tensor, n: int, generator: torch.Generator | None = None, flip: float = 0.0
) -> Pairs:
    """n comparisons of two answers that a policy gives to the same prompt, judged by `win_probability` of scores.

    log_probs   (P, N) of the policy; prompts are drawn evenly, both answers from their row, perhaps the same one twice
    scores      (P, N) what the judge goes by
    """
    if n < 1:
        raise ValueError(f"sample_pairs needs n >= 1, got {n}")
    if log_probs.dim() != 2 or log_probs.shape != scores.shape:
        raise ValueError(
            f"log_probs and scores must both be (P, N), got {tuple(log_probs.shape)} and {tuple(scores.shape)}"
        )
    prompt = torch.randint(len(log_probs), (n,), generator=generator)
    two = torch.empty(n, 2, dtype=torch.long)
    for p, row in enumerate(log_probs):
        asked = prompt == p
        drawn = torch.multinomial(row.exp(), 2 * int(asked.sum()) or 1, replacement=True, generator=generator)
        two[asked] = drawn[: 2 * int(asked.sum())].view(-1, 2)
    first, second = two.unbind(1)
    wins = torch.rand(n, generator=generator) < win_probability(scores[prompt, first], scores[prompt, second], flip)
    return Pairs(prompt, torch.where(wins, first, second), torch.where(wins, second, first))


def accuracy_ceiling(win_probs: Tensor) -> float:
    """E[max(p, 1 - p)]: how often the best possible judge of pairs agrees with labels as noisy as these.

    >>> accuracy_ceiling(torch.tensor([0.5, 0.75]))
    0.625
    """
    _check_probs(win_probs)
    return torch.maximum(win_probs, 1 - win_probs).double().mean().item()


def label_entropy(win_probs: Tensor) -> float:
    """Mean entropy of the labels in nats: the Bradley-Terry loss of a model that knows the true scores.

    >>> round(label_entropy(torch.tensor([0.5])), 4)
    0.6931
    """
    _check_probs(win_probs)
    both = torch.stack([win_probs, 1 - win_probs]).double()
    return torch.special.entr(both).sum(0).mean().item()


def fit_bradley_terry(wins: Tensor, n_steps: int = 50) -> Tensor:
    """The scores of K items that make their comparisons most probable, mean 0: (K,) float64.

    wins   (K, K) how often row beat column; the diagonal is not looked at

    Newton's method on the logistic loss. Raises ValueError where no finite best scores exist: some group of items was
    never beaten by the rest. Source: Ford 1957 for the condition.

    >>> fit_bradley_terry(torch.tensor([[0, 3], [1, 0]]))   # won 3 of 4: the difference is log 3
    tensor([ 0.5493, -0.5493], dtype=torch.float64)
    """
    if wins.dim() != 2 or wins.size(0) != wins.size(1):
        raise ValueError(f"wins must be (K, K), got {tuple(wins.shape)}")
    K = len(wins)
    wins = wins.double().masked_fill(torch.eye(K, dtype=torch.bool), 0.0)
    reach = (wins > 0).double() + torch.eye(K, dtype=torch.float64)
    for _ in range(K.bit_length()):  # squared: who beat whom over 2, 4, 8, … others
        reach = (reach @ reach > 0).double()
    if not reach.all():
        raise ValueError("some items never lost to the others, so their best scores are infinite: compare more pairs")
    games, scores = wins + wins.T, torch.zeros(K, dtype=torch.float64)
    for _ in range(n_steps):
        p = torch.sigmoid(scores[:, None] - scores)
        gradient = wins.sum(1) - (games * p).sum(1)
        weights = games * p * (1 - p)
        hessian = torch.diag(weights.sum(1)) - weights + 1 / K  # 1 / K: the free direction, all scores alike
        step = torch.linalg.solve(hessian, gradient)
        scores = scores + step * min(1.0, 1.0 / step.abs().max().clamp(min=1e-12).item())
    return scores - scores.mean()


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, centre: float = 0.0) -> Tensor:
    """Mean of -log sigmoid(chosen - rejected - margin), scores (M,) -> scalar in nats.

    margin   (M,) or a number: by how much the chosen one should lead (Llama 2, section 3.2.2); (M, 1) is
             refused, for it would be broadcast to (M, M)
    centre   weight of mean (chosen + rejected)^2. Only differences are asked for, so scores may float anywhere;
             this holds them about 0 (Eisenstein et al. 2023)

    >>> bradley_terry_loss(torch.tensor([2.0]), torch.tensor([2.0]), centre=0.1)   # log 2 + 0.1 * 16
    tensor(2.2931)
    """
    if chosen.shape != rejected.shape or chosen.dim() != 1 or not len(chosen):
        raise ValueError(
            f"chosen and rejected must be (M,) with M >= 1, got {tuple(chosen.shape)} and {tuple(rejected.shape)}"
        )
    if isinstance(margin, Tensor) and margin.dim() and margin.shape != chosen.shape:
        raise ValueError(f"margin must be a number or {tuple(chosen.shape)}, got {tuple(margin.shape)}")
    loss = -F.logsigmoid(chosen - rejected - margin).mean()
    return loss + centre * (chosen + rejected).square().mean()


def pair_accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """The share of pairs whose chosen answer scores more; equal scores count half.

    >>> pair_accuracy(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0]))
    0.75
    """
    if chosen.shape != rejected.shape or not chosen.numel():
        raise ValueError(f"chosen and rejected differ or are empty: {tuple(chosen.shape)} and {tuple(rejected.shape)}")
    return ((chosen > rejected).double() + (chosen == rejected).double() / 2).mean().item()


def _check_probs(win_probs: Tensor) -> None:
    if not win_probs.numel() or not bool(((win_probs >= 0) & (win_probs <= 1)).all()):
        raise ValueError("win probabilities must lie between 0 and 1, and there must be some")
