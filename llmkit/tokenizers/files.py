"""Load a tokenizer from the files that models come with; whatever is wrong with one is said with its name."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

from llmkit.tokenizers import protobuf
from llmkit.tokenizers.base import Tokenizer, TokenizerFileError
from llmkit.tokenizers.bpe import GPT2_PATTERN, bytes_to_unicode
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.protobuf import BYTE, CONTROL, NORMAL, UNKNOWN, SentencePieceModel
from llmkit.tokenizers.sentencepiece import SentencePiece
from llmkit.tokenizers.sentencepiece_bpe import SentencePieceBPE
from llmkit.tokenizers.sentencepiece_unigram import Unigram
from llmkit.tokenizers.wordpiece import WordPiece

# Every digit alone (SmolLM2), then GPT-2's pattern between them, where a digit ends a text like its end.
SINGLE_DIGITS_PATTERN = r"\p{N}|" + GPT2_PATTERN.replace(r" ?\p{N}+|", "").replace(r"(?!\S)", r"(?![^\s\p{N}])")


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer in a folder or file: tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt.

    Raises FileNotFoundError where there is none, TokenizerFileError naming the file and the reason where it is
    damaged or of a kind that llmkit does not know.
    """
    path = Path(path)
    if path.is_dir():
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
        found = [path / name for name in names if (path / name).exists()]
        if not found:
            raise FileNotFoundError(f"{path}: no tokenizer here; looked for {', '.join(names)}")
        path = found[0]
    readers = {".model": read_sentencepiece, ".txt": _read_vocab_txt}
    read = readers.get(path.suffix, _read_vocab_and_merges if path.name == "vocab.json" else _read_tokenizer_json)
    try:
        return read(path)
    except TokenizerFileError:
        raise
    except KeyError as error:
        raise TokenizerFileError(f"{path}: the entry {error} is missing") from None
    except UnicodeDecodeError as error:
        raise TokenizerFileError(f"{path}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise TokenizerFileError(f"{path}: no valid JSON (line {error.lineno}): {error.msg}; is it cut off?") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise TokenizerFileError(f"{path}: {error}") from None


def read_sentencepiece(path: str | os.PathLike) -> SentencePiece:
    """Read a tokenizer.model; gives a SentencePieceBPE or a Unigram, whichever the file holds."""
    model = protobuf.read_model(path)
    try:
        return (SentencePieceBPE if model.algorithm == protobuf.BPE else Unigram)(model)
    except ValueError as error:
        raise TokenizerFileError(f"{path}: {error}") from None


def _read_vocab_txt(path: Path) -> WordPiece:
    lines = path.read_text(encoding="utf-8").split("\n")
    pieces = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    _no_duplicates(pieces, path)
    return WordPiece(pieces, _is_lower_cased(path))


def _is_lower_cased(path: Path) -> bool:
    """BERT's tokenizer_config.json says so; without it, uncased is the common case."""
    config = path.with_name("tokenizer_config.json")
    return bool(json.loads(config.read_text(encoding="utf-8")).get("do_lower_case", True)) if config.exists() else True


def _read_vocab_and_merges(path: Path) -> ByteLevelBPE:
    merges_path = path.with_name("merges.txt")
    if not merges_path.exists():
        raise TokenizerFileError(f"{path}: merges.txt must stand beside it")
    lines = merges_path.read_text(encoding="utf-8").split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    vocab = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique(path))
    return byte_level_from(vocab, merges, {}, GPT2_PATTERN, path)


def byte_level_from(vocab: dict, merges: list, special: dict[str, int], pattern: str, path: Path) -> ByteLevelBPE:
    """From vocab and merges in printable characters; what is not spelled in them is a special token.

    Raises TokenizerFileError, naming `path`, for ids that clash, a piece or a merge that is not spelled so.
    """
    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    _check_ids(vocab, path)
    pieces: list[bytes | None] = [None] * (max(vocab.values()) + 1)
    special, made = dict(special), {"".join(m if not isinstance(m, str) else m.split(" ")) for m in merges}
    for text, i in vocab.items():
        if re.fullmatch(r"<\|.*\|>|<\w+>|</\w+>", text) and text not in special and text not in made:
            special[text] = i
        elif text not in special:
            if not all(char in byte_of for char in text):
                raise TokenizerFileError(f"{path}: {text!r} (id {i}) is not spelled in GPT-2's byte characters")
            pieces[i] = bytes(byte_of[char] for char in text)
    pairs = []
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else list(merge)
        if len(parts) != 2 or not all(char in byte_of for part in parts for char in part):
            raise TokenizerFileError(f"{path}: merge {number} is {merge!r}; two pieces were expected")
        pairs.append(tuple(bytes(byte_of[char] for char in part) for part in parts))
    return ByteLevelBPE(pieces, pairs, pattern, special)


def _unique(path: Path):
    """A JSON hook: a key that stands twice would silently lose the first."""

    def hook(pairs: list[tuple[str, Any]]) -> dict:
        _no_duplicates([key for key, _ in pairs], path)
        return dict(pairs)

    return hook


def _no_duplicates(pieces: list[str], path: Path) -> None:
    if len(set(pieces)) != len(pieces):
        seen: set[str] = set()
        twice = next(piece for piece in pieces if piece in seen or seen.add(piece))
        raise TokenizerFileError(f"{path}: the piece {twice!r} occurs twice")


def _check_ids(vocab: dict, path: Path) -> None:
    if not isinstance(vocab, dict) or not vocab:
        raise TokenizerFileError(f"{path}: the vocabulary must be a non-empty object of pieces and ids")
    by_id: dict[int, str] = {}
    for piece, i in vocab.items():
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < 10_000_000:
            raise TokenizerFileError(f"{path}: the id of {piece!r} is {i!r}; a number from 0 up was expected")
        if i in by_id:
            raise TokenizerFileError(f"{path}: {by_id[i]!r} and {piece!r} have the same id {i}")
        by_id[i] = piece


def _read_tokenizer_json(path: Path) -> Tokenizer:
    data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique(path))
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise TokenizerFileError(f"{path}: the entry 'model' is missing; is it a tokenizer.json?")
    model = data["model"]
    added = data.get("added_tokens") or []
    for token in added:
        if not token.get("special"):
            raise TokenizerFileError(f"{path}: the added token {token.get('content')!r} is not special: not supported")
    _no_duplicates([token["content"] for token in added], path)
    special = {token["content"]: token["id"] for token in added}
    kind = model.get("type")
    if kind == "WordPiece":
        normalizer = data.get("normalizer") or {}
        _check_ids(model["vocab"], path)
        pieces = sorted(model["vocab"], key=model["vocab"].get)
        if [model["vocab"][piece] for piece in pieces] != list(range(len(pieces))):
            raise TokenizerFileError(f"{path}: the ids have gaps")
        return WordPiece(pieces, bool(normalizer.get("lowercase", True)), special)
    if kind == "Unigram":
        pieces, scores = [p for p, _ in model["vocab"]], [float(s) for _, s in model["vocab"]]
        _no_duplicates(pieces, path)
        return Unigram(_sentencepiece(data, pieces, scores, model["unk_id"], protobuf.UNIGRAM, special))
    if kind == "BPE" and _isbyte_level_from(data):
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


def _isbyte_level_from(data: dict) -> bool:
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
    _check_ids(model["vocab"], path)
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    first: dict[str, int] = {}
    for number, merge in enumerate(model["merges"]):
        parts = merge.split(" ") if isinstance(merge, str) else list(merge)
        if len(parts) != 2 or "".join(parts) not in model["vocab"]:
            raise TokenizerFileError(f"{path}: merge {number} is {merge!r}; two pieces that make a third were expected")
        first.setdefault("".join(parts), number)
    lowest = -float(len(model["merges"]))
    scores = [-float(first[piece]) if piece in first else lowest for piece in pieces]
    unk = model["vocab"][model["unk_token"]]
    return SentencePieceBPE(_sentencepiece(data, pieces, scores, unk, protobuf.BPE, special))


def _sentencepiece(
    data: dict, pieces: list[str], scores: list[float], unk_id: int, algorithm: int, special: dict[str, int]
) -> SentencePieceModel:
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
