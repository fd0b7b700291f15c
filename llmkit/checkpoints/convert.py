"""Convert a model: a Hugging Face folder or a GGUF file in, a GGUF file or a folder out."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from llmkit.checkpoints.gguf import FILE_TYPES, load_gguf, save_gguf
from llmkit.checkpoints.pretrained import from_pretrained, save_pretrained
from llmkit.checkpoints.special import Settings
from llmkit.checkpoints.tables import WeightsError
from llmkit.tokenizers.base import Tokenizer

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # what a folder's weights can be


@dataclass(frozen=True)
class Summary:
    """What was written: parameters, bytes of the weights' files, tensors of each kind."""

    target: Path
    family: str
    parameters: int
    nbytes: int
    kinds: dict[str, int]

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items())
        bits = 8 * self.nbytes / self.parameters
        return (
            f"{self.target}: {self.family}, {self.parameters:,} parameters in {self.nbytes / 1e6:,.1f} MB, "
            f"{bits:.2f} bits a parameter; tensors: {kinds}"
        )


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    kind: str = "F16",
    progress: bool = False,
    eos: str | None = None,
) -> Summary:
    """Read a model and write it in the other format, or in the same with another kind of numbers.

    source   a folder with config.json and safetensors (any family), or a GGUF file (LLaMA, Mistral, Mixtral)
    target   the file to write ("gguf"; replaced when it is there), or the folder ("hf"; must not be there)
    to       "gguf" or "hf"
    kind     F32, F16, BF16, and for GGUF Q8_0 and Q4_0
    eos      the token that ends a text, where the source does not say it or says another

    Everything is written aside and renamed at the end. Raises ValueError for another format or kind, WeightsError
    for a target that is the source, a part of it or a folder that is there, and for an eos that the tokenizer does not
    have, and whatever reading and writing raise.
    """
    source, target, kind = Path(source), Path(target), kind.upper()
    kinds = {"gguf": tuple(FILE_TYPES), "hf": tuple(DTYPES)}
    if to not in kinds:
        raise ValueError(f"format {to!r} is not one of {', '.join(kinds)}")
    if kind not in kinds[to]:
        raise ValueError(f"type {kind!r} is not one of {', '.join(kinds[to])}, which {to} can hold")
    if target.exists() and (to == "hf" or target.is_dir() or _holds(source, target)):
        raise WeightsError(f"{target} is there already; name another place to write to")
    if source.resolve() == target.with_name(target.name + ".partial").resolve():  # where a file is written aside
        raise WeightsError(f"{source} would be overwritten on the way to {target}; name another place to write to")
    model, tokenizer, settings = read_model(source)
    if eos is not None:
        if tokenizer is None or eos not in {*tokenizer.special_tokens, *tokenizer.pieces}:
            raise WeightsError(f"{source} has no token {eos!r} that could end a text")
        settings = replace(settings, special=settings.special | {"eos": eos})
    if to == "gguf":
        tensors = save_gguf(model, target, tokenizer, kind, settings, progress)
        nbytes = target.stat().st_size
    else:
        tensors, nbytes = _save_folder(model, target, tokenizer, settings, kind)
    return Summary(target, type(model.config).__name__.removesuffix("Config"), _count(model), nbytes, tensors)


def _holds(source: Path, target: Path) -> bool:
    """Whether the file `target` is the source, or in a source folder and no GGUF of before: a part of the model."""
    source, target = source.resolve(), target.resolve()
    return source == target or (source in target.parents and target.suffix != ".gguf")


def read_model(source: Path) -> tuple[nn.Module, Tokenizer | None, Settings]:
    """Model, tokenizer and special tokens of a folder or a GGUF file; weights in the dtype that is stored."""
    if source.is_dir():
        model, tokenizer = from_pretrained(source)
    elif source.exists():
        model, tokenizer = load_gguf(source)
    else:
        raise WeightsError(f"{source} is neither a folder nor a GGUF file")
    return model, tokenizer, (tokenizer.settings if tokenizer is not None else None) or Settings()


def _save_folder(
    model: nn.Module, target: Path, tokenizer: Tokenizer | None, settings: Settings, kind: str
) -> tuple[dict[str, int], int]:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.{os.getpid()}.partial")  # OUT.partial may be somebody's
    try:
        model.to(DTYPES[kind])
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise WeightsError(f"{name} cannot be written as {kind}: it has NaN, infinite or too large weights")
        if tokenizer is not None:
            tokenizer.settings = settings
        save_pretrained(model, aside, tokenizer)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    nbytes = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    return {kind: sum(1 for _ in model.parameters())}, nbytes


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
