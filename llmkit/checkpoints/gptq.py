"""Fewer bits with less harm: round one column after the other and let the later columns make up for the earlier.

What a matrix is for is its product with the inputs that really come, so what counts is the error of that product. All
it takes to know it is H = XᵀX of some inputs X (N, in): inputs that come together can cancel each other's errors.
Both ways of rounding here use Q4_0's blocks (quantization.py), for any number of bits: 4 bits are Q4_0, value by value.
Sources: Frantar et al. 2022 (GPTQ), sections 3 and 4; IST-DASLab/gptq `gptq.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llmkit.checkpoints.quantization import BLOCK, inverse
from llmkit.layers.dropout import drops_out

BITS_OF_SCALE = 16 / BLOCK  # each block of 32 keeps one 16-bit number more


def _scale_and_place(block: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Of rows of 32: the scale that puts the largest weight, with its sign, on the lowest number; and its place."""
    place = block.abs().argmax(1, keepdim=True)
    return block.gather(1, place) / -(2 ** (bits - 1)), place


def _whole(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """x / scale as the nearest of -2^(bits-1) … 2^(bits-1) - 1, halves up, computed as q4_0 does."""
    half = 2 ** (bits - 1)
    return (x * inverse(scale) + (half + 0.5)).trunc().clamp(0, 2 * half - 1) - half


def _stored(scale: Tensor) -> Tensor:
    """What a file keeps of a scale: 16 bits. Raises ValueError where they cannot hold it."""
    stored = scale.half().float()
    if not stored.isfinite().all():
        raise ValueError(f"scales up to {scale.abs().max():.3g} are too large for {torch.float16}")
    return stored


def _check(weight: Tensor, bits: int) -> None:
    if weight.dim() != 2 or weight.size(1) % BLOCK:
        raise ValueError(f"a matrix with rows of whole blocks of {BLOCK} is needed, got shape {tuple(weight.shape)}")
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits}")
    if not weight.isfinite().all():
        raise ValueError("there are weights that are NaN or infinite")


def nearest(weight: Tensor, bits: int = 4) -> Tensor:
    """Round each weight by itself, to the nearest value of its block: (out, in) -> (out, in) float32.

    Raises ValueError for rows that are no whole number of blocks, bits outside 2 to 8, weights that are NaN or infinite
    and scales above 65504, which 16 bits do not hold.

    >>> nearest(torch.tensor([[-8.0, 3.4, 7.9] + [0.0] * 29]))[0, :3].tolist()
    [-8.0, 3.0, 7.0]
    """
    _check(weight, bits)
    blocks = weight.detach().float().reshape(-1, BLOCK)  # (out, in) -> (out * in / 32, 32)
    scale, _ = _scale_and_place(blocks, bits)
    return (_whole(blocks, scale, bits) * _stored(scale)).view(weight.shape)


def gptq(weight: Tensor, hessian: Tensor, bits: int = 4, damp: float = 0.01) -> Tensor:
    """Round column by column; what is lost in one column is made up for, as far as it goes, in the columns after it.

    weight    (out, in), in a multiple of 32
    hessian   (in, in): XᵀX of calibration inputs X (N, in)
    bits      of each whole number, 2 to 8
    damp      this share of the diagonal's mean is added to the diagonal, so that the inverse exists
    result    (out, in) float32, each row in Q4_0's blocks: rounding it again with `nearest` changes nothing

    With U the upper Cholesky factor of the inverse of the damped Hessian, H⁻¹ = UᵀU, both computed in float64, for
    j = 0, 1, …, in - 1:

    - where a block of 32 begins, its scale is set from the weights as they are by then, as `nearest` does;
    - column j is rounded to scale * (nearest whole number): the whole number is found with the scale as it is, then
      multiplied with _stored(scale). In the row's block the largest weight, which the scale was made from, gets the
      whole number -2^(bits-1), whatever it has become: a reader finds the scale by it;
    - error = (column - rounded) / U[j, j], and every later column k loses error * U[j, k].

    Raises ValueError for what `nearest` refuses, a Hessian of another shape and one that has no inverse even when
    damped (NaN, or no inputs: an expert that no token was sent to).
    """
    _check(weight, bits)
    if hessian.shape != (weight.size(1),) * 2:
        raise ValueError(f"the Hessian must be {(weight.size(1),) * 2}, got {tuple(hessian.shape)}")
    H = hessian.double()
    H = H + damp * H.diagonal().mean() * torch.eye(len(H)).to(H)  # in float64 too, on the Hessian's device
    factor, failed = torch.linalg.cholesky_ex(H)
    if failed:
        raise ValueError(
            "the damped Hessian has no inverse: were there inputs, and are they finite? "
            "For an expert that saw no token, use `nearest`"
        )
    U = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True).float()
    W = weight.detach().float().clone()
    rounded = torch.empty_like(W)
    for j in range(W.size(1)):
        if j % BLOCK == 0:
            scale, place = _scale_and_place(W[:, j : j + BLOCK], bits)
        numbers = _whole(W[:, j : j + 1], scale, bits)  # (out, 1)
        numbers = torch.where(place == j % BLOCK, -(2.0 ** (bits - 1)), numbers)
        rounded[:, j : j + 1] = numbers * _stored(scale)
        error = (W[:, j] - rounded[:, j]) / U[j, j]
        W[:, j + 1 :] -= error[:, None] * U[j, j + 1 :]
    return rounded


def output_error(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """||X (W - rounded)ᵀ|| / ||X Wᵀ|| over the inputs whose XᵀX the Hessian is; X itself is not needed.

    >>> output_error(torch.tensor([[3.0, 1.0]]), torch.tensor([[3.0, 0.0]]), torch.eye(2)) ** 2
    0.1
    """
    W, lost, H = weight.detach().double(), (weight.detach() - rounded).double(), hessian.double()
    return float((((lost @ H) * lost).sum() / ((W @ H) * W).sum()).clamp(min=0) ** 0.5)


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linears inside the model's blocks by name, routers not among them (llama.cpp keeps those in 32 bits)."""
    return {
        name: module for name, module in model.named_modules() if type(module) is nn.Linear and ".blocks." in f".{name}"
    }


@torch.no_grad()
def hessians(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """XᵀX (in, in), float64, of the inputs of each Linear inside the blocks, over batches of ids (B, T).

    An expert sees the tokens that are sent to it, so its Hessian is made from those. Raises ValueError where dropout is
    on: its zeros are not among the inputs that really come.
    """
    if drops_out(model):
        raise ValueError("the model drops out at random, which it does not do in use: call model.eval()")
    found = {
        name: torch.zeros(module.in_features, module.in_features, dtype=torch.float64, device=module.weight.device)
        for name, module in block_linears(model).items()
    }

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).double()  # (B, T, in) -> (N, in)
            found[name] += x.T @ x

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in block_linears(model).items()]
    try:
        for ids in batches:
            model(ids)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def rescale_channels(norm: nn.Module, linears: Iterable[nn.Linear], factors: Tensor) -> None:
    """The norm's outputs times the factors (C,), and the columns of what reads them divided by these: nothing changes.

    linears   all that read this norm's outputs
    factors   (C,), none of them 0

    Before rounding it does matter: a channel of large activations wants its weights large too, so that they are rounded
    finely. Source: Lin et al. 2023 (AWQ), section 3.2; mit-han-lab/llm-awq `awq/quantize/auto_scale.py`.
    """
    norm.weight.mul_(factors)
    if getattr(norm, "bias", None) is not None:  # LayerNorm's; RMSNorm has none
        norm.bias.mul_(factors)
    for linear in linears:
        linear.weight.div_(factors)  # (out, C) by (C,)


@contextmanager
def weights_of(model: nn.Module, rounded: Mapping[str, Tensor]):
    """`with weights_of(model, {"transformer.blocks.0.attn.q_proj": matrix}):` these matrices stand in for its own.

    Raises ValueError for a matrix of another shape than the model's.
    """
    own = {name: model.get_submodule(name).weight for name in rounded}
    for name, matrix in rounded.items():
        if matrix.shape != own[name].shape:
            raise ValueError(f"{name} has the shape {tuple(own[name].shape)}, its matrix {tuple(matrix.shape)}")
    kept = {name: weight.detach().clone() for name, weight in own.items()}
    try:
        with torch.no_grad():
            for name, matrix in rounded.items():
                own[name].copy_(matrix)
        yield model
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                own[name].copy_(weight)
