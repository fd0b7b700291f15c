"""Change logits before a token is drawn. All take (B, V) and give (B, V); forbidden tokens become -inf."""

from dataclasses import dataclass

import torch
from torch import Tensor


def temperature(logits: Tensor, t: float) -> Tensor:
    """Divide by t: below 1 the likely tokens gain, above 1 the unlikely ones, at 1 nothing changes.

    P becomes proportional to P^(1/t). Raises ValueError for t <= 0 (the limit t = 0 is argmax: see Sampler).
    """
    if t <= 0:
        raise ValueError(f"temperature must be above 0, got {t}")
    return logits / t


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest; tokens that tie with the k-th stay too.

    >>> top_k(torch.tensor([[1.0, 3.0, 2.0]]), 2)
    tensor([[-inf, 3., 2.]])
    """
    if k < 1:
        raise ValueError(f"top_k must keep at least one token, got {k}")
    smallest_kept = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens that has at least probability p together (the nucleus).

    A token stays when those more probable than it sum to less than p: so the token that reaches p is kept, and
    the most probable one always is. Tokens of equal probability count in the order of torch's stable descending
    sort. Source: Holtzman et al. 2020, section 3.1.

    >>> top_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.6).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {p}")
    if p == 1:
        return logits  # rounded sums may reach 1 before the last token
    probs, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = probs.cumsum(-1) - probs  # of the more probable tokens
    drop = before >= p  # never the first: nothing is more probable
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens less probable than p times the most probable one. Source: Nguyen et al. 2024 (arXiv 2407.01082).

    >>> min_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.5).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p must be between 0 and 1, got {p}")
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -torch.inf)


def repetition_penalty(logits: Tensor, ids: Tensor, penalty: float, attention_mask: Tensor | None = None) -> Tensor:
    """Make tokens that stand in ids (B, T) less likely: positive logits are divided by penalty, negative multiplied.

    However often a token occurs, it is penalised once; padding (attention_mask false) does not count.
    Source: Keskar et al. 2019 (CTRL), section 4.1; transformers `RepetitionPenaltyLogitsProcessor`.

    >>> repetition_penalty(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1]]), 2.0)
    tensor([[ 1., -4.,  1.]])
    """
    if penalty <= 0:
        raise ValueError(f"repetition_penalty must be above 0, got {penalty}")
    seen = torch.zeros_like(logits, dtype=torch.bool)
    if attention_mask is None:
        seen.scatter_(-1, ids, True)
    else:
        for row, (tokens, real) in enumerate(zip(ids, attention_mask.bool(), strict=True)):
            seen[row, tokens[real]] = True
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


@dataclass(frozen=True)
class Sampler:
    """How to choose a token from logits. The steps run in the order of transformers' `generate`:
    repetition penalty, temperature, top-k, top-p, min-p, then a draw.

    temperature 0 is greedy: the most probable token, the first of equals; the cuts change nothing then. Raises
    ValueError for a setting out of its range.

    >>> Sampler(temperature=0)(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0]]))
    tensor([1])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        # Logits of no model: the function that takes a setting refuses a bad one now, not at the first token.
        if not self.probs(torch.tensor([[0.0, 1e3]]), torch.tensor([[0]])).isfinite().all():
            raise ValueError(f"{self} gives no probabilities: temperature 0 is greedy, and nan is no setting")

    def logits(self, logits: Tensor, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The changed logits, in float32; ids (B, T) is all text so far."""
        logits = logits.float()
        if self.repetition_penalty != 1.0:
            logits = repetition_penalty(logits, ids, self.repetition_penalty, attention_mask)
        if self.temperature not in (0, 1.0):
            logits = temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = top_p(logits, self.top_p)
        return logits if self.min_p is None else min_p(logits, self.min_p)

    def probs(self, logits: Tensor, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, V): the distribution that is drawn from; one-hot where greedy."""
        changed = self.logits(logits, ids, attention_mask)
        if self.temperature == 0:
            return torch.nn.functional.one_hot(changed.argmax(-1), changed.size(-1)).float()
        return changed.softmax(-1)

    def __call__(
        self,
        logits: Tensor,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B,): one token for each text."""
        if self.temperature == 0:
            return self.logits(logits, ids, attention_mask).argmax(-1)
        return self.probs(logits, ids, attention_mask).multinomial(1, generator=generator).squeeze(-1)


GREEDY = Sampler(temperature=0)
