"""Look into the residual stream: what each block adds, and what the model would say if it stopped there."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llmkit.layers.heads import CausalLM


@contextmanager
def record_residual(model: nn.Module):
    """`with record_residual(model) as stream:` fills the list with x (B, T, C) before the first block and after each.

    Recorded anew in every forward pass; detached, so that nothing of the graph is kept.
    """
    stream: list[Tensor] = []
    blocks = model.transformer.blocks

    def before(module, inputs):
        stream.clear()
        stream.append(inputs[0].detach())

    hooks = [blocks[0].register_forward_pre_hook(before)]
    hooks += [block.register_forward_hook(lambda module, inputs, out: stream.append(out.detach())) for block in blocks]
    try:
        yield stream
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def logit_lens(model: CausalLM, ids: Tensor) -> Tensor:
    """(L + 1, B, T, V): the logits if the final norm and head read the stream before block 0, 1, …, and after the last.

    Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
    """
    with record_residual(model) as stream:
        model(ids)
    return torch.stack([model.lm_head(model.transformer.norm(x)) for x in stream])


@torch.no_grad()
def residual_norms(model: CausalLM, ids: Tensor) -> list[float]:
    """Mean length of x before the first block and after each: how the stream grows with depth."""
    with record_residual(model) as stream:
        model(ids)
    return [float(x.norm(dim=-1).mean()) for x in stream]


def gradient_norms(model: nn.Module) -> list[float]:
    """For each block the length of its gradient after backward(), all its parameters as one vector."""
    return [
        float(torch.stack([p.grad.norm() for p in block.parameters() if p.grad is not None]).norm())
        for block in model.transformer.blocks
    ]
