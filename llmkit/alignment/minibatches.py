"""What PPO's and GRPO's updates do alike: they check the scores of a batch, and go over it in shuffled parts."""

from collections.abc import Iterator

import torch
from torch import Tensor

from llmkit.alignment.advantages import last_token
from llmkit.alignment.rollout import Rollout


def checked_scores(rollout: Rollout, scores: Tensor) -> Tensor:
    """Scores (B,), which a verifier may give as whole numbers and on another device, as numbers like the rollout's.

    Raises ValueError for scores of another length and for an answer without tokens.
    """
    if scores.shape != (len(rollout),):
        raise ValueError(f"scores {tuple(scores.shape)} for {len(rollout)} answers: one score each is needed")
    last_token(rollout.mask)  # no answer may be empty
    return scores.to(rollout.log_probs)


def minibatches(
    rollout: Rollout, n_epochs: int, n_minibatches: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Rollout]]:
    """n_epochs passes over the answers, each shuffled and cut into n_minibatches: (rows (b,), those answers).

    Raises ValueError, before the first, for more minibatches than answers.
    """
    B = len(rollout)
    if not 1 <= n_minibatches <= B:
        raise ValueError(f"{B} answers cannot be cut into {n_minibatches} minibatches")
    for _ in range(n_epochs):
        order = torch.randperm(B, generator=generator).to(rollout.mask.device)
        for rows in order.tensor_split(n_minibatches):
            yield rows, rollout.rows(rows)
