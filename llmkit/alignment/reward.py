"""A reward model: a decoder that reads prompt and answer and ends in one number instead of logits."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.alignment.preferences import bradley_terry_loss
from llmkit.evaluation.calibration import Reliability, reliability_table
from llmkit.layers.heads import Head
from llmkit.layers.transformer import Transformer


class RewardModel(Head):
    """One score for a text, read from the state of its last token, the only one that has seen all of it.

    The head begins at N(0, 1 / sqrt(C + 1)) (Huang et al. 2024, the N+ implementation details of RLHF) and has no bias:
    pairs say nothing about one. `mean` and `std` are 0 and 1 until `normalise` measures them.
    """

    def __init__(self, transformer: Transformer, config: Any):
        super().__init__()
        self.transformer, self.config = transformer, config
        d_model = transformer.embed.tokens.embedding_dim
        self.score = nn.Linear(d_model, 1, bias=False)
        nn.init.normal_(self.score.weight, std=(d_model + 1) ** -0.5)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T) -> scores (B,); attention_mask (B, T) false for padding, which may stand on either side."""
        hidden = last_token(self.transformer(ids, attention_mask), attention_mask)
        return (self.score(hidden).squeeze(-1) - self.mean) / self.std


def reward_model(model: Head) -> RewardModel:
    """A reward model that starts from a trained model's transformer; the model itself stays as it is."""
    return RewardModel(copy.deepcopy(model.transformer).requires_grad_(True), model.config)


def last_token(hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """(B, T, C) -> (B, C): the state of each text's last token, wherever its padding stands.

    Raises ValueError for a text of padding alone.

    >>> hidden = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> last_token(hidden, torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    if attention_mask is None:
        return hidden[:, -1]
    if attention_mask.shape != hidden.shape[:2]:
        raise ValueError(
            f"attention_mask must be (B, T) = {tuple(hidden.shape[:2])}, got {tuple(attention_mask.shape)}"
        )
    real = attention_mask.bool()
    if not bool(real.any(-1).all()):
        row = int((~real.any(-1)).nonzero()[0])
        raise ValueError(f"row {row} of attention_mask has no token: there is nothing to score")
    places = torch.arange(real.size(1), device=real.device)
    last = (places * real).argmax(-1)  # (B,) places grow, so the largest one that is real is the last
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def reward_loss(
    model: nn.Module,
    ids: Tensor,
    attention_mask: Tensor | None = None,
    margin: Tensor | float = 0.0,
    centre: float = 0.0,
) -> Tensor:
    """`bradley_terry_loss` of 2M texts (2M, T), the M chosen ones first and then the M rejected, in the same order."""
    if len(ids) % 2:
        raise ValueError(f"ids holds the chosen texts and then the rejected, an even number of rows; got {len(ids)}")
    chosen, rejected = model(ids, attention_mask).chunk(2)
    return bradley_terry_loss(chosen, rejected, margin, centre)


@torch.no_grad()
def normalise(model: RewardModel, ids: Tensor, attention_mask: Tensor | None = None) -> None:
    """Set the model's mean and std so that its scores of these texts, (B, T) with B > 1, have mean 0 and std 1.

    Differences are then in units of the texts' spread, no longer log-odds, and a KL price means the same for any
    reward model. Raises ValueError when all scores are equal.
    """
    scores = model(ids, attention_mask) * model.std + model.mean
    if len(scores) < 2 or not scores.std() > 0:
        raise ValueError(f"the {len(scores)} scores do not differ, so they have no scale")
    model.mean.copy_(scores.mean())
    model.std.copy_(scores.std())


def pair_calibration(chosen: Tensor, rejected: Tensor, n_bins: int = 10) -> Reliability:
    """Where the model says the better answer with 80%, is it right in 80% of the pairs? Scores (M,), in log-odds.

    Confidence lies between 0.5 and 1, so the lower half of the bins is empty. See `reliability_table`.
    """
    p = torch.sigmoid((chosen - rejected).double())
    return reliability_table(torch.stack([p, 1 - p], -1), torch.zeros(len(p), dtype=torch.long), n_bins)
