"""The other half of a block: each position thinks for itself."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU: x times an S-curve, the normal distribution function approximated with tanh.

    0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))). Models use torch's fused kernel of the same formula.
    Source: Hendrycks and Gimpel 2016, section 2.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, where silu(x) = x * sigmoid(x): one projection decides how much of the other passes.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """
    return gate * torch.sigmoid(gate) * up


def gated_width(d_model: int, multiple_of: int = 256) -> int:
    """LLaMA's d_ff: 8/3 of d_model, so that three matrices weigh as much as two of 4 d_model, rounded up.

    >>> gated_width(4096)
    11008
    """
    width = int(8 * d_model / 3)
    return -(-width // multiple_of) * multiple_of


def fused_gelu_tanh(x: Tensor) -> Tensor:
    """`gelu_tanh` by torch's kernel."""
    return F.gelu(x, approximate="tanh")


# config.json's names for activations
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": fused_gelu_tanh,
    "gelu_pytorch_tanh": fused_gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
}


class MLP(nn.Module):
    """Widen, bend, narrow: (…, C) -> (…, d_ff) -> (…, C). `dropout` falls on the d_ff (T5, BART)."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.dropout(self.activation(self.up_proj(x))))


class GatedMLP(nn.Module):
    """Two projections up, one of which gates the other: SwiGLU with silu, GEGLU with gelu. `dropout` as in MLP."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.activation = activation
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.dropout(self.activation(self.gate_proj(x)) * self.up_proj(x)))
