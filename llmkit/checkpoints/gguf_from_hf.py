"""A Hugging Face checkpoint's tensors under GGUF's names: what a converter does with LLaMA, Mistral and Mixtral.

llama.cpp's converter goes from file to file without building a model; so does this one. `save_gguf` (gguf.py) writes
the same from a model. Sources: llama.cpp `conversion/llama.py` (LlamaModel.modify_tensors, called by
`convert_hf_to_gguf.py`, where it once stood) and gguf-py `gguf/tensor_mapping.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmkit.checkpoints.gguf import FILE_TYPES, fields_of, kind_of
from llmkit.checkpoints.gguf_config import rope_factors
from llmkit.checkpoints.gguf_write import Planned, write_gguf
from llmkit.checkpoints.special import Settings
from llmkit.checkpoints.tables import WeightsError
from llmkit.layers.rope import halves_to_pairs
from llmkit.models.llama import IGNORE
from llmkit.tokenizers.base import Tokenizer


def gguf_name(name: str) -> str:
    """What GGUF calls a tensor of a LLaMA, Mistral or Mixtral at Hugging Face; its ending, .weight or .bias, stays.

    model.embed_tokens -> token_embd      model.norm -> output_norm      lm_head -> output
    model.layers.3.PART -> blk.3.PART, where PART changes so:

        input_layernorm          attn_norm       mlp.gate_proj                    ffn_gate
        post_attention_layernorm ffn_norm        mlp.up_proj                      ffn_up
        self_attn.q_proj         attn_q          mlp.down_proj                    ffn_down
        self_attn.k_proj         attn_k          block_sparse_moe.gate            ffn_gate_inp
        self_attn.v_proj         attn_v          block_sparse_moe.experts.7.w1    ffn_gate_exps
        self_attn.o_proj         attn_output     block_sparse_moe.experts.7.w2    ffn_down_exps
                                                 block_sparse_moe.experts.7.w3    ffn_up_exps

    All experts of a layer get one name: their tensors become one. Raises WeightsError for any other name and any other
    ending: q_proj.weight_scale, say, belongs to weights in 8 bits, which a new name does not convert.

    >>> gguf_name("model.layers.3.self_attn.q_proj.weight")
    'blk.3.attn_q.weight'
    """
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "block_sparse_moe.gate": "ffn_gate_inp", "block_sparse_moe.experts.*.w1": "ffn_gate_exps",
        "block_sparse_moe.experts.*.w2": "ffn_down_exps", "block_sparse_moe.experts.*.w3": "ffn_up_exps",
    }  # fmt: skip
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, ending = name.rpartition(".")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    part = re.sub(r"experts\.\d+", "experts.*", layer[2]) if layer else ""
    if ending not in ("weight", "bias") or (stem not in whole and part not in parts):
        raise WeightsError(f"{name} is no tensor of a LLaMA, Mistral or Mixtral that this converter knows")
    to = whole[stem] if stem in whole else f"blk.{layer[1]}.{parts[part]}"
    return f"{to}.{ending}"


def stack_experts(tensors: Mapping[str, Tensor], n_experts: int) -> dict[str, Tensor]:
    """The experts' matrices of all layers, each kind of each layer as one tensor.

    tensors   names as at Hugging Face -> matrices (out, in); names without an expert's number are passed over
    result    names as in GGUF (gguf_name) -> (n_experts, out, in): at place e the matrix of expert e

    The names come in any order. Raises ValueError where the experts of a tensor are not 0 … n_experts - 1.
    """
    found: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if number := re.search(r"\.experts\.(\d+)\.", name):
            found.setdefault(gguf_name(name), {})[int(number[1])] = tensor
    for name, experts in found.items():
        if sorted(experts) != list(range(n_experts)):
            raise ValueError(f"{name}: experts {sorted(experts)} were found, 0 to {n_experts - 1} are needed")
    return {name: torch.stack([experts[e] for e in range(n_experts)]) for name, experts in found.items()}


def converted(tensors: Mapping[str, Tensor], n_heads: int, n_kv_heads: int, n_experts: int = 0) -> dict[str, Tensor]:
    """All tensors of a checkpoint as GGUF holds them: renamed, q and k with their rows in pairs, experts stacked.

    What old files carry and is no weight, rotary_emb.inv_freq, is passed over. Raises ValueError for experts without
    n_experts, and what gguf_name and stack_experts raise.
    """
    heads = {"q_proj": n_heads, "k_proj": n_kv_heads}
    if not n_experts and (some := [name for name in tensors if re.search(r"\.experts\.\d+\.", name)]):
        raise ValueError(f"{some[0]} belongs to an expert: give n_experts")
    found = stack_experts(tensors, n_experts)
    for name, tensor in tensors.items():
        if re.search(r"\.experts\.\d+\.", name) or re.search(IGNORE, name):
            continue  # stacked above, or computed and no weight
        to, kind = gguf_name(name), name.split(".")[-2]
        found[to] = halves_to_pairs(tensor, heads[kind]) if kind in heads else tensor
    return found


def write_converted(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    config: Any,
    tokenizer: Tokenizer | None,
    kind: str = "F32",
    settings: Settings | None = None,
) -> None:
    """A GGUF file of tensors under GGUF's names, with the config (LLaMA's or Mixtral's) and tokenizer they belong to.

    kind, settings   as in `save_gguf` (gguf.py), which writes from a model

    Raises ValueError for another kind, WeightsError for a weight that the kind cannot hold.
    """
    if kind not in FILE_TYPES:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(FILE_TYPES)}")
    if (factors := rope_factors(config)) is not None:
        tensors = {**tensors, "rope_freqs.weight": factors}
    plan = {name: Planned(kind_of(name, tuple(t.shape), kind), tuple(t.shape), t.float) for name, t in tensors.items()}
    write_gguf(path, fields_of(config, Path(path).stem, kind, tokenizer, settings), plan)
