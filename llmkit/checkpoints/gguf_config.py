"""A model's config as GGUF metadata, and back for LLaMA's family. Source: llama.cpp's `convert_hf_to_gguf.py`."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.tables import WeightsError
from llmkit.layers.rope import rope_frequencies, scaled_frequencies
from llmkit.models.bert import BertConfig
from llmkit.models.gpt2 import GPT2Config
from llmkit.models.llama import LlamaConfig
from llmkit.models.mixtral import MixtralConfig

# Meta's files differ in the factor only; other models' settings stand in entries of our own beside the factors.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
OWN_SCALING = "llmkit.rope_scaling."


def llama_fields(config: LlamaConfig) -> dict[str, Any]:
    """Metadata of a LLaMA, Mistral or Mixtral. Raises WeightsError for YaRN, which is not written."""
    head_dim = config.head_dim or config.d_model // config.n_heads
    fields = {
        "context_length": config.max_len, "embedding_length": config.d_model, "block_count": config.n_layers,
        "feed_forward_length": config.d_ff, "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads or config.n_heads,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps), "rope.freq_base": float(config.rope_theta),
        "rope.dimension_count": head_dim, "vocab_size": config.vocab_size,
    }  # fmt: skip
    if config.head_dim:
        fields |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if config.window:
        fields["attention.sliding_window"] = config.window
    if isinstance(config, MixtralConfig):
        fields |= {"expert_count": config.n_experts, "expert_used_count": config.top_k}
    scaling = dict(config.rope_scaling or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "yarn":
        raise WeightsError("rope scaling 'yarn' is not written to GGUF")
    if kind == "linear":
        fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    own = {OWN_SCALING + key: value for key, value in scaling.items() if kind in ("llama3", "ntk")}
    return {f"llama.{key}": value for key, value in fields.items()} | own


def rope_factors(config: LlamaConfig) -> Tensor | None:
    """rope_freqs.weight: (D/2,) by how much each wave is slowed down; None where a number says it, or nothing.

    For Llama 3.1: 1 for fast waves, `factor` for slow ones, and a blend between.
    """
    scaling = dict(config.rope_scaling or {})
    if scaling.get("rope_type", scaling.get("type", "default")) in ("default", "linear"):
        return None
    head_dim = config.head_dim or config.d_model // config.n_heads
    return rope_frequencies(head_dim, config.rope_theta) / scaled_frequencies(head_dim, config.rope_theta, scaling)[0]


def gpt2_fields(config: GPT2Config) -> dict[str, Any]:
    """Metadata of a GPT-2. Raises WeightsError for an activation that llama.cpp would not use."""
    if config.activation not in ("gelu_new", "gelu_pytorch_tanh"):
        raise WeightsError(f"llama.cpp computes GPT-2 with gelu_new, this model has {config.activation!r}")
    return {
        "gpt2.context_length": config.max_len, "gpt2.embedding_length": config.d_model,
        "gpt2.block_count": config.n_layers, "gpt2.feed_forward_length": config.d_ff or 4 * config.d_model,
        "gpt2.attention.head_count": config.n_heads, "gpt2.attention.layer_norm_epsilon": float(config.norm_eps),
    }  # fmt: skip


def bert_fields(config: BertConfig) -> dict[str, Any]:
    """Metadata of a BERT, pooled by the mean over its tokens, as MiniLM is."""
    return {
        "bert.context_length": config.max_len, "bert.embedding_length": config.d_model,
        "bert.block_count": config.n_layers, "bert.feed_forward_length": config.d_ff,
        "bert.attention.head_count": config.n_heads, "bert.attention.layer_norm_epsilon": float(config.norm_eps),
        "bert.attention.causal": False, "bert.pooling_type": 1, "tokenizer.ggml.token_type_count": config.n_types,
    }  # fmt: skip


def llama_config(file: GGUFFile) -> LlamaConfig:
    """The config of a LLaMA, Mistral or Mixtral, its sizes compared with the tensors before anything is built.

    Raises WeightsError for another architecture, an entry that is missing or of the wrong type, sizes that are not
    the tensors', and a rope scaling that is not understood.
    """
    kind = file.need("general.architecture", str)
    if kind != "llama":
        raise WeightsError(f"{file.path}: architecture {kind!r}; llmkit reads 'llama' from GGUF")
    sizes = ("embedding_length", "block_count", "feed_forward_length", "context_length", "attention.head_count")
    whole = {key: file.need(f"llama.{key}", int) for key in sizes}
    heads = whole["attention.head_count"]
    n_experts = file.get("llama.expert_count", 0, int)
    theta = _as_written(file.get("llama.rope.freq_base", 10000.0, float))
    head_dim = file.get("llama.attention.key_length", None, int)
    experts = {"n_experts": n_experts, "top_k": file.need("llama.expert_used_count", int)} if n_experts else {}
    _compare(file, whole, head_dim, n_experts)
    return (MixtralConfig if n_experts else LlamaConfig)(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        d_model=whole["embedding_length"],
        n_layers=whole["block_count"],
        n_heads=heads,
        n_kv_heads=file.get("llama.attention.head_count_kv", heads, int),
        head_dim=head_dim,
        d_ff=whole["feed_forward_length"],
        max_len=whole["context_length"],
        norm_eps=_as_written(file.need("llama.attention.layer_norm_rms_epsilon", float)),
        rope_theta=theta,
        rope_scaling=_scaling(file, head_dim or whole["embedding_length"] // heads, theta),
        window=file.get("llama.attention.sliding_window", None, int) or None,
        tie="output.weight" not in file,
        **experts,
    )


def _compare(file: GGUFFile, whole: Mapping[str, int], head_dim: int | None, n_experts: int) -> None:
    """A count that is not the tensors' would build a model of any size before the first tensor is missed."""
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        if name not in file.tensors or len(file.tensors[name].shape) != 2:
            raise WeightsError(f"{file.path}: the checkpoint has no {name}, a matrix")
    heads = whole["attention.head_count"]
    if not heads or not whole["embedding_length"]:
        raise WeightsError(f"{file.path}: {heads} heads over {whole['embedding_length']} dimensions are no model")
    head_dim = head_dim or whole["embedding_length"] // heads
    experts = file.tensors.get("blk.0.ffn_up_exps.weight")
    pairs = {
        "llama.embedding_length": (whole["embedding_length"], file.tensors["token_embd.weight"].shape[1]),
        "llama.block_count": (whole["block_count"], min(whole["block_count"], file.blocks())),
        "llama.attention.head_count times the size of a head": (
            heads * head_dim, file.tensors["blk.0.attn_q.weight"].shape[0],
        ),
        "llama.expert_count": (n_experts, experts.shape[0] if experts else 0),
        "llama.vocab_size": (
            file.get("llama.vocab_size", file.tensors["token_embd.weight"].shape[0], int),
            file.tensors["token_embd.weight"].shape[0],
        ),
    }  # fmt: skip
    for name, (said, found) in pairs.items():
        if said != found:
            raise WeightsError(f"{file.path}: {name} is {said}, but the tensors make it {found}")


def _scaling(file: GGUFFile, head_dim: int, theta: float) -> dict[str, Any] | None:
    """The rope scaling: a factor for all waves, or settings whose result is the file's own list of factors."""
    kind = file.get("llama.rope.scaling.type", "none", str)
    if kind not in ("none", "linear"):
        raise WeightsError(f"{file.path}: rope scaling {kind!r} is not read from GGUF")
    if kind == "linear":
        return {"rope_type": "linear", "factor": _as_written(file.need("llama.rope.scaling.factor", float))}
    if "rope_freqs.weight" not in file:
        return None
    factors = file["rope_freqs.weight"]
    if torch.equal(factors, torch.ones_like(factors)):
        return None
    own = {re.sub("^" + re.escape(OWN_SCALING), "", k): v for k, v in file.fields.items() if k.startswith(OWN_SCALING)}
    own = {key: _as_written(value) if isinstance(value, float) else value for key, value in own.items()}
    scaling = own or {"rope_type": "llama3", "factor": _as_written(float(factors.max())), **LLAMA3}
    try:
        expected = rope_frequencies(head_dim, theta) / scaled_frequencies(head_dim, theta, scaling)[0]
    except (ValueError, TypeError, KeyError, ZeroDivisionError, RuntimeError):
        expected = torch.zeros(1)
    if expected.shape != factors.shape or not torch.allclose(expected, factors, rtol=1e-4):
        raise WeightsError(f"{file.path}: rope_freqs.weight are not the factors of {scaling}")
    return scaling


def _as_written(number: float) -> float:
    """1e-05 out of the 9.99999975e-06 that a 32-bit entry makes of it."""
    return float(f"{number:.7g}")
