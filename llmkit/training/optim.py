"""AdamW by hand, and clipping."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class AdamW:
    """Adam with decoupled weight decay: each parameter moves by its mean gradient over the root of its mean square.

    groups         dicts with "params", "weight_decay" (see `decay_groups`) and, where a group moves at a rate of its
                   own, "lr_scale": its learning rate is lr * lr_scale (muP, mup.py)
    lr             step size; a schedule may set `optimizer.lr` before each step
    betas          how slowly the two running means forget
    eps            added to the root, outside it

    Equal to torch.optim.AdamW. Sources: Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        self.groups = [{**group, "params": list(group["params"])} for group in groups]  # parameters() can be read once
        self.lr, self.betas, self.eps = lr, betas, eps
        self.steps: dict[Tensor, int] = {}  # taken by each parameter: an idle expert takes none
        self.mean: dict[Tensor, Tensor] = {}
        self.square: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.groups:
            by_steps = defaultdict(list)  # parameters that have come equally far are moved together
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p not in self.mean:
                    self.mean[p], self.square[p] = torch.zeros_like(p), torch.zeros_like(p)
                self.steps[p] = self.steps.get(p, 0) + 1
                by_steps[self.steps[p]].append(p)
            for step, parameters in by_steps.items():
                adamw_update(
                    parameters, [p.grad for p in parameters],
                    [self.mean[p] for p in parameters], [self.square[p] for p in parameters],
                    step, self.lr * group.get("lr_scale", 1.0), self.betas, self.eps, group.get("weight_decay", 0.0),
                )  # fmt: skip

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.groups:
            for p in group["params"]:
                p.grad = None

    def slots(self) -> dict[str, dict[Tensor, Tensor | int]]:
        """What is remembered of each parameter, by kind: a checkpoint keeps it beside the weights."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}


def adamw_update(
    parameters: list[Tensor], gradients: list[Tensor], means: list[Tensor], squares: list[Tensor],
    step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """One AdamW step in place on lists of tensors; torch's _foreach functions do a whole list in one call.

    For each p with gradient g: p shrinks by lr * weight_decay; mean and square move towards g and g²; both began
    at 0, so they are divided by 1 - beta^step; then p moves by lr * mean / (root of square + eps).
    """
    beta1, beta2 = betas
    torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    torch._foreach_lerp_(means, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, math.sqrt(1 - beta2**step))
    torch._foreach_add_(roots, eps)
    torch._foreach_addcdiv_(parameters, means, roots, -lr / (1 - beta1**step))


def decay_groups(model: nn.Module, weight_decay: float = 0.1) -> list[dict]:
    """Matrices decay, vectors (biases, norms) do not. Source: nanoGPT `configure_optimizers`."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their joint length is at most max_norm; gives the length before.

    Raises FloatingPointError when it is not finite: a step with such gradients would ruin the model.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradients' norm is {norm}: lower the learning rate, or look for a bad batch")
    if norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
    return norm
