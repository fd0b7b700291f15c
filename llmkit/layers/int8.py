"""Matrices of 8-bit whole numbers, for writing token by token on a CPU.

One token's time is that of reading every matrix once, so a quarter of the bytes is nearly a quarter of the time. A row
of the matrix has one scale. Activations are not rounded to 8 bits: outliers among them (Dettmers et al. 2022,
arXiv:2208.07339) would leave the others 0. Inside the model they get bfloat16, as in any run in 16 bits. Logits need
more, for it is their small differences that count: there the input is two 8-bit numbers, a large and a small one, in
two rows of one product that is exact.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

FEW = 16  # up to so many rows reading the matrix takes most of the time; beyond, the products do, and float32 is faster


def rounded_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> int8 numbers of the same shape, and (out,) scales: weight ≈ numbers * scale.

    The scales are numbers that bfloat16 has, so that both products below can use them without a second error.

    >>> numbers, scale = rounded_rows(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))
    >>> numbers.tolist(), round(scale[0].item(), 4)
    ([[127, -50], [0, 0]], 0.01)
    """
    scale = (weight.float().abs().amax(-1) / 127).bfloat16().float()
    inverse = torch.where(scale > 0, 1 / scale, 0)
    numbers = (weight.float() * inverse[:, None]).round().clamp(-127, 127).to(torch.int8)
    return numbers.contiguous(), scale  # from_pretrained may have laid the weight out column by column


class Int8Linear(nn.Module):
    """A Linear whose matrix is int8, one scale a row: for inference on a CPU, without gradients.

    Made of a Linear, which it does not change. Takes and gives the dtype of what it gets.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.numbers, self.scale = rounded_rows(linear.weight.detach())  # (out, in) int8, (out,) float32
        self.narrow_scale = self.scale.bfloat16()
        self.bias = None if linear.bias is None else linear.bias.detach().float().clone()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.detach().flatten(0, -2)  # (B, T, in) -> (N, in)
        if len(rows) <= FEW and hasattr(torch, "_weight_int8pack_mm"):  # private, so torch may take it away
            out = torch._weight_int8pack_mm(rows.bfloat16(), self.numbers, self.narrow_scale).float()
        else:
            out = rows.float() @ (self.numbers * self.scale[:, None]).t()
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1).to(x.dtype)


class Int8Head(nn.Module):
    """An Int8Linear that keeps 13 bits of its input or more, and adds up without an error: for the logits.

    The matrix is kept packed where torch can multiply packed ones exactly, else as it is, which is slower.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        numbers, scale = rounded_rows(linear.weight.detach())
        self.levels = exact_levels()
        self.packed = _pack(numbers) if self.levels else None
        self.numbers = numbers if self.packed is None else None  # (out, in) int8
        self.scale = scale  # (out,) float32
        self.bias = None if linear.bias is None else linear.bias.detach().float().clone()

    def forward(self, x: Tensor) -> Tensor:
        levels = self.levels or 127
        rows, scale = two_rows(x.detach().flatten(0, -2).float(), levels)  # (B, T, in) -> (2 N, in)
        if self.packed is not None:
            products = _multiply_packed(rows, self.packed, levels)
        else:
            products = torch._int_mm(rows.to(torch.int8), self.numbers.t()).float()
        large, small = products.chunk(2)  # each (N, out)
        out = torch.add(large, small, alpha=0.5 / levels) * scale * self.scale
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1).to(x.dtype)


def two_rows(x: Tensor, levels: int = 127) -> tuple[Tensor, Tensor]:
    """(N, in) -> (2 N, in) and (N, 1) scales: x ≈ scale * (large + small / (2 levels)).

    The rows are whole numbers from -levels to levels, in the dtype of x.

    >>> rows, scale = two_rows(torch.tensor([[1.27, 0.503]]))
    >>> rows.tolist()
    [[127.0, 50.0], [0.0, 76.0]]
    """
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / levels
    units = x / scale
    large = units.round()
    return torch.cat([large, ((units - large) * (2 * levels)).round()]), scale


@cache
def exact_levels() -> int:
    """Up to which whole number a packed product takes its rows without an error: 127, or 63; 0 if there is none.

    A CPU without VNNI adds two products in 16 bits: 2 * 255 * 127 does not fit there, 2 * 127 * 127 does.
    """
    if "x86" not in torch.backends.quantized.supported_engines:
        return 0
    numbers = torch.tensor([[127], [-127], [1]], dtype=torch.int8).expand(3, 64).contiguous()
    for levels in (127, 63):
        rows = torch.tensor([[levels], [-levels]]).expand(2, 64).float()
        try:
            if torch.equal(_multiply_packed(rows, _pack(numbers), levels), rows @ numbers.float().t()):
                return levels
        except (AttributeError, RuntimeError):  # torch means to take these functions away one day
            return 0
    return 0


def _pack(numbers: Tensor) -> Any:
    """The matrix in the order in which FBGEMM reads it. torch's packed type wants scales: they are 1."""
    ones, zeros = torch.ones(len(numbers), dtype=torch.double), torch.zeros(len(numbers), dtype=torch.long)
    with _engine("x86"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that torch means to take them away
        quantized = torch._make_per_channel_quantized_tensor(numbers, ones, zeros, 0)
        return torch.ops.quantized.linear_prepack(quantized, None)


def _multiply_packed(rows: Tensor, packed: Any, levels: int) -> Tensor:
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, levels + 1, packed)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def with_int8_weights(model: nn.Module) -> nn.Module:
    """Put an Int8Linear, or for the logits an Int8Head, in the place of every Linear of the model, and return it.

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
        setattr(module, name, (Int8Head if name == "lm_head" else Int8Linear)(child))
    return model.eval()
