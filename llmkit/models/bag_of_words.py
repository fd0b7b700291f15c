"""Bag of words: a text as how often each word stands in it, the order lost. The baseline for classification."""

from typing import Any

import torch
from torch import Tensor, nn


def word_counts(ids: Tensor, vocab_size: int, attention_mask: Tensor | None = None) -> Tensor:
    """How often each token of the vocabulary stands in each text.

    ids             (B, T)
    attention_mask  (B, T) false (or 0) for padding, which is not counted whatever its id; None: there is none
    result          (B, vocab_size) float32

    >>> word_counts(torch.tensor([[2, 0, 2], [1, 0, 0]]), 4, torch.tensor([[1, 1, 1], [1, 0, 0]]))
    tensor([[1., 0., 2., 0.],
            [0., 1., 0., 0.]])
    """
    real = torch.ones(ids.shape) if attention_mask is None else attention_mask.float()
    counts = torch.zeros(len(ids), vocab_size, device=ids.device)
    return counts.scatter_add(1, ids, real.to(ids.device))


class BagOfWords(nn.Module):
    """Scores of the labels from word counts: one weight for each word and label (logistic regression).

    d_hidden   width of a hidden layer between the two; None is none. With one, words can change each other's meaning
               ("not" and "dull"), without one every word votes for itself.

    Called like an encoder with a head: (ids (B, T), attention_mask (B, T)) -> logits (B, n_labels).
    """

    def __init__(self, vocab_size: int, n_labels: int, d_hidden: int | None = None):
        super().__init__()
        self.vocab_size = vocab_size
        hidden: list[Any] = [] if d_hidden is None else [nn.Linear(vocab_size, d_hidden), nn.GELU()]
        self.scores = nn.Sequential(*hidden, nn.Linear(d_hidden or vocab_size, n_labels))

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.scores(word_counts(ids, self.vocab_size, attention_mask))
