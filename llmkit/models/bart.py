"""BART (Lewis et al. 2019): the 2017 Transformer with GELU: encoder and decoder, norm last, learned positions."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

from torch import nn

from llmkit.checkpoints.tables import Copy, RowOrZeros, weight_and_bias
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PostNormBlock
from llmkit.layers.cross import CrossAttention, PostNormCrossBlock
from llmkit.layers.mlp import ACTIVATIONS, MLP
from llmkit.layers.seq2seq import Seq2SeqLM
from llmkit.layers.transformer import Embedding, OffsetEmbedding, Transformer, init_weights

OFFSET = 2  # unused rows at the beginning of both position tables, as in RoBERTa


@dataclass(frozen=True)
class BartConfig:
    """The defaults are BART base, 139,420,416 parameters.

    forced_bos_id, forced_eos_id   tokens that transformers' generate forces to the front and to the end of an answer;
                                   kept for it and not used here: begin an answer with (start_id, forced_bos_id)
    """

    vocab_size: int = 50265
    d_model: int = 768
    n_layers: int = 6
    n_decoder_layers: int | None = None  # n_layers
    n_heads: int = 12
    n_decoder_heads: int | None = None  # n_heads
    d_ff: int = 3072
    decoder_d_ff: int | None = None  # d_ff
    max_len: int = 1024
    activation: str = "gelu"
    dropout: float = 0.0  # of the embeddings and of what each branch adds
    scale_embedding: bool = False  # token vectors times sqrt(d_model), as in 2017
    pad_id: int = 1
    start_id: int = 2  # the decoder begins with the end token
    end_id: int = 2
    forced_bos_id: int | None = None
    forced_eos_id: int | None = None
    _: KW_ONLY
    attention_dropout: float = 0.0  # of the attention weights
    activation_dropout: float = 0.0  # inside the MLP

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "BartConfig":
        """From config.json; raises KeyError for a missing size, ValueError for a variant not built here."""
        if hf.get("normalize_before") or hf.get("add_final_layer_norm"):
            raise ValueError("BART with the norm first (as mBART has it) is not built here")
        if hf.get("activation_function", "gelu") not in ACTIVATIONS:
            raise ValueError(f"the activation {hf['activation_function']!r} is not one of {', '.join(ACTIVATIONS)}")
        if not hf.get("tie_word_embeddings", True):
            raise ValueError("BART with an output matrix of its own (tie_word_embeddings) is not built here")
        return cls(
            hf["vocab_size"], hf["d_model"], hf["encoder_layers"], hf["decoder_layers"],
            hf["encoder_attention_heads"], hf["decoder_attention_heads"], hf["encoder_ffn_dim"],
            hf["decoder_ffn_dim"], hf["max_position_embeddings"], hf.get("activation_function", "gelu"),
            hf.get("dropout", 0.1), attention_dropout=hf.get("attention_dropout", 0.0),
            activation_dropout=hf.get("activation_dropout", 0.0),
            scale_embedding=bool(hf.get("scale_embedding")), pad_id=hf.get("pad_token_id", 1),
            start_id=hf.get("decoder_start_token_id", 2), end_id=hf.get("eos_token_id", 2),
            forced_bos_id=hf.get("forced_bos_token_id"), forced_eos_id=hf.get("forced_eos_token_id"),
        )  # fmt: skip

    def to_hf(self) -> dict[str, Any]:
        return {
            "model_type": "bart", "architectures": ["BartForConditionalGeneration"], "vocab_size": self.vocab_size,
            "d_model": self.d_model, "encoder_layers": self.n_layers,
            "decoder_layers": self.n_decoder_layers or self.n_layers, "encoder_attention_heads": self.n_heads,
            "decoder_attention_heads": self.n_decoder_heads or self.n_heads, "encoder_ffn_dim": self.d_ff,
            "decoder_ffn_dim": self.decoder_d_ff or self.d_ff, "max_position_embeddings": self.max_len,
            "activation_function": self.activation, "scale_embedding": self.scale_embedding,
            "tie_word_embeddings": True, "is_encoder_decoder": True, "pad_token_id": self.pad_id,
            "decoder_start_token_id": self.start_id, "eos_token_id": self.end_id,
            "forced_bos_token_id": self.forced_bos_id, "forced_eos_token_id": self.forced_eos_id,
            "dropout": self.dropout, "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
        }  # fmt: skip


# Lewis et al. 2019, section 2.1
SIZES = {
    "bart-base": BartConfig(),
    "bart-large": BartConfig(d_model=1024, n_layers=12, n_heads=16, d_ff=4096),
}


def bart(config: BartConfig) -> Seq2SeqLM:
    """The model."""
    C, activation = config.d_model, ACTIVATIONS[config.activation]
    norm = partial(nn.LayerNorm, C)
    mlp = partial(MLP, C, activation=activation, dropout=config.activation_dropout)

    def attn(n_heads: int, kind: type[MultiHeadAttention] = MultiHeadAttention) -> MultiHeadAttention:
        return kind(C, n_heads, bias=True, dropout=config.attention_dropout)

    def encoder_block() -> PostNormBlock:
        return PostNormBlock(attn(config.n_heads), mlp(config.d_ff), norm, config.dropout)

    def decoder_block() -> PostNormCrossBlock:
        H, d_ff = config.n_decoder_heads or config.n_heads, config.decoder_d_ff or config.d_ff
        return PostNormCrossBlock(attn(H), attn(H, CrossAttention), mlp(d_ff), norm, config.dropout)

    def stack(blocks: list[nn.Module], causal: bool) -> Transformer:
        positions = OffsetEmbedding(config.max_len, C, OFFSET)
        scale = C**0.5 if config.scale_embedding else 1.0
        embed = Embedding(config.vocab_size, C, positions, config.dropout, norm=norm(), scale=scale)
        return Transformer(embed, blocks, causal=causal)

    encoder = stack([encoder_block() for _ in range(config.n_layers)], causal=False)
    decoder = stack([decoder_block() for _ in range(config.n_decoder_layers or config.n_layers)], causal=True)
    model = Seq2SeqLM(encoder, decoder, config, tie=True, bias=True)
    init_weights(model, n_layers=None)
    return model


# The published base and large are bare ("BartModel"): no "model." in front, and no bias of the logits.
IGNORE = r"^(model\.)?(encoder|decoder)\.(embed_tokens\.weight|version)$|^lm_head\.weight$"


def weights(config: BartConfig) -> dict[str, Copy]:
    """Our names -> names in BART's files."""

    def either(name: str) -> tuple[str, str]:
        return f"model.{name}", name

    table = {
        "encoder.embed.tokens.weight": Copy(*either("shared.weight")),
        "logits_bias": RowOrZeros("final_logits_bias"),
    }
    for side in ("encoder", "decoder"):
        block, there = side + ".blocks.{}.", side + ".layers.{}."
        table[f"{side}.embed.positions.weight"] = Copy(*either(f"{side}.embed_positions.weight"))
        table |= weight_and_bias(f"{side}.embed.norm", *either(f"{side}.layernorm_embedding"))
        names = {
            "attn_norm": "self_attn_layer_norm", "cross_norm": "encoder_attn_layer_norm",
            "mlp_norm": "final_layer_norm", "mlp.up_proj": "fc1", "mlp.down_proj": "fc2",
        }  # fmt: skip
        for ours, theirs in (("attn", "self_attn"), ("cross_attn", "encoder_attn")):
            names |= {
                f"{ours}.{p}_proj": f"{theirs}.{q}_proj" for p, q in zip("qkvo", ("q", "k", "v", "out"), strict=True)
            }
        for ours, theirs in names.items():
            table |= weight_and_bias(block + ours, *either(there + theirs))
    return table
