"""Muon: move every matrix by an orthogonal step, so that all its directions learn at one rate."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from llmkit.training.optim import AdamW
from llmkit.training.precision import bf16_is_fast


def orthogonalize(x: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of matrices (N, A, B) towards 1, leaving their directions: rounds of a polynomial.

    Each matrix is divided by its norm, the root of the sum of its squares (taken as 1e-7 where it is below that); then
    comes `steps` times X <- a X + (b G + c G G) X with G = X Xᵀ, a = 3.4445, b = -4.7750, c = 2.0315. Five rounds bring
    most singular values to between about 0.7 and 1.2, which serves. The result is bfloat16; so are the products where
    the device is fast with it, else float32. A tall matrix, A > B, is treated transposed and turned back, which is the
    same with a smaller G.
    Source: Jordan et al. 2024, "Muon" (Newton-Schulz iteration); torch.optim.Muon.

    >>> x = orthogonalize(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), steps=1)     # they begin as 0.6 and 0.8
    >>> x.dtype, x[0].diagonal().float().round(decimals=1)
    (torch.bfloat16, tensor([1.2000, 1.0000]))
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x.to(torch.bfloat16 if bf16_is_fast(x.device) else torch.float32)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).bfloat16()


class Muon:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases.

    lr             of the matrices: each step has the spectral norm lr (times sqrt(A / B) for tall ones)
    adamw_lr       of all others
    weight_decay   of the matrices

    Setting `.lr` (a schedule does) scales both rates alike. Matrices of one shape are orthogonalised together.
    Equal to torch.optim.Muon. Lesson 14 takes it apart.
    """

    def __init__(self, model: nn.Module, lr: float = 0.02, adamw_lr: float = 3e-3, momentum: float = 0.95,
                 weight_decay: float = 0.01):  # fmt: skip
        self.matrices, others = split_parameters(model)
        self.lr, self.adamw_share, self.momentum, self.weight_decay = lr, adamw_lr / lr, momentum, weight_decay
        self.adamw = AdamW([{"params": others, "weight_decay": 0.0}], adamw_lr)
        self.mean: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        self.adamw.lr = self.lr * self.adamw_share
        self.adamw.step()
        by_shape = defaultdict(list)
        for p in self.matrices:
            if p.grad is not None:
                by_shape[p.shape].append(p)
                if p not in self.mean:
                    self.mean[p] = torch.zeros_like(p)
        for (rows, columns), group in by_shape.items():
            means, gradients = [self.mean[p] for p in group], [p.grad for p in group]
            torch._foreach_lerp_(means, gradients, 1 - self.momentum)
            ahead = torch._foreach_lerp(gradients, means, self.momentum)  # Nesterov: where the mean will be
            updates = orthogonalize(torch.stack(ahead)).to(group[0].dtype)
            torch._foreach_mul_(group, 1 - self.lr * self.weight_decay)
            torch._foreach_add_(group, list(updates.unbind()), alpha=-self.lr * max(1.0, rows / columns) ** 0.5)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad()
        for p in self.matrices:
            p.grad = None

    def slots(self) -> dict[str, dict[Tensor, Tensor | int]]:
        """What is remembered of each parameter, by kind: a checkpoint keeps it beside the weights."""
        return {"momentum": self.mean, **{f"adamw_{kind}": slot for kind, slot in self.adamw.slots().items()}}


def split_parameters(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices of Linear layers inside blocks, and everything else (embeddings and the output among it)."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables |= {id(p) for name, p in model.named_parameters() if name.startswith("lm_head")}
    matrices = [p for p in model.parameters() if p.dim() == 2 and id(p) not in tables]
    chosen = set(map(id, matrices))
    return matrices, [p for p in model.parameters() if id(p) not in chosen]
