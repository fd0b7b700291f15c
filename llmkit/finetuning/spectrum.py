"""How many directions a change of weights has."""

import torch
from torch import Tensor, nn


def energy(change: Tensor) -> list[float]:
    """Share of a matrix's squared size that its best approximation of rank r holds, for r = 1, 2, …, min(out, in).

    change   (out, in); its singular values s give the sums of the r largest s² over the sum of all
    result   rising, the last 1.0. All zeros for a matrix of zeros, where there is nothing to share.

    Raises ValueError for anything but a matrix. Source: Eckart and Young 1936.

    >>> [round(share, 2) for share in energy(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))]
    [0.8, 1.0]
    """
    if change.dim() != 2:
        raise ValueError(f"a change of weights is a matrix (out, in), got {tuple(change.shape)}")
    squares = torch.linalg.svdvals(change.detach().double()).square()
    total = squares.sum()
    return (squares.cumsum(0) / total if total > 0 else squares).tolist()


@torch.no_grad()
def weight_changes(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """Name -> after - before, in float32, of every Linear inside blocks; both models have the same structure."""
    old = dict(before.named_modules())
    return {
        name: module.weight.float() - old[name].weight.float()
        for name, module in after.named_modules()
        if isinstance(module, nn.Linear) and ".blocks." in f".{name}"
    }
