"""A tokenizer as GGUF metadata, and back. Sources: llama.cpp's `convert_hf_to_gguf.py` and `src/llama-vocab.cpp`."""

from dataclasses import replace
from typing import Any

from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.gguf_special import special_fields
from llmkit.checkpoints.special import Settings
from llmkit.tokenizers import protobuf
from llmkit.tokenizers.base import Tokenizer, TokenizerFileError
from llmkit.tokenizers.bpe import CL100K_PATTERN, GPT2_PATTERN
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.protobuf import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, SentencePieceModel
from llmkit.tokenizers.sentencepiece_bpe import SentencePieceBPE
from llmkit.tokenizers.vocab import SINGLE_DIGITS_PATTERN, byte_level_from, no_duplicates
from llmkit.tokenizers.wordpiece import WordPiece

# What `tokenizer.ggml.pre` calls the pattern that a text is cut by before merging. "llama-bpe" has "dbrx"'s pattern,
# but takes a word that is a piece whole, without merging.
PATTERNS = {"gpt-2": GPT2_PATTERN, "smollm": SINGLE_DIGITS_PATTERN, "dbrx": CL100K_PATTERN}


def tokenizer_fields(tokenizer: Tokenizer | None, vocab_size: int, settings: Settings | None = None) -> dict[str, Any]:
    """Pieces, types, scores or merges, special ids and the chat template.

    vocab_size   rows of the embedding; rows that no piece has are filled up with unused ones

    Raises TokenizerFileError for a tokenizer with more ids than the embedding has rows, and for one that llama.cpp
    would cut texts otherwise with.
    """
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerFileError(f"the tokenizer has {tokenizer.vocab_size} ids, the embedding {vocab_size} rows")
    writers = {SentencePieceBPE: _sentencepiece, ByteLevelBPE: _byte_level, WordPiece: _wordpiece}
    if type(tokenizer) not in writers:
        raise TokenizerFileError(f"a {type(tokenizer).__name__} is not written to GGUF")
    fields = writers[type(tokenizer)](tokenizer)
    tokens, types = fields["tokens"], fields["token_type"]
    more = range(len(tokens), vocab_size)
    fields |= {"tokens": tokens + [f"[PAD{i}]" for i in more], "token_type": types + [UNUSED] * len(more)}
    if "scores" in fields:
        fields["scores"] = fields["scores"] + [-1000.0] * len(more)
    named = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    return named | special_fields(tokenizer, settings or tokenizer.settings or Settings())


def _types(tokenizer: Tokenizer) -> list[int]:
    special = set(tokenizer.special_tokens.values())
    return [
        CONTROL if i in special else UNUSED if piece is None else NORMAL for i, piece in enumerate(tokenizer.pieces)
    ]


def _pieces(tokenizer: Tokenizer) -> list[str]:
    return [f"[PAD{i}]" if piece is None else piece for i, piece in enumerate(tokenizer.pieces)]


def _byte_level(tokenizer: ByteLevelBPE) -> dict[str, Any]:
    pre = next((name for name, pattern in PATTERNS.items() if pattern == tokenizer.pattern), None)
    if pre is None:
        raise TokenizerFileError(f"llama.cpp has no name for the pattern {tokenizer.pattern!r}; it has one for "
                                 f"{', '.join(PATTERNS.values())}")  # fmt: skip
    merges = [" ".join(merge) for merge in tokenizer.to_json()["model"]["merges"]]
    return {"model": "gpt2", "pre": pre, "tokens": _pieces(tokenizer), "token_type": _types(tokenizer),
            "merges": merges}  # fmt: skip


def _sentencepiece(tokenizer: SentencePieceBPE) -> dict[str, Any]:
    model = tokenizer.model
    if model.charsmap or model.remove_extra_whitespaces:
        raise TokenizerFileError("the tokenizer changes characters or spaces before it cuts a text; llama.cpp does not")
    return {"model": "llama", "pre": "default", "tokens": list(model.pieces), "scores": list(model.scores),
            "token_type": list(model.types), "add_space_prefix": model.add_dummy_prefix}  # fmt: skip


def _wordpiece(tokenizer: WordPiece) -> dict[str, Any]:
    """llama.cpp marks where a word begins instead of where it goes on: ##ing becomes ing, and the becomes ▁the."""
    if not tokenizer.lower:
        raise TokenizerFileError("llama.cpp makes every text for a WordPiece tokenizer lower case; this one is cased")
    special = set(tokenizer.special_tokens.values())
    tokens = [
        piece if i in special else piece[2:] if piece.startswith("##") else "▁" + piece
        for i, piece in enumerate(_pieces(tokenizer))
    ]
    return {"model": "bert", "pre": "jina-v2-en", "tokens": tokens, "token_type": _types(tokenizer)}


def read_tokenizer(file: GGUFFile, vocab_size: int) -> Tokenizer | None:
    """The tokenizer of a LLaMA: byte-level BPE ("gpt2") or SentencePiece's ("llama"); None where the file has none.

    Raises TokenizerFileError for another kind, lists of different lengths, a number of tokens that is not the
    embedding's, types that are not understood, and whatever the tokenizer itself refuses.
    """
    kind = file.get("tokenizer.ggml.model", "none", str)
    if kind == "none":
        return None
    readers = {"gpt2": _read_byte_level, "llama": _read_sentencepiece}
    if kind not in readers:
        raise TokenizerFileError(f"{file.path}: a tokenizer {kind!r}; from GGUF llmkit reads {', '.join(readers)}")
    tokens, types = _list(file, "tokens", str), _list(file, "token_type", int)
    if not len(set(tokens)) == len(tokens) == len(types):
        raise TokenizerFileError(f"{file.path}: {len(tokens)} tokens, {len(set(tokens))} different ones, "
                                 f"{len(types)} types")  # fmt: skip
    if len(tokens) != vocab_size:
        raise TokenizerFileError(f"{file.path}: {len(tokens)} tokens, but the embedding has {vocab_size} rows")
    n = max((i + 1 for i, kind in enumerate(types) if kind != UNUSED), default=0)  # the rest fills up the embedding
    return readers[kind](file, tokens[:n], types[:n])


def _list(file: GGUFFile, name: str, kind: type) -> list:
    values = file.need(f"tokenizer.ggml.{name}", list)
    if not all(type(value) is kind for value in values):
        raise TokenizerFileError(f"{file.path}: tokenizer.ggml.{name} is no list of {kind.__name__}")
    return values


def _read_byte_level(file: GGUFFile, tokens: list[str], types: list[int]) -> ByteLevelBPE:
    pre = file.get("tokenizer.ggml.pre", "gpt-2", str)
    if pre not in PATTERNS:
        raise TokenizerFileError(
            f"{file.path}: a tokenizer 'gpt2' with pre-tokenizer {pre!r}; from GGUF llmkit reads one of "
            + ", ".join(PATTERNS)
        )
    for token, kind in zip(tokens, types, strict=True):
        if kind not in (NORMAL, CONTROL, UNUSED):  # llama.cpp finds user-defined tokens in plain text; we would not
            raise TokenizerFileError(f"{file.path}: {token!r} is of type {kind}: only normal and control are read")
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    special = {token: i for token, i in vocab.items() if types[i] == CONTROL}
    return byte_level_from(vocab, _list(file, "merges", str), special, PATTERNS[pre], file.path)


def _read_sentencepiece(file: GGUFFile, tokens: list[str], types: list[int]) -> SentencePieceBPE:
    no_duplicates(tokens, file.path)
    scores = _list(file, "scores", float)[: len(tokens)]
    if len(scores) != len(tokens) or not all(NORMAL <= kind <= BYTE for kind in types):
        raise TokenizerFileError(f"{file.path}: {len(tokens)} tokens, {len(scores)} scores, types {sorted(set(types))}")
    model = SentencePieceModel(tokens, scores, types, protobuf.BPE, BYTE in types, remove_extra_whitespaces=False)
    model = replace(model, add_dummy_prefix=file.get("tokenizer.ggml.add_space_prefix", True, bool))
    if UNKNOWN not in types:
        raise TokenizerFileError(f"{file.path}: no token is of the unknown type")
    try:
        return SentencePieceBPE(model)
    except ValueError as error:
        raise TokenizerFileError(f"{file.path}: {error}") from None
