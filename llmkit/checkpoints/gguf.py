"""GGUF, llama.cpp's file: one file with config, tokenizer and weights, often quantised. Read and written here.

Reading: LLaMA, Mistral and Mixtral. Writing: those, GPT-2, and BERT's stack.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmkit.checkpoints import gguf_config, gguf_names
from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.gguf_header import BLOCKS
from llmkit.checkpoints.gguf_special import settings_of_gguf
from llmkit.checkpoints.gguf_tokenizer import read_tokenizer, tokenizer_fields
from llmkit.checkpoints.gguf_write import Planned, write_gguf
from llmkit.checkpoints.special import Settings
from llmkit.checkpoints.tables import Table, WeightsError
from llmkit.checkpoints.weights import building_from, load_weights
from llmkit.models.bert import BertConfig
from llmkit.models.gpt2 import GPT2Config
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Export:
    """What llama.cpp calls a family, its metadata and its names."""

    architecture: str
    fields: Callable[[Any], dict[str, Any]]
    weights: Callable[[Any], Table]


EXPORTS: Mapping[type, Export] = {
    LlamaConfig: Export("llama", gguf_config.llama_fields, gguf_names.llama_weights),
    MixtralConfig: Export("llama", gguf_config.llama_fields, gguf_names.mixtral_weights),
    GPT2Config: Export("gpt2", gguf_config.gpt2_fields, gguf_names.gpt2_weights),
    BertConfig: Export("bert", gguf_config.bert_fields, gguf_names.bert_weights),
}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # general.file_type, what most matrices are
# Small, and what follows depends on every bit of them: which expert is chosen, where a token stands.
KEPT_F32 = ("ffn_gate_inp.", "position_embd.", "token_types.", "rope_freqs.")


def load_gguf(path: str | Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tokenizer | None]:
    """A model in evaluation mode and its tokenizer from one GGUF file of LLaMA's architecture, experts included.

    dtype   of the weights; quantised ones (Q8_0, Q4_0, Q4_1, K-quants …) are expanded to it a tensor at a time

    Raises WeightsError for a file that is no GGUF or is damaged, another architecture, sizes that are not the
    tensors' or make no model, a missing, left-over or misshapen tensor; TokenizerFileError for a tokenizer that
    llmkit cannot build; ImportError where a K-quant is to be expanded without the package `gguf`.
    """
    file = GGUFFile(path)
    config = gguf_config.llama_config(file)
    tokenizer = read_tokenizer(file, config.vocab_size)
    if tokenizer is not None:
        tokenizer.settings = settings_of_gguf(file, tokenizer)
    with building_from(file.path):
        model = mixtral(config) if isinstance(config, MixtralConfig) else llama(config)
    load_weights(model, EXPORTS[type(config)].weights(config), file, r"^rope_freqs\.weight$", dtype)
    return model.eval(), tokenizer


def save_gguf(
    model: nn.Module,
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    kind: str = "F32",
    settings: Settings | None = None,
    progress: bool = False,
) -> dict[str, int]:
    """Write a LLaMA, Mistral, Mixtral, GPT-2, or BERT's stack as llama.cpp reads it.

    kind       of the matrices: F32, F16, BF16, Q8_0 or Q4_0. Vectors, the router, positions and token types stay F32;
               with Q4_0 the embedding and the output matrix are Q8_0; rows that are no whole number of blocks are F16
    settings   special tokens, whether bos begins every text, the chat template; the usual names are looked for
    progress   show a bar
    result     how many tensors of each kind were written

    The file is written aside and renamed when it is whole. Raises WeightsError for another family, a classifier, whose
    head would be lost, a rope scaling that is not written, a weight that the kind cannot hold; TokenizerFileError for a
    tokenizer that llama.cpp does not have; ValueError for another kind.
    """
    export = EXPORTS.get(type(getattr(model, "config", None)))
    if export is None:
        raise WeightsError(f"{type(model).__name__}: to GGUF go {', '.join(config.__name__ for config in EXPORTS)}")
    kind = kind.upper()
    if kind not in FILE_TYPES:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(FILE_TYPES)}")
    config, path = model.config, Path(path)
    if str(getattr(config, "head", "")).endswith("Classification"):
        raise WeightsError(
            f"a {type(model).__name__} goes to GGUF without its head: llama.cpp knows BERT's stack alone"
        )
    fields = fields_of(config, path.stem, kind, tokenizer, settings)
    plan = {
        name: Planned(kind_of(name, stored.shape, kind), stored.shape, stored.values)
        for name, stored in gguf_names.stored_by_name(model, export.weights(config)).items()
    }
    if isinstance(config, LlamaConfig) and (factors := gguf_config.rope_factors(config)) is not None:
        plan["rope_freqs.weight"] = Planned("F32", tuple(factors.shape), lambda: factors)
    write_gguf(path, fields, plan, progress)
    kinds = [planned.kind for planned in plan.values()]
    return {kind: kinds.count(kind) for kind in FILE_TYPES if kind in kinds}


def fields_of(
    config: Any, name: str, kind: str, tokenizer: Tokenizer | None, settings: Settings | None
) -> dict[str, Any]:
    """What a file's header says beside its tensors: family, sizes, pieces and special tokens."""
    export = EXPORTS[type(config)]
    return {
        "general.architecture": export.architecture, "general.type": "model", "general.name": name,
        "general.file_type": FILE_TYPES[kind], "general.quantization_version": 2,
        **export.fields(config), **tokenizer_fields(tokenizer, config.vocab_size, settings),
    }  # fmt: skip


def kind_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    """The kind that a tensor is written in when the file's matrices are of `kind`.

    >>> kind_of("blk.0.ffn_up.weight", (1536, 576), "Q4_0"), kind_of("blk.0.ffn_norm.weight", (576,), "Q4_0")
    ('Q4_0', 'F32')
    """
    if len(shape) == 1 or any(part in name for part in KEPT_F32):
        return "F32"
    if kind == "Q4_0" and name in ("token_embd.weight", "output.weight"):
        kind = "Q8_0"
    return kind if shape[-1] % BLOCKS[kind][0] == 0 else "F16"
