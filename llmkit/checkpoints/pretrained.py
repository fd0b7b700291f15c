"""from_pretrained and save_pretrained: whole models in Hugging Face's folder layout."""

from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmkit.checkpoints.safetensors import SafetensorsFolder, read_json, save_safetensors, write_json
from llmkit.checkpoints.weights import WeightsError, building_from, load_weights, stored_weights
from llmkit.models import FAMILIES, family_of
from llmkit.tokenizers.base import Tokenizer
from llmkit.tokenizers.files import load_tokenizer

# Only the weights that are read: Mistral's repositories hold them twice, as consolidated.safetensors too.
HUB_FILES = ("*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")


def from_pretrained(
    name: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> tuple[nn.Module, Tokenizer | None]:
    """A model in evaluation mode and its tokenizer, from a folder or from the Hugging Face Hub.

    name    a folder with config.json and safetensors, or a Hub name such as "HuggingFaceTB/SmolLM2-135M"
    dtype   convert the weights; None keeps what is stored, the widest where there are several
    result  (model, tokenizer); the tokenizer is None where the folder has none

    The model is built without memory and each tensor is put in its place as it is read. Raises WeightsError for a
    missing, left-over or misshapen tensor, a damaged file, or a model_type that llmkit does not have.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(str(name))
    config = read_json(folder / "config.json")
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise WeightsError(
            f"{folder / 'config.json'}: model_type {config.get('model_type')!r} is not one of {', '.join(FAMILIES)}"
        )
    with building_from(folder / "config.json"):
        ours = family.config.from_hf(config)
        model = family.build(ours)
    load_weights(model, family.weights(ours), SafetensorsFolder(folder), family.ignore, dtype)
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) > 1:  # a file may keep its norms wider than its matrices; a product needs one dtype
        model.to(reduce(torch.promote_types, dtypes))
    tokenizer = load_tokenizer(folder) if any((folder / file).exists() for file in TOKENIZER_FILES) else None
    return model.eval().to(device), tokenizer


def save_pretrained(
    model: Any, folder: str | Path, tokenizer: Tokenizer | None = None, max_shard_bytes: int = 5 * 10**9
) -> None:
    """Write config.json and safetensors (and the tokenizer) as transformers reads them."""
    family = family_of(model.config)
    folder = Path(folder)
    save_safetensors(stored_weights(model, family.weights(model.config)), folder, max_shard_bytes)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    write_json({**model.config.to_hf(), "dtype": dtype, "torch_dtype": dtype}, folder / "config.json")
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer.json")


def _download(name: str) -> Path:
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith(("/", ".", "~")) or "\\" in name:
        raise WeightsError(f"{name} is neither a folder nor a Hub name (owner/model)")
    from huggingface_hub import snapshot_download  # comes with datasets and tokenizers; only needed here

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub's library raises dozens of kinds
        raise WeightsError(f"{name} could not be fetched from the Hub: {error}") from error
