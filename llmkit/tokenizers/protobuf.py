"""Read and write SentencePiece's tokenizer.model, a protobuf file, without a protobuf library.

The wire format needs thirty lines, and a reader of our own can say what is wrong with a file and where. Field numbers:
google/sentencepiece:src/sentencepiece_model.proto.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmkit.tokenizers.base import TokenizerFileError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class SentencePieceModel:
    """What a tokenizer.model holds: pieces with scores and types, the algorithm, the normalisation."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    whitespace_as_suffix: bool = False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"a number is cut off at byte {at}")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: int for varints, bytes for all else. Raises ValueError where it is broken."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"wire type {kind} at byte {at} is not in use")
        size, at = _varint(data, at) if kind == _BYTES else ({_FIXED64: 8, _FIXED32: 4}[kind], at)
        if at + size > len(data):
            raise ValueError(f"{size} bytes are announced at byte {at}, but only {len(data) - at} are left")
        yield number, data[at : at + size]
        at += size


def read_model(path: str | Path) -> SentencePieceModel:
    """Read a tokenizer.model.

    Raises TokenizerFileError naming the file and what is wrong: cut off, no protobuf, no pieces, a piece that is no
    UTF-8 or occurs twice, an algorithm other than BPE and Unigram.
    """
    data = Path(path).read_bytes()
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1:
                _read_piece(model, _message(value))
            elif number == 2:
                _read_trainer(model, _message(value))
            elif number == 3:
                _read_normalizer(model, _message(value))
    except (ValueError, struct.error) as error:
        raise TokenizerFileError(f"{path}: this is no SentencePiece model, or it is damaged: {error}") from None
    if not model.pieces:
        raise TokenizerFileError(f"{path}: the file holds no pieces; is it a tokenizer.model?")
    if len(set(model.pieces)) != len(model.pieces):
        twice = next(p for i, p in enumerate(model.pieces) if p in model.pieces[:i])
        raise TokenizerFileError(f"{path}: the piece {twice!r} occurs twice")
    if model.algorithm not in (UNIGRAM, BPE):
        raise TokenizerFileError(f"{path}: algorithm {model.algorithm} is neither Unigram (1) nor BPE (2)")
    return model


def _message(value: int | bytes) -> dict[int, int | bytes]:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should be")
    return dict(_fields(value))


def _read_piece(model: SentencePieceModel, fields: dict) -> None:
    where = f"piece {len(model.pieces)}"
    text, score = _bytes(fields, 1, b"", where), _bytes(fields, 2, b"\0\0\0\0", where)
    if not text:
        raise ValueError(f"{where} has no text")
    model.pieces.append(text.decode("utf-8"))
    model.scores.append(struct.unpack("<f", score)[0])
    model.types.append(_int(fields, 3, NORMAL, where))
    if not math.isfinite(model.scores[-1]):
        raise ValueError(f"the score of {where} is {model.scores[-1]}")
    if not NORMAL <= model.types[-1] <= BYTE:
        raise ValueError(f"{where} has the unknown type {model.types[-1]}")


def _bytes(fields: dict, number: int, default: bytes, where: str) -> bytes:
    value = fields.get(number, default)
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} of {where} is a number; bytes were expected")
    return value


def _int(fields: dict, number: int, default: int, where: str) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise ValueError(f"field {number} of {where} is no number")
    return value


def _read_trainer(model: SentencePieceModel, fields: dict) -> None:
    model.algorithm = _int(fields, 3, UNIGRAM, "the trainer's part")
    model.byte_fallback = bool(_int(fields, 35, 0, "the trainer's part"))
    model.whitespace_as_suffix = bool(_int(fields, 24, 0, "the trainer's part"))


def _read_normalizer(model: SentencePieceModel, fields: dict) -> None:
    where = "the normaliser's part"
    model.charsmap = _bytes(fields, 2, b"", where)
    model.add_dummy_prefix = bool(_int(fields, 3, 1, where))
    model.remove_extra_whitespaces = bool(_int(fields, 4, 1, where))
    model.escape_whitespaces = bool(_int(fields, 5, 1, where))


def write_model(model: SentencePieceModel, path: str | Path) -> None:
    """Write a tokenizer.model that SentencePiece and llama.cpp read."""
    out = bytearray()
    for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
        body = _bytes_field(1, piece.encode("utf-8")) + b"\x15" + struct.pack("<f", score) + _int_field(3, kind)
        out += _bytes_field(1, body)
    trainer = _int_field(3, model.algorithm) + _int_field(24, model.whitespace_as_suffix)
    trainer += _int_field(4, len(model.pieces)) + _int_field(35, model.byte_fallback)
    normalizer = _bytes_field(1, b"llmkit") + _bytes_field(2, model.charsmap) + _int_field(3, model.add_dummy_prefix)
    normalizer += _int_field(4, model.remove_extra_whitespaces) + _int_field(5, model.escape_whitespaces)
    out += _bytes_field(2, trainer) + _bytes_field(3, normalizer)
    Path(path).write_bytes(bytes(out))


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _int_field(number: int, value: int) -> bytes:
    return _encode_varint(number << 3) + _encode_varint(int(value))


def _bytes_field(number: int, value: bytes) -> bytes:
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(value)) + value
