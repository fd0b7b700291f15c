"""BERT (Devlin et al. 2018): an encoder with the norm last, learned positions, segments, and a choice of heads."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar

from torch import nn

from llmkit.checkpoints.tables import Copy, weight_and_bias
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PostNormBlock
from llmkit.layers.encoder_heads import MaskedLM, SequenceClassifier, TextEncoder, TokenClassifier
from llmkit.layers.mlp import ACTIVATIONS, MLP
from llmkit.layers.transformer import Embedding, OffsetEmbedding, Transformer, init_weights

# config.json's `architectures`, without the family's name in front
HEADS: dict[str, Callable[[Transformer, Any], nn.Module]] = {
    "Model": TextEncoder,
    "ForMaskedLM": MaskedLM,
    "ForSequenceClassification": SequenceClassifier,
    "ForTokenClassification": TokenClassifier,
}


@dataclass(frozen=True)
class BertConfig:
    """The defaults are BERT base, 109,482,240 parameters with its pooler and no other head."""

    vocab_size: int = 30522
    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 12
    d_ff: int = 3072
    max_len: int = 512
    n_types: int = 2
    norm_eps: float = 1e-12
    activation: str = "gelu"
    dropout: float = 0.0  # of the embeddings and of what each branch adds
    pad_id: int = 0
    head: str = "ForMaskedLM"  # a key of HEADS
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")  # of the classifiers
    _: KW_ONLY
    attention_dropout: float = 0.0  # of the attention weights
    classifier_dropout: float | None = None  # dropout; of what the classifiers read

    family: ClassVar[str] = "Bert"
    offset: ClassVar[int] = 0  # unused rows at the beginning of the position table

    @property
    def head_dropout(self) -> float:
        """Of what a classifier's last matrix reads."""
        return self.dropout if self.classifier_dropout is None else self.classifier_dropout

    @property
    def pool_dropout(self) -> float:
        """Of what a text classifier's first matrix reads: RoBERTa's."""
        return 0.0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "BertConfig":
        """From config.json; raises KeyError for a missing size, ValueError for a variant not built here."""
        if hf.get("is_decoder") or hf.get("add_cross_attention"):
            raise ValueError(f"{cls.family} as a decoder is not built here")
        if hf.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(f"{cls.family} with {hf['position_embedding_type']} positions is not built here")
        if hf.get("hidden_act", "gelu") not in ACTIVATIONS:
            raise ValueError(f"the activation {hf['hidden_act']!r} is not one of {', '.join(ACTIVATIONS)}")
        head, pad_id = cls._head(hf), hf.get("pad_token_id", cls.pad_id)
        if pad_id is None:
            raise ValueError(f"pad_token_id is null; {cls.family}'s is {cls.pad_id}")
        if HEADS[head] is MaskedLM and not hf.get("tie_word_embeddings", True):
            raise ValueError(f"{cls.family} with an output matrix of its own (tie_word_embeddings) is not built here")
        return cls(
            hf["vocab_size"], hf["hidden_size"], hf["num_hidden_layers"], hf["num_attention_heads"],
            hf["intermediate_size"], hf["max_position_embeddings"] - cls.offset, hf.get("type_vocab_size", 2),
            hf.get("layer_norm_eps", 1e-12), hf.get("hidden_act", "gelu"), hf.get("hidden_dropout_prob", 0.1), pad_id,
            head, _labels(hf),
            attention_dropout=hf.get("attention_probs_dropout_prob", 0.1),
            classifier_dropout=hf.get("classifier_dropout"),
        )  # fmt: skip

    @classmethod
    def _head(cls, hf: Mapping[str, Any]) -> str:
        architecture = (hf.get("architectures") or [f"{cls.family}ForMaskedLM"])[0]
        head = architecture.removeprefix(cls.family)
        if head == "ForPreTraining":  # its second head, "is this the next sentence", is left out
            head = "ForMaskedLM"
        if head not in HEADS:
            known = ", ".join(cls.family + name for name in HEADS)
            raise ValueError(f"the architecture {architecture!r} is not built here; there are {known}")
        return head

    def to_hf(self) -> dict[str, Any]:
        numbered = {str(i): label for i, label in enumerate(self.labels)}
        return {
            "model_type": self.family.lower(), "architectures": [self.family + self.head],
            "vocab_size": self.vocab_size, "hidden_size": self.d_model, "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads, "intermediate_size": self.d_ff,
            "max_position_embeddings": self.max_len + self.offset, "type_vocab_size": self.n_types,
            "layer_norm_eps": self.norm_eps, "hidden_act": self.activation, "pad_token_id": self.pad_id,
            "hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.attention_dropout,
            "classifier_dropout": self.classifier_dropout,
            "tie_word_embeddings": True, "id2label": numbered,
            "label2id": {label: int(i) for i, label in numbered.items()},
        }  # fmt: skip


def _labels(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the labels in the order of their numbers; transformers leaves out the list when there are two."""
    names = hf.get("id2label") or {str(i): f"LABEL_{i}" for i in range(hf.get("num_labels", 2))}
    if sorted(map(int, names)) != list(range(len(names))):
        raise ValueError(f"id2label must number the labels 0 … {len(names) - 1}, it has {', '.join(map(str, names))}")
    return tuple(names[key] for key in sorted(names, key=int))


# Devlin et al. 2018, section 3
SIZES = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(d_model=1024, n_layers=24, n_heads=16, d_ff=4096),
}


def encoder(config: BertConfig) -> Transformer:
    """The stack under every head: nothing hides the future, so each token is read with what stands on both sides."""
    C = config.d_model
    norm = partial(nn.LayerNorm, C, config.norm_eps)

    def block() -> PostNormBlock:
        attn = MultiHeadAttention(C, config.n_heads, bias=True, dropout=config.attention_dropout)
        return PostNormBlock(attn, MLP(C, config.d_ff, ACTIVATIONS[config.activation]), norm, config.dropout)

    positions = OffsetEmbedding(config.max_len, C, config.offset)
    embed = Embedding(config.vocab_size, C, positions, config.dropout, config.n_types, norm())
    return Transformer(embed, [block() for _ in range(config.n_layers)], causal=False)


def bert(config: BertConfig) -> nn.Module:
    """The model with the head that the config names, initialised as BERT was.

    A pretrained encoder gets another head so: `new = bert(replace(old.config, head="ForSequenceClassification",
    labels=labels))`, and then `new.transformer.load_state_dict(old.transformer.state_dict())`.
    """
    model = HEADS[config.head](encoder(config), config)
    init_weights(model, n_layers=None)
    return model


# Old files carry the position numbers, the tied output matrix, the next-sentence head, a pooler that no head reads.
IGNORE = r"position_ids$|decoder\.(weight|bias)$|^cls\.seq_relationship\.|(^|\.)pooler\."


def weights(config: BertConfig) -> dict[str, Copy]:
    """Our names -> names in BERT's files; they begin with "bert." where there is a head."""
    table = encoder_weights("bert.", bare=config.head == "Model")
    heads = {
        "Model": weight_and_bias("pooler", "pooler.dense", "bert.pooler.dense"),
        "ForMaskedLM": {
            **weight_and_bias("dense", "cls.predictions.transform.dense"),
            **layer_norm("norm", "cls.predictions.transform.LayerNorm"),
            "lm_head.bias": Copy("cls.predictions.bias", "cls.predictions.decoder.bias"),
        },
        "ForSequenceClassification": {
            **weight_and_bias("pooler", "bert.pooler.dense"),
            **weight_and_bias("classifier", "classifier"),
        },
        "ForTokenClassification": weight_and_bias("classifier", "classifier"),
    }
    return table | heads[config.head]


def encoder_weights(prefix: str, bare: bool) -> dict[str, Copy]:
    """The table of the stack; names are written with the prefix, or `bare`, and read either way."""

    def both(name: str) -> tuple[str, ...]:
        return (name, prefix + name) if bare else (prefix + name, name)

    block, there = "transformer.blocks.{}.", "encoder.layer.{}."
    table = {
        f"transformer.embed.{ours}.weight": Copy(*both(f"embeddings.{theirs}_embeddings.weight"))
        for ours, theirs in (("tokens", "word"), ("positions", "position"), ("types", "token_type"))
    }
    table |= layer_norm("transformer.embed.norm", *both("embeddings.LayerNorm"))
    table |= layer_norm(block + "attn_norm", *both(there + "attention.output.LayerNorm"))
    table |= layer_norm(block + "mlp_norm", *both(there + "output.LayerNorm"))
    linear = {
        "attn.q_proj": "attention.self.query", "attn.k_proj": "attention.self.key",
        "attn.v_proj": "attention.self.value", "attn.o_proj": "attention.output.dense",
        "mlp.up_proj": "intermediate.dense", "mlp.down_proj": "output.dense",
    }  # fmt: skip
    for ours, theirs in linear.items():
        table |= weight_and_bias(block + ours, *both(there + theirs))
    return table


def layer_norm(ours: str, *theirs: str) -> dict[str, Copy]:
    """Two rows for a LayerNorm, whose weight and bias files from TensorFlow call gamma and beta."""
    return {
        f"{ours}.weight": Copy(*(f"{name}.weight" for name in theirs), *(f"{name}.gamma" for name in theirs)),
        f"{ours}.bias": Copy(*(f"{name}.bias" for name in theirs), *(f"{name}.beta" for name in theirs)),
    }
