"""LLaMA 1, 2, 3 and Mistral (Touvron et al. 2023): RMSNorm, rotary positions, grouped queries, SwiGLU, no biases."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

from torch import nn

from llmkit.checkpoints.tables import Copy
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import GatedMLP
from llmkit.layers.norms import RMSNorm
from llmkit.layers.rope import RotaryEmbedding, scaled_frequencies
from llmkit.layers.transformer import Embedding, Transformer, init_weights


@dataclass(frozen=True)
class LlamaConfig:
    """The defaults are LLaMA-7B, 6,738,415,616 parameters."""

    vocab_size: int = 32000
    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None  # n_heads
    head_dim: int | None = None  # d_model / n_heads
    d_ff: int = 11008
    max_len: int = 2048  # what it was trained on; nothing stops a longer text
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    window: int | None = None  # Mistral's sliding window
    tie: bool = False
    _: KW_ONLY
    attention_dropout: float = 0.0  # of the attention weights

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "LlamaConfig":
        """From config.json; raises KeyError for a missing size, ValueError for a variant not built here."""
        if hf.get("attention_bias") or hf.get("mlp_bias"):
            raise ValueError("LLaMA with biases is not built here")
        if hf.get("hidden_act", "silu") != "silu":
            raise ValueError(f"LLaMA with {hf['hidden_act']} instead of silu is not built here")
        return cls(**llama_fields(hf), d_ff=hf["intermediate_size"])

    def to_hf(self) -> dict[str, Any]:
        kind, name = ("mistral", "MistralForCausalLM") if self.window else ("llama", "LlamaForCausalLM")
        fields = {"model_type": kind, "architectures": [name], "intermediate_size": self.d_ff, **hf_fields(self)}
        return fields | ({"sliding_window": self.window} if self.window else {})


def llama_fields(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that LLaMA and Mixtral share, with both spellings of the rotary settings (transformers 4 and 5)."""
    rope = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", hf.get("rope_theta", 10000.0))
    default = rope.get("rope_type", rope.get("type", "default")) == "default"
    fields = {
        "vocab_size": hf["vocab_size"],
        "d_model": hf["hidden_size"],
        "n_layers": hf["num_hidden_layers"],
        "n_heads": hf["num_attention_heads"],
        "n_kv_heads": hf.get("num_key_value_heads"),
        "head_dim": hf.get("head_dim"),
        "max_len": hf.get("max_position_embeddings", 2048),
        "norm_eps": hf.get("rms_norm_eps", 1e-6),
        "rope_theta": theta,
        "rope_scaling": None if default else rope,
        "window": hf.get("sliding_window"),
        "tie": hf.get("tie_word_embeddings", False),
        "attention_dropout": hf.get("attention_dropout", 0.0),
    }
    head_dim = fields["head_dim"] or fields["d_model"] // fields["n_heads"]
    scaled_frequencies(head_dim, theta, fields["rope_scaling"])  # an unknown rope type is refused here
    return fields


def hf_fields(config: Any) -> dict[str, Any]:
    """llama_fields, the other way."""
    scaling = dict(config.rope_scaling or {"rope_type": "default"})
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads or config.n_heads,
        "head_dim": config.head_dim or config.d_model // config.n_heads,
        "max_position_embeddings": config.max_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "rope_parameters": {**scaling, "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie,
        "attention_dropout": config.attention_dropout,
    }


_LLAMA31_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SIZES = {
    "llama-7b": LlamaConfig(),
    "llama-2-7b": LlamaConfig(max_len=4096, norm_eps=1e-5),
    "llama-3-8b": LlamaConfig(128256, n_kv_heads=8, d_ff=14336, max_len=8192, norm_eps=1e-5, rope_theta=5e5),
    "llama-3.2-1b": LlamaConfig(
        128256, 2048, 16, 32, n_kv_heads=8, head_dim=64, d_ff=8192, max_len=131072, norm_eps=1e-5, rope_theta=5e5,
        rope_scaling=_LLAMA31_ROPE | {"factor": 32.0}, tie=True,
    ),
    "smollm2-135m": LlamaConfig(
        49152, 576, 30, 9, n_kv_heads=3, d_ff=1536, max_len=8192, norm_eps=1e-5, rope_theta=1e5, tie=True
    ),
}  # fmt: skip


def llama(config: Any, mlp: Callable[[], nn.Module] | None = None, qk_norm: bool = False) -> CausalLM:
    """The model; `mlp` makes another part for the MLP's place (Mixtral), qk_norm adds norms on q and k (Qwen3)."""
    C = config.d_model
    norm = partial(RMSNorm, C, config.norm_eps)
    head_norm = partial(RMSNorm, eps=config.norm_eps) if qk_norm else None
    head_dim = config.head_dim or C // config.n_heads
    mlp = mlp or (lambda: GatedMLP(C, config.d_ff))

    def block() -> PreNormBlock:
        dropout = config.attention_dropout
        attn = MultiHeadAttention(C, config.n_heads, config.n_kv_heads, head_dim, qk_norm=head_norm, dropout=dropout)
        return PreNormBlock(attn, mlp(), norm)

    rope = RotaryEmbedding(head_dim, config.rope_theta, config.rope_scaling)
    blocks = [block() for _ in range(config.n_layers)]
    transformer = Transformer(Embedding(config.vocab_size, C), blocks, norm(), rope=rope, window=config.window)
    model = CausalLM(transformer, config, config.tie)
    init_weights(model, config.n_layers)
    return model


def count_params(config: LlamaConfig) -> int:
    """The number of parameters, by arithmetic: what `llama(config).n_params()` counts.

    There are no biases; a norm has C numbers. q and the output use all n_heads, k and v only n_kv_heads (None: as
    many as n_heads), each of head_dim (None: C / n_heads) numbers. The MLP is gated: three matrices. The output
    matrix is the token embedding's when config.tie, else one of its own.

    >>> count_params(LlamaConfig())
    6738415616
    """
    V, C, L, d_ff = config.vocab_size, config.d_model, config.n_layers, config.d_ff
    head_dim = config.head_dim or C // config.n_heads
    queries = config.n_heads * head_dim
    keys = (config.n_kv_heads or config.n_heads) * head_dim
    attention = 2 * C * queries + 2 * C * keys  # q and output, k and v
    mlp = 3 * C * d_ff
    norms = 2 * C
    return (1 if config.tie else 2) * V * C + L * (attention + mlp + norms) + C


IGNORE = r"rotary_emb\.inv_freq$"  # old files carry what is computed


def weights(config: Any) -> dict[str, Copy]:
    """Our names -> names in LLaMA's files."""
    block, there = "transformer.blocks.{}.", "model.layers.{}."
    table = {
        "transformer.embed.tokens.weight": Copy("model.embed_tokens.weight"),
        "transformer.norm.weight": Copy("model.norm.weight"),
        "lm_head.weight": Copy("lm_head.weight"),
        block + "attn_norm.weight": Copy(there + "input_layernorm.weight"),
        block + "mlp_norm.weight": Copy(there + "post_attention_layernorm.weight"),
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        table[block + f"attn.{name}.weight"] = Copy(there + f"self_attn.{name}.weight")
    for name in ("gate_proj", "up_proj", "down_proj"):
        table[block + f"mlp.{name}.weight"] = Copy(there + f"mlp.{name}.weight")
    return table
