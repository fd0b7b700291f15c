"""A frozen base in 8 or 4 bits a weight: QLoRA's memory, for a Linear that only passes gradients on.

Sources: Dettmers et al. 2022 (LLM.int8()), section 2; Dettmers et al. 2023 (QLoRA), section 3 and appendix E.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@cache
def nf4_code() -> Tensor:
    """NormalFloat4: 16 numbers from -1 to 1, at quantiles of the normal distribution, with an exact 0.

    8 quantiles from 1/2 up give 0 and the positive half, 7 the negative; both begin at the same outermost
    probability, the mean of 1 - 1/30 and 1 - 1/32, and all are divided by the largest. Equal to bitsandbytes'
    create_normal_map and to the 16 numbers of appendix E.

    >>> [round(x, 3) for x in nf4_code().tolist()][5:11]
    [-0.185, -0.091, 0.0, 0.08, 0.161, 0.246]
    """
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    above = torch.special.ndtri(torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1])  # 8 of them, largest first
    below = -torch.special.ndtri(torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1])  # 7, smallest first
    code = torch.cat([below, torch.zeros(1, dtype=torch.float64), above.flip(0)])
    return (code / above[0]).float()


def quantize_blocks(weight: Tensor, code: Tensor, block_size: int = 64) -> tuple[Tensor, Tensor]:
    """Each block of numbers divided by its largest absolute value, then each number's nearest entry of the code.

    weight   any shape; its numbers are taken in order, block_size at a time, the last block may be shorter
    code     (K,) rising, from -1 to 1
    result   numbers of entries, uint8 (n,), and scales (number of blocks,); a block of zeros has scale 0

    A number half way between two entries takes the lower. Raises ValueError for a block_size below 1 and for weights
    that are not finite.

    >>> quantize_blocks(torch.tensor([0.5, -2.0, 0.1, 0.0]), torch.tensor([-1.0, 0.0, 1.0]), 2)
    (tensor([1, 0, 2, 1], dtype=torch.uint8), tensor([2.0000, 0.1000]))
    """
    if block_size < 1:
        raise ValueError(f"a block holds at least 1 number, got {block_size}")
    flat = weight.detach().flatten().float()
    if not flat.isfinite().all():
        raise ValueError("weights that are not finite cannot be quantised")
    blocks = F.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)
    scales = blocks.abs().amax(1)
    unit = (blocks / scales.masked_fill(scales == 0, 1.0)[:, None]).flatten()[: len(flat)]
    middles = (code[1:] + code[:-1]) / 2
    return torch.bucketize(unit, middles.to(unit.device)).to(torch.uint8), scales


def dequantize_blocks(numbers: Tensor, scales: Tensor, code: Tensor, block_size: int = 64) -> Tensor:
    """quantize_blocks backwards, as near as it goes: (n,) numbers of entries -> (n,) weights."""
    return code[numbers.long()] * scales.repeat_interleave(block_size)[: len(numbers)]


class NF4Matrix(nn.Module):
    """A matrix as 4-bit numbers of NF4, two in a byte, and a float32 scale for every 64: 4.5 bits a weight."""

    BLOCK = 64

    def __init__(self, weight: Tensor):
        super().__init__()
        self.shape, self.dtype = weight.shape, weight.dtype
        numbers, scales = quantize_blocks(weight, nf4_code(), self.BLOCK)
        numbers = F.pad(numbers, (0, len(numbers) % 2)).view(-1, 2)
        self.register_buffer("packed", numbers[:, 0] * 16 + numbers[:, 1])
        self.register_buffer("scales", scales)

    def dequantize(self) -> Tensor:
        """(out, in) in the dtype that the weights had."""
        numbers = torch.stack([self.packed >> 4, self.packed & 15], dim=1).flatten()[: self.shape.numel()]
        code = nf4_code().to(self.packed.device)
        return dequantize_blocks(numbers, self.scales, code, self.BLOCK).view(self.shape).to(self.dtype)


class Int8Matrix(nn.Module):
    """A matrix as whole numbers from -127 to 127 and a float32 scale for every row: 8 bits and a little a weight."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.dtype = weight.dtype
        wide = weight.detach().float()
        if not wide.isfinite().all():
            raise ValueError("weights that are not finite cannot be quantised")
        scales = wide.abs().amax(1, keepdim=True) / 127
        self.register_buffer("numbers", (wide / scales.masked_fill(scales == 0, 1.0)).round().to(torch.int8))
        self.register_buffer("scales", scales)

    def dequantize(self) -> Tensor:
        """(out, in) in the dtype that the weights had."""
        return (self.numbers.float() * self.scales).to(self.dtype)


class _FrozenProduct(torch.autograd.Function):
    """x W^T whose backward makes W anew: autograd's own would keep the whole matrix until then."""

    @staticmethod
    def forward(ctx, x: Tensor, matrix: nn.Module) -> Tensor:
        ctx.matrix = matrix
        return F.linear(x, matrix.dequantize().to(x.dtype))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.matrix.dequantize().to(gradient.dtype), None


class FrozenLinear(nn.Module):
    """A Linear whose matrix is kept quantised and made anew for each product; nothing in it learns."""

    def __init__(self, linear: nn.Linear, matrix: type[nn.Module] = NF4Matrix):
        super().__init__()
        self.matrix = matrix(linear.weight)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """(out, in), made anew at each call."""
        return self.matrix.dequantize()

    def forward(self, x: Tensor) -> Tensor:
        y = _FrozenProduct.apply(x, self.matrix)
        return y if self.bias is None else y + self.bias


KINDS = {"nf4": NF4Matrix, "int8": Int8Matrix}


def quantize_base(model: nn.Module, kind: str = "nf4") -> list[str]:
    """Every Linear inside the model's blocks becomes a FrozenLinear; the rest (embeddings, norms, head) stays.

    kind     "nf4" or "int8"
    result   the names of those modules

    Then `add_lora` puts adapters on them: QLoRA. Raises ValueError for another kind and a model without such modules.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}")
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and ".blocks." in f".{name}"]
    if not names:
        raise ValueError(f"this {type(model).__name__} has no Linear inside blocks that could be quantised")
    for name in names:
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        setattr(module, leaf, FrozenLinear(getattr(module, leaf), KINDS[kind]))
    return names


def bytes_per_weight(matrix: nn.Module) -> float:
    """Bytes that a quantised matrix takes, scales included, over its number of weights."""
    return sum(buffer.nbytes for buffer in matrix.buffers()) / matrix.dequantize().numel()
