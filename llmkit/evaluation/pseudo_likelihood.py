"""Scoring a text with a model that fills gaps: hide each token in turn, and add up."""

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def pseudo_log_likelihood(
    model: Callable[..., Tensor], ids: Tensor, mask_id: int, special: Tensor | None = None
) -> Tensor:
    """(T,) float32: log P (nats) of each token when it alone is hidden and all others are read; their sum is a score.

    model     (ids (B, T), attention_mask or None) -> logits (B, T, V)
    ids       (T,) one text without padding
    special   (T,) true for tokens that are not scored, [CLS] and [SEP]: their entry is 0

    All copies of the text go through the model as one batch, a row for each scored token. The sum is no log-probability
    of the text: each token is given those after it too. Source: Salazar et al. 2020, "Masked language model scoring",
    section 2.

    >>> pseudo_log_likelihood(lambda ids, mask: torch.zeros(*ids.shape, 2), torch.tensor([0, 1, 1]), mask_id=1)
    tensor([-0.6931, -0.6931, -0.6931])
    """
    special = torch.zeros_like(ids) if special is None else special
    places = (~special.bool()).nonzero().squeeze(-1)  # (N,)
    scores = torch.zeros(len(ids), device=ids.device)
    if not len(places):
        return scores
    rows = torch.arange(len(places), device=ids.device)
    copies = ids.repeat(len(places), 1)  # (N, T)
    copies[rows, places] = mask_id
    logits = model(copies, None)[rows, places]  # (N, V)
    scores[places] = logits.float().log_softmax(-1)[rows, ids[places]]
    return scores
