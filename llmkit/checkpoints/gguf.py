"""GGUF, llama.cpp's file: one file with config, tokenizer and weights, often quantised. Read here for LLaMA's family.

llama.cpp rotates neighbouring pairs of q and k where we rotate halves (layers/rope.py), so its q and k have their rows
in another order: forget it, and the model still writes English, only worse. Needs the package `gguf`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.checkpoints.weights import Copy, PairsToHalves, Table, WeightsError, building_from, load_weights
from llmkit.models import llama
from llmkit.models.llama import LlamaConfig
from llmkit.tokenizers.base import Tokenizer, TokenizerFileError
from llmkit.tokenizers.bpe import GPT2_PATTERN
from llmkit.tokenizers.vocab import SINGLE_DIGITS_PATTERN, byte_level_from

# What `tokenizer.ggml.pre` calls the pattern that a text is cut by before merging.
PATTERNS = {"gpt-2": GPT2_PATTERN, "smollm": SINGLE_DIGITS_PATTERN}
NORMAL, CONTROL = 1, 3  # tokenizer.ggml.token_type; text never becomes a control token


def load_gguf(path: str | Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tokenizer]:
    """A model in evaluation mode and its tokenizer from one GGUF file of LLaMA's architecture.

    dtype   of the weights; quantised ones (Q8_0, Q4_0, Q4_1, K-quants …) are expanded to it a tensor at a time

    Raises WeightsError for a file that is no GGUF or is cut short, another architecture, sizes that make no model, a
    missing, left-over or misshapen tensor; TokenizerFileError for a tokenizer that llmkit cannot build; ImportError
    without the package `gguf`.
    """
    file = GGUFFile(path)
    with building_from(file.path):
        config = _config(file)
        model = llama.llama(config)
    load_weights(model, weights(config), file, dtype=dtype)
    return model.eval(), _tokenizer(file)


def weights(config: LlamaConfig) -> Table:
    """llama.cpp's names for LLaMA's tensors. Source: gguf-py `gguf/tensor_mapping.py`."""
    block, there = "transformer.blocks.{}.", "blk.{}."
    n_kv_heads = config.n_kv_heads or config.n_heads
    table = {
        "transformer.embed.tokens.weight": Copy("token_embd.weight"),
        "transformer.norm.weight": Copy("output_norm.weight"),
        "lm_head.weight": Copy("output.weight"),
        block + "attn.q_proj.weight": PairsToHalves(there + "attn_q.weight", n_heads=config.n_heads),
        block + "attn.k_proj.weight": PairsToHalves(there + "attn_k.weight", n_heads=n_kv_heads),
    }
    plain = {"attn_norm": "attn_norm", "attn.v_proj": "attn_v", "attn.o_proj": "attn_output", "mlp_norm": "ffn_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
    return table | {f"{block}{ours}.weight": Copy(f"{there}{theirs}.weight") for ours, theirs in plain.items()}


class GGUFFile(Mapping[str, Tensor]):
    """The tensors of a file as float32, read when asked for; `fields` are its metadata."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            from gguf import GGUFReader
        except ImportError:
            raise ImportError('reading GGUF needs the package gguf: pip install "llmkit[gguf]"') from None
        if not self.path.is_file():
            raise WeightsError(f"{self.path} is not a file")
        with open(self.path, "rb") as start:
            if start.read(4) != b"GGUF":
                raise WeightsError(f"{self.path} is not a GGUF file: it does not begin with 'GGUF'")
        try:
            reader = GGUFReader(self.path)
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
            self.fields = {name: field.contents() for name, field in reader.fields.items()}
        except Exception as error:  # the reader has no error of its own: index, value, struct, unicode errors
            raise WeightsError(f"{self.path} is damaged ({error}): was the download cut short?") from None

    def __getitem__(self, name: str) -> Tensor:
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise WeightsError(f"{self.path}: {name} is {tensor.tensor_type.name}, which cannot be expanded") from None
        shape = tuple(int(n) for n in reversed(tensor.shape))  # the file counts from the innermost axis
        return torch.tensor(values, dtype=torch.float32).reshape(shape)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # Mapping's own way would expand the tensor to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def need(self, key: str) -> Any:
        """A metadata entry; raises WeightsError naming it when it is not there."""
        if key not in self.fields:
            raise WeightsError(f"{self.path} has no entry {key!r}")
        return self.fields[key]


def _config(file: GGUFFile) -> LlamaConfig:
    kind = file.need("general.architecture")
    if kind != "llama":
        raise WeightsError(f"{file.path}: architecture {kind!r}; llmkit reads 'llama' from GGUF")
    if file.fields.get("llama.expert_count"):
        raise WeightsError(f"{file.path}: a mixture of experts, which llmkit does not read from GGUF yet")
    heads = file.need("llama.attention.head_count")
    if file.fields.get("llama.rope.scaling.type", "none") != "none":
        raise WeightsError(
            f"{file.path}: rope scaling {file.fields['llama.rope.scaling.type']!r} is not read from GGUF"
        )
    if "rope_freqs.weight" in file:
        raise WeightsError(f"{file.path}: rope_freqs.weight (LLaMA 3.1's long context) is not read from GGUF yet")
    table = file._tensors.get("token_embd.weight")
    if table is None:
        raise WeightsError(f"{file.path}: the checkpoint has no token_embd.weight")
    return LlamaConfig(
        vocab_size=int(table.shape[1]),
        d_model=file.need("llama.embedding_length"),
        n_layers=file.need("llama.block_count"),
        n_heads=heads,
        n_kv_heads=file.fields.get("llama.attention.head_count_kv", heads),
        head_dim=file.fields.get("llama.attention.key_length"),
        d_ff=file.need("llama.feed_forward_length"),
        max_len=file.need("llama.context_length"),
        norm_eps=_as_written(file.need("llama.attention.layer_norm_rms_epsilon")),
        rope_theta=_as_written(file.fields.get("llama.rope.freq_base", 10000.0)),
        tie="output.weight" not in file,
    )


def _as_written(number: float) -> float:
    """1e-05 out of the 9.99999975e-06 that a 32-bit entry makes of it."""
    return float(f"{number:.7g}")


def _tokenizer(file: GGUFFile) -> Tokenizer:
    kind, pre = file.need("tokenizer.ggml.model"), file.fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in PATTERNS:
        raise TokenizerFileError(
            f"{file.path}: a tokenizer {kind!r} with pre-tokenizer {pre!r}; from GGUF llmkit reads 'gpt2' with one of "
            + ", ".join(PATTERNS)
        )
    tokens, types = file.need("tokenizer.ggml.tokens"), file.need("tokenizer.ggml.token_type")
    vocab = {token: i for i, token in enumerate(tokens)}
    if not len(vocab) == len(tokens) == len(types):
        raise TokenizerFileError(f"{file.path}: {len(tokens)} tokens, {len(vocab)} different ones, {len(types)} types")
    for token, i in vocab.items():
        if types[i] not in (NORMAL, CONTROL):  # llama.cpp finds user-defined tokens in plain text; we would not
            raise TokenizerFileError(f"{file.path}: {token!r} is of type {types[i]}: only normal and control are read")
    special = {token: i for token, i in vocab.items() if types[i] == CONTROL}
    return byte_level_from(vocab, file.need("tokenizer.ggml.merges"), special, PATTERNS[pre], file.path)
