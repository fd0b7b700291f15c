"""Matrices of 8-bit whole numbers, for writing token by token on a CPU.

One token's time is that of reading every matrix once, so a quarter of the bytes is nearly a quarter of the time. A row
of the matrix has one scale; what it is multiplied with is written as two 8-bit numbers, a large and a small one, in two
rows of the same product: the second costs little, and activations keep 15 bits, so that outliers (Dettmers et al. 2022,
arXiv:2208.07339) do no harm.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def rounded_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> int8 numbers of the same shape, and (out,) scales: weight ≈ numbers * scale.

    >>> numbers, scale = rounded_rows(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))
    >>> numbers.tolist(), round(scale[0].item(), 4)
    ([[127, -50], [0, 0]], 0.01)
    """
    scale = weight.float().abs().amax(-1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0)
    return (weight.float() * inverse[:, None]).round().to(torch.int8), scale


def two_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, in) -> (2 N, in) int8 and (N, 1) scales: x ≈ scale * (large + small / 254).

    >>> rows, scale = two_rows(torch.tensor([[1.27, 0.503]]))
    >>> rows.tolist()
    [[127, 50], [0, 76]]
    """
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    units = x / scale
    large = units.round()
    small = ((units - large) * 254).round()
    return torch.cat([large, small]).to(torch.int8), scale


@cache
def packing_is_exact() -> bool:
    """Whether this torch multiplies packed 8-bit matrices, and exactly: old CPUs cut sums of large products off."""
    if "x86" not in torch.backends.quantized.supported_engines:
        return False
    rows = torch.tensor([[127], [-127]], dtype=torch.int8).expand(2, 64)
    numbers = torch.tensor([[127], [-127], [1]], dtype=torch.int8).expand(3, 64).contiguous()
    try:
        return torch.equal(_multiply_packed(rows, _pack(numbers)), rows.float() @ numbers.float().t())
    except (AttributeError, RuntimeError):  # torch means to take these functions away one day
        return False


def _pack(numbers: Tensor) -> Any:
    """The matrix in the order in which FBGEMM reads it. torch's packed type wants scales: they are 1."""
    ones, zeros = torch.ones(len(numbers), dtype=torch.double), torch.zeros(len(numbers), dtype=torch.long)
    with _engine("x86"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that torch means to take them away
        quantized = torch._make_per_channel_quantized_tensor(numbers, ones, zeros, 0)
        return torch.ops.quantized.linear_prepack(quantized, None)


def _multiply_packed(rows: Tensor, packed: Any) -> Tensor:
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows.float(), 1.0, 128, packed)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


class Int8Linear(nn.Module):
    """A Linear whose matrix is int8, one scale a row: for inference on a CPU, without gradients.

    Made of a Linear, which it does not change. Takes and gives the dtype of what it gets. The matrix is kept packed
    where torch can multiply packed ones exactly, else as it is, which is slower.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        numbers, scale = rounded_rows(linear.weight.detach())
        self.packed = _pack(numbers) if packing_is_exact() else None
        self.numbers = numbers.contiguous() if self.packed is None else None  # (out, in) int8
        self.scale = scale  # (out,) float32
        self.bias = None if linear.bias is None else linear.bias.detach().float().clone()

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = two_rows(x.detach().flatten(0, -2).float())  # (B, T, in) -> (2 N, in)
        products = (
            _multiply_packed(rows, self.packed)
            if self.packed is not None
            else torch._int_mm(rows, self.numbers.t()).float()
        )
        large, small = products.chunk(2)  # each (N, out)
        out = torch.add(large, small, alpha=1 / 254) * scale * self.scale
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1).to(x.dtype)


def with_int8_weights(model: nn.Module) -> nn.Module:
    """Put an Int8Linear in the place of every Linear of the model, which is changed and returned.

    An output matrix that is shared with the embedding becomes one of its own; routers and embeddings stay as they are.
    Raises ValueError for a model with nothing to replace.
    """
    places = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]
    if not places:
        raise ValueError("this model has no Linear to replace")
    for module, name, child in places:
        setattr(module, name, Int8Linear(child))
    return model.eval()
