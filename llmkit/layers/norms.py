"""Normalisation: keep the numbers that flow through a deep network at one scale."""

import torch
from torch import Tensor, nn


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Give every vector mean 0 and variance 1, then scale and shift it by learned numbers.

    x      (..., C); mean and variance are taken over the last axis, the variance divided by C (biased)
    weight, bias   (C,), or None for no scale, no shift
    eps    added to the variance, inside the square root

    Models use torch's fused `nn.LayerNorm`, which computes this. Source: Ba et al. 2016, section 3.

    >>> layer_norm(torch.tensor([[1.0, 3.0]]), None, None, eps=0.0)
    tensor([[-1.,  1.]])
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    y = centred * torch.rsqrt(variance + eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide every vector by its root mean square, then scale it by learned numbers: no mean, no shift.

    x       (..., C)
    weight  (C,)
    eps     added to the mean square, inside the square root

    The division is done in float32, also for bfloat16 input: squares of 16-bit numbers lose too much.
    The result is cast back *before* the weight is multiplied, as LLaMA does.
    Source: Zhang and Sennrich 2019; transformers `LlamaRMSNorm`.

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), eps=0.0) * 12.5**0.5
    tensor([[3., 4.]])
    """
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return wide.type_as(x) * weight


class RMSNorm(nn.Module):
    """`rms_norm` with its learned weight (C,)."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"
