"""A small decoder that learns fast: what the speedruns of 2024 and 2025 found, on this package's parts.

Against GPT-2: rotary positions, q and k normalised, no biases, squared ReLU, and everything that writes into the
residual stream, or into the logits, begins at zero, so that each block is born as the identity. Made to be trained
with Muon. Sources: modded-nanogpt (Jordan et al.), nanochat (Karpathy); Primer (So et al. 2021) for squared ReLU.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import MLP
from llmkit.layers.rope import RotaryEmbedding
from llmkit.layers.transformer import Embedding, Transformer


@dataclass(frozen=True)
class SpeedrunConfig:
    """Sizes. With tie the output matrix is the embedding, and the first logits are random instead of zero."""

    vocab_size: int
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 2
    d_ff: int | None = None  # 4 d_model
    rope_theta: float = 10000.0
    tie: bool = False


def speedrun(config: SpeedrunConfig) -> CausalLM:
    """The model, freshly initialised."""
    C = config.d_model
    # LayerNorm without bias instead of RMSNorm: it learns as well, and its fused CPU kernel takes a third of the time.
    norm = partial(nn.LayerNorm, C, bias=False)
    blocks = [
        PreNormBlock(
            MultiHeadAttention(C, config.n_heads, qk_norm=partial(nn.LayerNorm, bias=False)),
            MLP(C, config.d_ff or 4 * C, squared_relu, bias=False),
            norm,
        )
        for _ in range(config.n_layers)
    ]
    rope = RotaryEmbedding(C // config.n_heads, config.rope_theta)
    transformer = Transformer(Embedding(config.vocab_size, C, norm=norm()), blocks, norm(), rope)
    model = CausalLM(transformer, config, config.tie)
    for name, module in model.named_modules():
        if config.tie and name == "lm_head":
            nn.init.normal_(module.weight, std=0.2)  # a logit can then reach 0.2 C
        elif name.endswith(("o_proj", "down_proj", "lm_head")):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -((3 / C) ** 0.5), (3 / C) ** 0.5)  # variance 1 / C
    return model


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)². Source: So et al. 2021."""
    return F.relu(x).square()


def narrow_stream(model: CausalLM) -> None:
    """Under autocast, let the residual stream itself have 16 bits: on a CPU a step takes a third less.

    Autocast narrows the products alone; what is added up between them would stay wide, and be converted each time.
    """

    def narrow(module: nn.Module, arguments: tuple, x: Tensor) -> Tensor:
        device = x.device.type
        return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x

    model.transformer.embed.register_forward_hook(narrow)
