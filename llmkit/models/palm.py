"""PaLM (Chowdhery et al. 2022): parallel blocks, one key-value head, SwiGLU, no biases, tied embeddings.

Its weights were never published. Cohere's Command models are the same block, so `cohere` files with one key-value
head are what from_pretrained reads here, and CohereForCausalLM is what the tests compare with.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar

from torch import nn

from llmkit.checkpoints.tables import Copy, PairsToHalves
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import ParallelBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import GatedMLP
from llmkit.layers.rope import RotaryEmbedding
from llmkit.layers.transformer import Embedding, Transformer, init_weights
from llmkit.models import llama


@dataclass(frozen=True)
class PalmConfig:
    """The defaults are PaLM-8B."""

    vocab_size: int = 256000
    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 16
    head_dim: int | None = 256  # not d_model / n_heads in PaLM-540B
    d_ff: int | None = None  # 4 d_model
    max_len: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    n_kv_heads: ClassVar[int] = 1  # multi-query attention at every size
    _: KW_ONLY
    attention_dropout: float = 0.0  # of the attention weights

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "PalmConfig":
        """From a cohere config.json; raises KeyError for a missing size, ValueError where Cohere is not PaLM."""
        cohere = {"hidden_act": "silu", "tie_word_embeddings": True}  # what a file means that does not say
        palm_has = {"num_key_value_heads": 1, "logit_scale": 1.0, **cohere}
        for name, value in palm_has.items():
            if (cohere | dict(hf))[name] != value:
                raise ValueError(f"{name} is {hf[name]!r}, PaLM has {value!r}")
        if hf.get("use_qk_norm") or hf.get("attention_bias"):
            raise ValueError("PaLM has no norm on q and k, and no biases")
        fields = llama.llama_fields(hf)
        if fields["rope_scaling"]:
            raise ValueError("PaLM has no rope scaling")
        shared = (
            "vocab_size",
            "d_model",
            "n_layers",
            "n_heads",
            "head_dim",
            "max_len",
            "rope_theta",
            "attention_dropout",
        )
        own = {"d_ff": hf["intermediate_size"], "norm_eps": hf.get("layer_norm_eps", 1e-5)}
        return cls(**{name: fields[name] for name in shared}, **own)

    def to_hf(self) -> dict[str, Any]:
        return {
            "model_type": "cohere", "architectures": ["CohereForCausalLM"], "vocab_size": self.vocab_size,
            "hidden_size": self.d_model, "num_hidden_layers": self.n_layers, "num_attention_heads": self.n_heads,
            "num_key_value_heads": 1, "head_dim": self.head_dim or self.d_model // self.n_heads,
            "intermediate_size": self.d_ff or 4 * self.d_model, "max_position_embeddings": self.max_len,
            "layer_norm_eps": self.norm_eps, "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "logit_scale": 1.0, "use_qk_norm": False, "hidden_act": "silu", "tie_word_embeddings": True,
            "attention_dropout": self.attention_dropout,
        }  # fmt: skip


# Chowdhery et al. 2022, table 1
SIZES = {
    "palm-8b": PalmConfig(),
    "palm-62b": PalmConfig(d_model=8192, n_layers=64, n_heads=32),
    "palm-540b": PalmConfig(d_model=18432, n_layers=118, n_heads=48),
}


def palm(config: PalmConfig) -> CausalLM:
    """The model."""
    C = config.d_model
    norm = partial(nn.LayerNorm, C, config.norm_eps, bias=False)

    def block() -> ParallelBlock:
        attn = MultiHeadAttention(C, config.n_heads, 1, config.head_dim, dropout=config.attention_dropout)
        return ParallelBlock(attn, GatedMLP(C, config.d_ff or 4 * C), norm)

    rope = RotaryEmbedding(config.head_dim or C // config.n_heads, config.rope_theta)
    blocks = [block() for _ in range(config.n_layers)]
    model = CausalLM(Transformer(Embedding(config.vocab_size, C), blocks, norm(), rope=rope), config, tie=True)
    init_weights(model, config.n_layers)
    return model


def weights(config: PalmConfig) -> dict[str, Copy]:
    """LLaMA's table with one norm a block, and q and k reordered: Cohere rotates neighbours."""
    block, there = "transformer.blocks.{}.", "model.layers.{}."
    table = llama.weights(config)
    for name, n_heads in (("q_proj", config.n_heads), ("k_proj", 1)):
        table[block + f"attn.{name}.weight"] = PairsToHalves(there + f"self_attn.{name}.weight", n_heads=n_heads)
    table[block + "norm.weight"] = table.pop(block + "attn_norm.weight")
    del table[block + "mlp_norm.weight"], table["lm_head.weight"]
    return table
