"""T5 (Raffel et al. 2020) and T5 v1.1: encoder and decoder, relative positions, RMSNorm, scores that are not scaled."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional as F

from llmkit.checkpoints.tables import Copy
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.cross import CrossAttention, PreNormCrossBlock
from llmkit.layers.mlp import MLP, GatedMLP, fused_gelu_tanh
from llmkit.layers.norms import RMSNorm
from llmkit.layers.positions import RelativePositionBias
from llmkit.layers.seq2seq import Seq2SeqLM
from llmkit.layers.transformer import Embedding, Transformer


@dataclass(frozen=True)
class T5Config:
    """The defaults are T5 small (version 1.0), 60,506,624 parameters."""

    vocab_size: int = 32128
    d_model: int = 512
    n_layers: int = 6
    n_decoder_layers: int | None = None  # n_layers
    n_heads: int = 8
    head_dim: int = 64  # not d_model / n_heads in the largest models
    d_ff: int = 2048
    n_buckets: int = 32
    max_distance: int = 128
    norm_eps: float = 1e-6
    dropout: float = 0.0  # everywhere: embeddings, attention weights, inside the MLP, each branch, each stack's end
    gated: bool = False  # v1.1: a gated MLP with GELU where v1.0 has ReLU
    tie: bool = True  # v1.0: the output matrix is the token table, and the states before it are scaled
    pad_id: int = 0
    end_id: int = 1

    @property
    def start_id(self) -> int:
        """The decoder's first token is padding."""
        return self.pad_id

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "T5Config":
        """From config.json; raises KeyError for a missing size, ValueError for a variant not built here."""
        kind = hf.get("feed_forward_proj", "relu")
        if kind not in ("relu", "gated-gelu"):
            raise ValueError(f"T5's MLP is 'relu' (v1.0) or 'gated-gelu' (v1.1), not {kind!r}")
        pad_id = hf.get("pad_token_id", 0)
        if pad_id is None:
            raise ValueError("pad_token_id is null, but T5's decoder begins with padding: T5's is 0")
        if hf.get("decoder_start_token_id", pad_id) not in (None, pad_id):
            raise ValueError(f"T5's decoder begins with padding, {pad_id}, not with {hf['decoder_start_token_id']}")
        # transformers 4 says it by tying, transformers 5 ties all and says it by scaling
        tie = hf.get("scale_decoder_outputs", hf.get("tie_word_embeddings", True))
        return cls(
            hf["vocab_size"], hf["d_model"], hf["num_layers"], hf.get("num_decoder_layers"), hf["num_heads"],
            hf["d_kv"], hf["d_ff"], hf.get("relative_attention_num_buckets", 32),
            hf.get("relative_attention_max_distance", 128), hf.get("layer_norm_epsilon", 1e-6),
            hf.get("dropout_rate", 0.1), kind == "gated-gelu", tie, pad_id, hf.get("eos_token_id", 1),
        )  # fmt: skip

    def to_hf(self) -> dict[str, Any]:
        return {
            "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": self.vocab_size,
            "d_model": self.d_model, "d_kv": self.head_dim, "d_ff": self.d_ff, "num_layers": self.n_layers,
            "num_decoder_layers": self.n_decoder_layers or self.n_layers, "num_heads": self.n_heads,
            "relative_attention_num_buckets": self.n_buckets, "relative_attention_max_distance": self.max_distance,
            "layer_norm_epsilon": self.norm_eps, "dropout_rate": self.dropout,
            "feed_forward_proj": "gated-gelu" if self.gated else "relu",
            "tie_word_embeddings": self.tie, "scale_decoder_outputs": self.tie, "is_encoder_decoder": True,
            "pad_token_id": self.pad_id, "eos_token_id": self.end_id, "decoder_start_token_id": self.start_id,
        }  # fmt: skip


# Raffel et al. 2020, section 3.7; v1.1 from its model card
SIZES = {
    "t5-small": T5Config(),
    "t5-base": T5Config(d_model=768, n_layers=12, n_heads=12, d_ff=3072),
    "t5-large": T5Config(d_model=1024, n_layers=24, n_heads=16, d_ff=4096),
    "t5-v1_1-small": T5Config(n_layers=8, n_heads=6, d_ff=1024, gated=True, tie=False),
    "t5-v1_1-base": T5Config(d_model=768, n_layers=12, n_heads=12, d_ff=2048, gated=True, tie=False),
}


def t5(config: T5Config) -> Seq2SeqLM:
    """The model, initialised as T5 was."""
    C, H, D = config.d_model, config.n_heads, config.head_dim
    norm = partial(RMSNorm, C, config.norm_eps)

    def mlp() -> nn.Module:
        if config.gated:
            return GatedMLP(C, config.d_ff, fused_gelu_tanh, dropout=config.dropout)
        return MLP(C, config.d_ff, F.relu, bias=False, dropout=config.dropout)

    def attn(kind: type[MultiHeadAttention] = MultiHeadAttention) -> MultiHeadAttention:
        return kind(C, H, head_dim=D, scale=1.0, dropout=config.dropout)

    def encoder_block() -> PreNormBlock:
        return PreNormBlock(attn(), mlp(), norm, config.dropout)

    def decoder_block() -> PreNormCrossBlock:
        return PreNormCrossBlock(attn(), attn(CrossAttention), mlp(), norm, config.dropout)

    def stack(blocks: list[nn.Module], causal: bool) -> Transformer:
        embed = Embedding(config.vocab_size, C, dropout=config.dropout)
        bias = RelativePositionBias(H, not causal, config.n_buckets, config.max_distance)
        return Transformer(embed, blocks, norm(), position_bias=bias, causal=causal, dropout=config.dropout)

    encoder = stack([encoder_block() for _ in range(config.n_layers)], causal=False)
    decoder = stack([decoder_block() for _ in range(config.n_decoder_layers or config.n_layers)], causal=True)
    model = Seq2SeqLM(encoder, decoder, config, config.tie, scale=C**-0.5 if config.tie else 1.0)
    _init_weights(model, config)
    return model


def _init_weights(model: Seq2SeqLM, config: T5Config) -> None:
    """Each matrix by the number of its inputs; q smaller still, which does the work of 1 / sqrt(head_dim).

    Source: transformers `T5PreTrainedModel._init_weights`, after mesh-tensorflow. An output matrix of its own is one
    more matrix here; transformers draws it like the token table, with std 1, so that the first logits are in the tens.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            std = module.in_features**-0.5
            nn.init.normal_(module.weight, std=std * config.head_dim**-0.5 if name.endswith("q_proj") else std)
        elif isinstance(module, RelativePositionBias):
            nn.init.normal_(module.weight, std=config.d_model**-0.5)
    nn.init.normal_(model.encoder.embed.tokens.weight, std=1.0)
    if not config.tie:
        nn.init.normal_(model.lm_head.weight, std=config.d_model**-0.5)


IGNORE = r"^(encoder|decoder)\.embed_tokens\.weight$|^lm_head\.weight$|EncDecAttention\.relative_attention_bias"


def weights(config: T5Config) -> dict[str, Copy]:
    """Our names -> names in T5's files: layer.0 is attention, then (in the decoder) cross-attention, then the MLP."""
    table = {
        "encoder.embed.tokens.weight": Copy("shared.weight"),
        "lm_head.weight": Copy("lm_head.weight", "shared.weight"),
    }
    mlp = {"up_proj": "wi", "down_proj": "wo"}
    if config.gated:
        mlp = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
    for side, last in (("encoder", 1), ("decoder", 2)):
        block, there = side + ".blocks.{}.", side + ".block.{}.layer."
        table[f"{side}.norm.weight"] = Copy(f"{side}.final_layer_norm.weight")
        table[f"{side}.position_bias.weight"] = Copy(
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        )
        table[block + "attn_norm.weight"] = Copy(there + "0.layer_norm.weight")
        table[block + "cross_norm.weight"] = Copy(there + "1.layer_norm.weight")
        table[block + "mlp_norm.weight"] = Copy(there + f"{last}.layer_norm.weight")
        for p in "qkvo":
            table[block + f"attn.{p}_proj.weight"] = Copy(there + f"0.SelfAttention.{p}.weight")
            table[block + f"cross_attn.{p}_proj.weight"] = Copy(there + f"1.EncDecAttention.{p}.weight")
        for ours, theirs in mlp.items():
            table[block + f"mlp.{ours}.weight"] = Copy(there + f"{last}.DenseReluDense.{theirs}.weight")
    return table
