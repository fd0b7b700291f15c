"""What PPO's and GRPO's updates have in common: some settings, checked scores, and shuffled parts of a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmkit.alignment.advantages import check_beta, last_token
from llmkit.alignment.rollout import Rollout


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """How an update goes over a batch of answers. Raises ValueError for values that no update can use."""

    beta: float  # price of a nat of KL, in units of score
    n_epochs: int  # passes over the batch
    n_minibatches: int = 1  # parts of it, one step each
    temperature: float = 1.0  # that the answers were drawn with
    max_grad_norm: float = 1.0

    def __post_init__(self):
        check_beta(self.beta)
        if self.n_epochs < 1:
            raise ValueError(f"n_epochs is {self.n_epochs}: a batch is learnt from at least once")
        if self.n_minibatches < 1:
            raise ValueError(f"n_minibatches is {self.n_minibatches}: a batch has at least one part")
        self._above_0("temperature", "max_grad_norm")

    def _above_0(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is above 0, got {getattr(self, name)}")

    def _one_of(self, **known: tuple[str, ...]) -> None:
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)!r} is not known: take one of {', '.join(values)}")


def checked_scores(rollout: Rollout, scores: Tensor | Sequence[float]) -> Tensor:
    """Scores (B,), which a verifier may give as whole numbers and on another device, as numbers like the rollout's.

    Raises ValueError for scores of another length, for one that is not finite, and for an answer without tokens.
    """
    scores = torch.as_tensor(scores)
    if scores.shape != (len(rollout),):
        raise ValueError(f"scores {tuple(scores.shape)} for {len(rollout)} answers: one score each is needed")
    if not bool(scores.isfinite().all()):
        row = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(f"the score of answer {row} is {float(scores[row])}: nothing can be learned from it")
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
