"""GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, GELU, biases everywhere, tied embeddings."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

from torch import nn

from llmkit.checkpoints.tables import Chunk, Copy, Transpose, weight_and_bias
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import ACTIVATIONS, MLP
from llmkit.layers.transformer import Embedding, Transformer, init_weights


@dataclass(frozen=True)
class GPT2Config:
    """The defaults are GPT-2 small, 124,439,808 parameters."""

    vocab_size: int = 50257
    max_len: int = 1024
    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 12
    d_ff: int | None = None  # 4 d_model
    activation: str = "gelu_new"
    norm_eps: float = 1e-5
    dropout: float = 0.0  # of what each branch adds
    _: KW_ONLY
    attention_dropout: float = 0.0  # of the attention weights
    embedding_dropout: float | None = None  # dropout

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "GPT2Config":
        """From config.json; raises KeyError for a missing size, ValueError for a variant not built here."""
        if hf.get("scale_attn_by_inverse_layer_idx") or not hf.get("scale_attn_weights", True):
            raise ValueError("GPT-2 with other than 1/sqrt(head_dim) as the scale of scores is not built here")
        if not hf.get("tie_word_embeddings", True):
            raise ValueError("GPT-2 with an output matrix of its own is not built here")
        activation = hf.get("activation_function", "gelu_new")
        if activation not in ACTIVATIONS:
            raise ValueError(f"the activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        return cls(
            hf["vocab_size"], hf["n_positions"], hf["n_embd"], hf["n_layer"], hf["n_head"], hf.get("n_inner"),
            activation, hf.get("layer_norm_epsilon", 1e-5), hf.get("resid_pdrop", 0.1),
            attention_dropout=hf.get("attn_pdrop", 0.1), embedding_dropout=hf.get("embd_pdrop", 0.1),
        )  # fmt: skip

    def to_hf(self) -> dict[str, Any]:
        embedding = self.dropout if self.embedding_dropout is None else self.embedding_dropout
        return {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": self.vocab_size,
            "n_positions": self.max_len, "n_ctx": self.max_len, "n_embd": self.d_model, "n_layer": self.n_layers,
            "n_head": self.n_heads, "n_inner": self.d_ff, "activation_function": self.activation,
            "layer_norm_epsilon": self.norm_eps, "resid_pdrop": self.dropout, "embd_pdrop": embedding,
            "attn_pdrop": self.attention_dropout, "tie_word_embeddings": True,
        }  # fmt: skip


# Radford et al. 2019, table 2
SIZES = {
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(d_model=1024, n_layers=24, n_heads=16),
    "gpt2-large": GPT2Config(d_model=1280, n_layers=36, n_heads=20),
    "gpt2-xl": GPT2Config(d_model=1600, n_layers=48, n_heads=25),
}


def gpt2(config: GPT2Config) -> CausalLM:
    """The model, initialised as GPT-2 was."""
    C = config.d_model
    norm = partial(nn.LayerNorm, C, config.norm_eps)

    def block() -> PreNormBlock:
        attn = MultiHeadAttention(C, config.n_heads, bias=True, dropout=config.attention_dropout)
        mlp = MLP(C, config.d_ff or 4 * C, ACTIVATIONS[config.activation])
        return PreNormBlock(attn, mlp, norm, config.dropout)

    dropout = config.dropout if config.embedding_dropout is None else config.embedding_dropout
    embed = Embedding(config.vocab_size, C, nn.Embedding(config.max_len, C), dropout)
    model = CausalLM(Transformer(embed, [block() for _ in range(config.n_layers)], norm()), config, tie=True)
    init_weights(model, config.n_layers)
    return model


def count_params(config: GPT2Config) -> int:
    """The number of parameters, by arithmetic: what `gpt2(config).n_params()` counts.

    The output matrix is the token embedding's, so it is counted once. Every Linear and LayerNorm has a bias.

    >>> count_params(GPT2Config())
    124439808
    """
    V, T, C, L, d_ff = (
        config.vocab_size,
        config.max_len,
        config.d_model,
        config.n_layers,
        config.d_ff or 4 * config.d_model,
    )
    attention = 4 * (C * C + C)  # q, k, v and the output
    mlp = C * d_ff + d_ff + d_ff * C + C
    norms = 2 * 2 * C  # two a block, weight and bias
    return V * C + T * C + L * (attention + mlp + norms) + 2 * C


IGNORE = r"\.attn\.(masked_)?bias$|^lm_head\.weight$"  # old files carry the causal mask, some the tied matrix


def weights(config: GPT2Config) -> dict[str, Copy]:
    """Our names -> names in GPT-2's files, with "transformer." in front (transformers writes it) or without."""

    def both(name: str) -> tuple[str, str]:
        return f"transformer.{name}", name

    block, there = "transformer.blocks.{}.", "h.{}."
    table = {
        "transformer.embed.tokens.weight": Copy(*both("wte.weight")),
        "transformer.embed.positions.weight": Copy(*both("wpe.weight")),
        **weight_and_bias("transformer.norm", *both("ln_f")),
        **weight_and_bias(block + "attn_norm", *both(there + "ln_1")),
        **weight_and_bias(block + "mlp_norm", *both(there + "ln_2")),
    }
    for i, projection in enumerate(("q_proj", "k_proj", "v_proj")):
        table |= weight_and_bias(block + f"attn.{projection}", *both(there + "attn.c_attn"), how=Chunk, i=i, n=3)
    for ours, theirs in (("attn.o_proj", "attn.c_proj"), ("mlp.up_proj", "mlp.c_fc"), ("mlp.down_proj", "mlp.c_proj")):
        table[block + f"{ours}.weight"] = Transpose(*both(there + f"{theirs}.weight"))
        table[block + f"{ours}.bias"] = Copy(*both(there + f"{theirs}.bias"))
    return table
