"""tokenizer.json, the file of the tokenizers library; what is not understood whole is refused, or ids would differ."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from llmkit.tokenizers import protobuf
from llmkit.tokenizers.base import Tokenizer, TokenizerFileError
from llmkit.tokenizers.bpe import GPT2_PATTERN
from llmkit.tokenizers.protobuf import BYTE, CONTROL, NORMAL, UNKNOWN, SentencePieceModel
from llmkit.tokenizers.sentencepiece_bpe import SentencePieceBPE
from llmkit.tokenizers.sentencepiece_unigram import Unigram
from llmkit.tokenizers.vocab import SINGLE_DIGITS_PATTERN, byte_level_from, check_ids, no_duplicates, unique
from llmkit.tokenizers.wordpiece import WordPiece


def read_tokenizer_json(path: Path) -> Tokenizer:
    """The tokenizer of any of the library's three models; `load_tokenizer` turns what goes wrong into its error."""
    data = _checked(path)
    tokenizer = _tokenizer(data, path)
    tokenizer.post_processor = data.get("post_processor")
    return tokenizer


def _checked(path: Path) -> dict:
    data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique(path))
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise TokenizerFileError(f"{path}: the entry 'model' is missing; is it a tokenizer.json?")
    return data


def _tokenizer(data: dict, path: Path) -> Tokenizer:
    model = data["model"]
    added = data.get("added_tokens") or []
    for token in added:
        if not token.get("special"):
            raise TokenizerFileError(f"{path}: the added token {token.get('content')!r} is not special: not supported")
    no_duplicates([token["content"] for token in added], path)
    special = {token["content"]: token["id"] for token in added}
    kind = model.get("type")
    if kind == "WordPiece":
        normalizer = data.get("normalizer") or {}
        check_ids(model["vocab"], path)
        pieces = sorted(model["vocab"], key=model["vocab"].get)
        if [model["vocab"][piece] for piece in pieces] != list(range(len(pieces))):
            raise TokenizerFileError(f"{path}: the ids have gaps")
        return WordPiece(pieces, bool(normalizer.get("lowercase", True)), special)
    if kind == "Unigram":
        pieces, scores = [p for p, _ in model["vocab"]], [float(s) for _, s in model["vocab"]]
        no_duplicates(pieces, path)
        return Unigram(_sentencepiece(data, pieces, scores, model["unk_id"], protobuf.UNIGRAM, special))
    if kind == "BPE" and _is_byte_level(data):
        return byte_level_from(model["vocab"], model["merges"], special, _pattern(data, path), path)
    if kind == "BPE":
        return _sentencepiece_bpe(data, special, path)
    raise TokenizerFileError(f"{path}: a model of type {kind!r}; llmkit knows BPE, Unigram and WordPiece")


def _steps(part: dict | None) -> list[dict]:
    """A normalizer, pre-tokenizer or decoder as a flat list of steps."""
    if not part:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers") or part.get("decoders")
    return [step for one in inner for step in _steps(one)] if inner else [part]


def _is_byte_level(data: dict) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(data.get("pre_tokenizer")) + _steps(data.get("decoder")))


def _pattern(data: dict, path: Path) -> str:
    """The pattern that the pre-tokenizer cuts by; whatever is not understood whole is refused, or ids would differ."""
    _refuse(data.get("normalizer"), "normalizer", path)
    for setting in ("ignore_merges", "end_of_word_suffix", "continuing_subword_prefix", "dropout", "unk_token"):
        _refuse(data["model"].get(setting), setting, path)
    steps = _steps(data.get("pre_tokenizer"))
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") or len(steps) > 2:
        raise TokenizerFileError(f"{path}: the pre-tokenizer steps {steps} are not supported")
    regex, first = last.get("use_regex", True), steps[0]
    if len(steps) == 1 and regex:
        return GPT2_PATTERN
    whole = first["type"] == "Split" and first.get("behavior") == "Isolated" and not first.get("invert")
    if whole and not regex and "Regex" in first["pattern"]:
        return first["pattern"]["Regex"]
    if first["type"] == "Digits" and first.get("individual_digits") and regex:
        return SINGLE_DIGITS_PATTERN
    raise TokenizerFileError(f"{path}: the pre-tokenizer steps {steps} are not supported")


def _refuse(value: Any, name: str, path: Path) -> None:
    if value:
        raise TokenizerFileError(f"{path}: the setting {name} = {value} is not supported; ids would differ")


def _sentencepiece_bpe(data: dict, special: dict[str, int], path: Path) -> SentencePieceBPE:
    """Scores are not in the file; the order of merges is the order of scores."""
    model = data["model"]
    check_ids(model["vocab"], path)
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    first: dict[str, int] = {}
    for number, merge in enumerate(model["merges"]):
        parts = merge.split(" ") if isinstance(merge, str) else list(merge)
        if len(parts) != 2 or "".join(parts) not in model["vocab"]:
            raise TokenizerFileError(f"{path}: merge {number} is {merge!r}; two pieces that make a third were expected")
        first.setdefault("".join(parts), number)
    lowest = -float(len(model["merges"]))
    scores = [-float(first[piece]) if piece in first else lowest for piece in pieces]
    unk = model["vocab"][model.get("unk_token") or "<unk>"]  # transformers 5 leaves it out
    return SentencePieceBPE(_sentencepiece(data, pieces, scores, unk, protobuf.BPE, special))


def _sentencepiece(
    data: dict, pieces: list[str], scores: list[float], unk_id: int, algorithm: int, special: dict[str, int]
) -> SentencePieceModel:
    behind = sorted((i, name) for name, i in special.items() if name not in pieces)  # added to a trained vocabulary
    if [i for i, _ in behind] != list(range(len(pieces), len(pieces) + len(behind))):
        raise ValueError(f"added tokens must have the ids from {len(pieces)} on, one after the other; got {behind}")
    pieces, scores = [*pieces, *(name for _, name in behind)], [*scores, *(0.0 for _ in behind)]
    fallback = bool(data["model"].get("byte_fallback"))
    is_byte = re.compile(r"<0x[0-9A-F]{2}>").fullmatch
    types = [
        UNKNOWN if i == unk_id else CONTROL if piece in special else BYTE if fallback and is_byte(piece) else NORMAL
        for i, piece in enumerate(pieces)
    ]
    steps = _steps(data.get("normalizer")) + _steps(data.get("pre_tokenizer"))
    kinds = {step["type"]: step for step in steps}
    return SentencePieceModel(
        pieces,
        scores,
        types,
        algorithm,
        fallback,
        charsmap=base64.b64decode(kinds["Precompiled"]["precompiled_charsmap"]) if "Precompiled" in kinds else b"",
        add_dummy_prefix="Prepend" in kinds or kinds.get("Metaspace", {}).get("prepend_scheme", "never") != "never",
        remove_extra_whitespaces="Strip" in kinds,
    )
