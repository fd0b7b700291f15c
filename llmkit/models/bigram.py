"""The smallest neural language model: a table of logits, one row for each previous token."""

import torch
from torch import Tensor
from torch.nn import functional as F


def bigram_gradient(table: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy of a bigram model with respect to its table of logits.

    table  (V, V) float; row i holds the logits of the token that follows token i
    x, y   (N,) int64; y[j] is the token that followed x[j]

    Returns (V, V), of the table's dtype. For one pair the gradient of row x is softmax(table[x]) - onehot(y);
    pairs with the same x add up in the same row; rows that occur in no pair stay 0. The whole is divided by
    N.

    >>> bigram_gradient(torch.zeros(2, 2), torch.tensor([0]), torch.tensor([1]))
    tensor([[ 0.5000, -0.5000],
            [ 0.0000,  0.0000]])
    """
    error = torch.softmax(table[x], dim=-1) - F.one_hot(y, table.shape[1]).to(table.dtype)  # (N, V)
    return torch.zeros_like(table).index_add(0, x, error / len(x))


def train_bigram(x: Tensor, y: Tensor, vocabulary_size: int, steps: int, lr: float) -> tuple[Tensor, list[float]]:
    """Gradient descent on all pairs at once; returns the table (V, V) and the loss (nats) before each step.

    Each row's step is divided by the row's share of the pairs: the rows are independent problems, and without
    this the row of a rare token would hardly move.
    """
    table = torch.zeros(vocabulary_size, vocabulary_size, device=x.device)
    share = torch.bincount(x, minlength=vocabulary_size).clamp(min=1)[:, None] / len(x)  # (V, 1)
    losses = []
    for _ in range(steps):
        losses.append(F.cross_entropy(table[x], y).item())
        table -= lr * bigram_gradient(table, x, y) / share
    return table, losses
