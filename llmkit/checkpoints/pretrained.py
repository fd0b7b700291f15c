"""from_pretrained and save_pretrained: whole models in Hugging Face's folder layout."""

from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmkit.checkpoints.safetensors import SafetensorsFolder, read_json, save_safetensors, write_json
from llmkit.checkpoints.special import save_tokenizer, settings_of_folder
from llmkit.checkpoints.tables import WeightsError
from llmkit.checkpoints.weights import building_from, load_weights, stored_weights
from llmkit.layers.encoder_heads import first_token
from llmkit.layers.heads import CausalLM
from llmkit.models import FAMILIES, family_of
from llmkit.models.bert import HEADS
from llmkit.tokenizers.base import TEXT_ENDS, Tokenizer
from llmkit.tokenizers.files import load_tokenizer

# Only the weights that are read: Mistral's repositories hold them twice, as consolidated.safetensors too.
HUB_FILES = ("*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja")
# What config.json calls the number of layers, and the widths and counts that memory is taken for while building.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
WIDTHS = ("hidden_size", "head_dim", "n_embd", "d_model", "d_kv", "num_labels")
MOST = 1_000_000
FORCED = ("forced_bos_token_id", "forced_eos_token_id")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")


def from_pretrained(
    name: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> tuple[nn.Module, Tokenizer | None]:
    """A model in evaluation mode and its tokenizer, from a folder or from the Hugging Face Hub.

    name    a folder with config.json and safetensors, or a Hub name such as "HuggingFaceTB/SmolLM2-135M"
    dtype   convert the weights; None keeps what is stored, the widest where there are several
    result  (model, tokenizer); the tokenizer is None where the folder has none

    The model is built without memory and each tensor is put in its place as it is read. Raises WeightsError for a
    missing, left-over or misshapen tensor, a damaged file, or a model_type that llmkit does not have; TypeError for a
    dtype that is none of torch's.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype is one of torch's, such as torch.bfloat16, not {dtype!r}")
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(str(name))
    config = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    if generation.exists():  # transformers 5 says these only there
        said = read_json(generation)
        config |= {key: said[key] for key in FORCED if said.get(key) is not None and config.get(key) is None}
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise WeightsError(
            f"{folder / 'config.json'}: model_type {config.get('model_type')!r} is not one of {', '.join(FAMILIES)}"
        )
    _refuse_absurd_widths(config, folder / "config.json")
    with building_from(folder / "config.json"):
        ours = family.config.from_hf(config)
    checkpoint = SafetensorsFolder(folder)
    _refuse_more_parts_than_tensors(config, len(checkpoint), folder / "config.json")
    with building_from(folder / "config.json"):
        model = family.build(ours)
    load_weights(model, family.weights(ours), checkpoint, family.ignore, dtype)
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) > 1:  # a file may keep its norms wider than its matrices; a product needs one dtype
        model.to(reduce(torch.promote_types, dtypes))
    tokenizer = _tokenizer(folder)
    if tokenizer is not None and tokenizer.vocab_size > ours.vocab_size:
        raise WeightsError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, but the embedding only {ours.vocab_size} rows"
        )
    return model.eval().to(device), tokenizer


def save_pretrained(
    model: Any, folder: str | Path, tokenizer: Tokenizer | None = None, max_shard_bytes: int = 5 * 10**9
) -> None:
    """Write config.json and safetensors (and the tokenizer) as transformers reads them.

    What from_pretrained's folder said of the tokenizer (special tokens, chat template) is written too.

    Raises WeightsError for a part that their files know nothing of: a parameter of one's own, another way to pool, a
    head that the config does not name.
    """
    if getattr(model, "pool", first_token) is not first_token:
        pool = getattr(model.pool, "__name__", model.pool)
        raise WeightsError(
            f"a classifier that pools with {pool} would be read back as one that takes the first token: save the "
            "state_dict instead"
        )
    family = family_of(model.config)
    _check_head(model)
    folder = Path(folder)
    save_safetensors(stored_weights(model, family.weights(model.config)), folder, max_shard_bytes)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    ends = _text_ends(tokenizer) if isinstance(model, CausalLM) else {}
    write_json({**ends, **model.config.to_hf(), "dtype": dtype, "torch_dtype": dtype}, folder / "config.json")
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder, model.config.to_hf()["model_type"])


def _check_head(model: Any) -> None:
    """An encoder's config names its head, and is read back with that. By name: lessons show classes of their own."""
    head = getattr(model.config, "head", None)
    names = [kind.__name__ for kind in type(model).__mro__]
    if head is not None and HEADS[head].__name__ not in names:
        right = next((name for name, kind in HEADS.items() if kind.__name__ in names), None)
        advice = f"it needs head={right!r} (dataclasses.replace)" if right else "save the state_dict instead"
        raise WeightsError(f"this is a {type(model).__name__}, but its config has head={head!r}: {advice}")


def _text_ends(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Where transformers' generate stops. Said even if nowhere: it would take its family's default, LLaMA's id 2, which
    is an ordinary piece of another vocabulary."""
    known = tokenizer.special_tokens if tokenizer is not None else {}
    said = tokenizer.settings.special.get("eos") if tokenizer is not None and tokenizer.settings else None
    ends = [known[name] for name in dict.fromkeys((*TEXT_ENDS, said)) if name in known]
    return {"bos_token_id": None, "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None)}


def _refuse_absurd_widths(config: dict[str, Any], path: Path) -> None:
    """A width may size a table as soon as the config is read, so this comes before anything is made of it."""
    for key, value in config.items():
        if key in WIDTHS and isinstance(value, (int, float)) and not 0 <= value <= MOST:
            raise WeightsError(f"{path}: {key} = {value} is not to be believed; it is between 0 and {MOST}")


def _refuse_more_parts_than_tensors(config: dict[str, Any], n_tensors: int, path: Path) -> None:
    """Refuse counts for which the empty model alone would take hours, before a tensor is missed."""
    layers = sum(value for key in LAYERS if isinstance(value := config.get(key), int))
    experts = config.get("num_local_experts", 1)
    parts = layers * experts if isinstance(experts, int) else layers
    if parts > n_tensors:
        raise WeightsError(f"{path} asks for {parts} layers or experts, but the files hold {n_tensors} tensors")


def _tokenizer(folder: Path) -> Tokenizer | None:
    if not any((folder / file).exists() for file in TOKENIZER_FILES):
        return None
    try:
        tokenizer = load_tokenizer(folder)
        tokenizer.settings = settings_of_folder(folder, tokenizer)
        return tokenizer
    except (RecursionError, OverflowError, IndexError, RuntimeError) as error:  # what a damaged file makes of a reader
        raise WeightsError(f"{folder}: the tokenizer's file is damaged: {error}") from None


def _download(name: str) -> Path:
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith(("/", ".", "~")) or "\\" in name:
        raise WeightsError(f"{name} is neither a folder nor a Hub name (owner/model)")
    from huggingface_hub import snapshot_download  # comes with datasets and tokenizers; only needed here

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub's library raises dozens of kinds
        raise WeightsError(f"{name} could not be fetched from the Hub: {error}") from error
