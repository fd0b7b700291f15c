"""muP's rule for one parameter: what its width does to its first size and to its learning rate."""

from collections.abc import Sequence


def width_factors(name: str, shape: Sequence[int], base_shape: Sequence[int]) -> tuple[float, float]:
    """Factors on a parameter's initial std and on its learning rate (Adam), against the base model's.

    name         as in model.named_parameters(): "transformer.blocks.0.mlp.down_proj.weight"
    shape        its shape, (out, in) for the matrix of a Linear layer
    base_shape   the shape of the same parameter in the base model, on which the rates were tuned

    With m = in / in of the base: (1 / sqrt(m), 1 / m) for the matrices inside blocks, and (1, 1) for everything else.
    That is vectors (norms, biases) and tables with one side that does not grow with the width: the embeddings,
    positions and lm_head. (What a wide output needs besides, a multiplier, is not a matter of its weights.)
    Source: Yang et al. 2022, "Tensor Programs V", table 8.

    >>> width_factors("transformer.blocks.0.attn.q_proj.weight", (256, 256), (64, 64))
    (0.5, 0.25)
    >>> width_factors("transformer.embed.tokens.weight", (1000, 256), (1000, 64))
    (1.0, 1.0)
    """
    if ".blocks." not in name or len(shape) != 2:
        return 1.0, 1.0
    m = shape[1] / base_shape[1]
    return (1 / m) ** 0.5, 1 / m
