"""LoRA: the weights stay as they are, and next to a matrix learns a product of two thin ones.

    y = W x + scale * B A dropout(x)        A (r, in), B (out, r), only these two are trained

Sources: Hu et al. 2021 (LoRA), section 4.1; Kalajdzievski 2023 (rsLoRA); Liu et al. 2024 (DoRA).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def lora_scale(alpha: float, rank: int, rslora: bool = False) -> float:
    """What multiplies B A: alpha / r, so that alpha means the same at every rank; alpha / sqrt(r) in rsLoRA.

    With alpha / r the step that a high rank takes becomes too small, and what it could learn is not used; with the
    root, outputs and gradients keep their size as r grows. Raises ValueError for a rank below 1.

    >>> lora_scale(16, 64), lora_scale(16, 64, rslora=True)
    (0.25, 2.0)
    """
    if rank < 1:
        raise ValueError(f"the rank of an adapter is at least 1, got {rank}")
    return alpha / (math.sqrt(rank) if rslora else rank)


def lora_forward(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """W x + scale * B (A x) + bias: through the thin matrices, so that no matrix of W's shape is made.

    x (…, in), weight (out, in), A (r, in), B (out, r), bias (out,) -> (…, out)

    >>> A, B = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.0]])
    >>> lora_forward(torch.tensor([1.0, 2.0]), torch.eye(2), A, B, 2.0)
    tensor([7., 2.])
    """
    return F.linear(x, weight, bias) + scale * F.linear(F.linear(x, A), B)


def merged_weight(weight: Tensor, A: Tensor, B: Tensor, scale: float, magnitude: Tensor | None = None) -> Tensor:
    """The one matrix (out, in) that does what W and its adapter do; a new tensor of weight's dtype.

    magnitude   (out,) of DoRA: each row of W + scale * B A is brought to this length

    Computed in float32 at least: in bfloat16 a small update would vanish in the sum.

    >>> A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]])
    >>> merged_weight(torch.eye(2), A, B, 0.5)
    tensor([[2.5000, 3.0000],
            [0.0000, 1.0000]])
    >>> merged_weight(torch.eye(2), A, B, 0.5, magnitude=torch.tensor([5.0, 2.0]))[1]
    tensor([0., 2.])
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    merged = weight.to(wide) + scale * (B.to(wide) @ A.to(wide))
    if magnitude is not None:
        merged = merged * (magnitude.to(wide) / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype)


@dataclass(frozen=True)
class LoRAConfig:
    """targets   endings of module names, such as ("q_proj", "v_proj"); or "all-linear": every Linear inside the blocks
    dropout   of what goes into A, in training
    rslora    scale alpha / sqrt(rank) instead of alpha / rank
    dora      learn each output's length apart from its direction
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        lora_scale(self.alpha, self.rank)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share from 0 up to below 1, got {self.dropout}")
        if isinstance(self.targets, str) and self.targets != "all-linear":
            raise ValueError(
                f'targets is "all-linear" or a tuple of endings, got {self.targets!r}: write it as a tuple'
            )
        if not self.targets:
            raise ValueError("targets is empty: nothing would be adapted, and nothing would learn")

    @property
    def scale(self) -> float:
        return lora_scale(self.alpha, self.rank, self.rslora)


class LoRALinear(nn.Module):
    """A Linear (or one that is kept quantised) that no longer learns, and what learns beside it.

    lora_A (r, in) begins random, lora_B (out, r) at 0, so that the model begins as it was.
    """

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.base, self.config, self.scale, self.on = base, config, config.scale, True
        self.merged: nn.Module | None = None
        self.dropout = nn.Dropout(config.dropout)
        n_out, n_in = self._matrix().shape
        factory = {"dtype": torch.promote_types(base.weight.dtype, torch.float32), "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty(config.rank, n_in, **factory))
        self.lora_B = nn.Parameter(torch.empty(n_out, config.rank, **factory))
        length = self._matrix().detach().to(factory["dtype"]).norm(dim=1) if config.dora else None
        self.magnitude = nn.Parameter(length) if config.dora else None
        self._init(generator)

    @torch.no_grad()
    def _init(self, generator: torch.Generator | None) -> None:
        bound = self.lora_A.size(1) ** -0.5  # kaiming_uniform(a = sqrt(5)), as Linear itself begins
        self.lora_A.copy_(torch.empty(self.lora_A.shape).uniform_(-bound, bound, generator=generator))
        self.lora_B.zero_()

    @property
    def weight(self) -> Tensor:
        """The base's, or the merged one's where that is in use."""
        return self._in_use().weight

    @property
    def rank(self) -> int:
        return self.lora_A.size(0)

    def _matrix(self) -> Tensor:
        """The base's weight as (out, in)."""
        return self.base.weight

    def _in_use(self) -> nn.Module:
        return self.merged if self.merged is not None and self.on else self.base

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None or not self.on:
            return self._in_use()(x)
        update = F.linear(F.linear(self.dropout(x).to(self.lora_A.dtype), self.lora_A), self.lora_B) * self.scale
        if self.magnitude is None:
            return self.base(x) + update.to(x.dtype)
        bias = 0 if self.base.bias is None else self.base.bias
        return (self._stretch() * (self.base(x) - bias + update)).to(x.dtype) + bias

    def _stretch(self) -> Tensor:
        """(out,): DoRA's length over the length that the rows have; no gradient goes through that (DoRA, 4.3)."""
        with torch.no_grad():
            length = merged_weight(self._matrix().to(self.lora_A.dtype), self.lora_A, self.lora_B, self.scale).norm(
                dim=1
            )
        return self.magnitude / length

    @torch.no_grad()
    def merge(self) -> None:
        """Put a plain module with one matrix in the adapter's place; the base is kept, so that unmerge is exact."""
        weight = merged_weight(self._matrix(), self.lora_A, self.lora_B, self.scale, self.magnitude)
        self.merged = self._plain(weight).requires_grad_(False).train(self.training)

    def _plain(self, weight: Tensor) -> nn.Module:
        plain = nn.Linear(weight.size(1), weight.size(0), bias=self.base.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight)
        if self.base.bias is not None:
            plain.bias = nn.Parameter(self.base.bias.detach().clone())
        return plain


class LoRAEmbedding(LoRALinear):
    """The same for a table (V, C), seen as a matrix (C, V) that multiplies one-hot vectors.

    lora_A (r, V) begins at 0 here and lora_B (C, r) random: a column of A is what one token learns.
    """

    @torch.no_grad()
    def _init(self, generator: torch.Generator | None) -> None:
        self.lora_A.zero_()
        self.lora_B.copy_(torch.empty(self.lora_B.shape).normal_(generator=generator))

    @property
    def num_embeddings(self) -> int:
        return self.base.num_embeddings

    def _matrix(self) -> Tensor:
        return self.base.weight.t()

    def forward(self, ids: Tensor) -> Tensor:
        if self.merged is not None or not self.on:
            return self._in_use()(ids)
        out = self.base(ids)
        sum_ = out + (F.embedding(ids, self.lora_A.t()) @ self.lora_B.t() * self.scale).to(out.dtype)
        return sum_ if self.magnitude is None else (self._stretch() * sum_).to(out.dtype)

    def _plain(self, weight: Tensor) -> nn.Module:
        return nn.Embedding.from_pretrained(weight.t().contiguous())
