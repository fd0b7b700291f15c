"""What the files of several formats have in common: pieces with ids, checked before they are believed."""

import re
from pathlib import Path
from typing import Any

from llmkit.tokenizers.base import TokenizerFileError
from llmkit.tokenizers.bpe import GPT2_PATTERN, bytes_to_unicode
from llmkit.tokenizers.byte_level import ByteLevelBPE

# Every digit alone (SmolLM2), then GPT-2's pattern between them, where a digit ends a text like its end.
SINGLE_DIGITS_PATTERN = r"\p{N}|" + GPT2_PATTERN.replace(r" ?\p{N}+|", "").replace(r"(?!\S)", r"(?![^\s\p{N}])")


def byte_level_from(vocab: dict, merges: list, special: dict[str, int], pattern: str, path: Path) -> ByteLevelBPE:
    """From vocab and merges in printable characters; what is not spelled in them is a special token.

    Raises TokenizerFileError, naming `path`, for ids that clash, a piece or a merge that is not spelled so, and
    whatever ByteLevelBPE refuses.
    """
    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    check_ids(vocab, path)
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
    try:
        return ByteLevelBPE(pieces, pairs, pattern, special)
    except ValueError as error:
        raise TokenizerFileError(f"{path}: {error}") from None


def unique(path: Path):
    """A hook for json.loads: a key that stands twice would silently lose the first."""

    def hook(pairs: list[tuple[str, Any]]) -> dict:
        no_duplicates([key for key, _ in pairs], path)
        return dict(pairs)

    return hook


def no_duplicates(pieces: list[str], path: Path) -> None:
    """Raise TokenizerFileError, naming the piece, when one stands twice."""
    if len(set(pieces)) != len(pieces):
        seen: set[str] = set()
        twice = next(piece for piece in pieces if piece in seen or seen.add(piece))
        raise TokenizerFileError(f"{path}: the piece {twice!r} occurs twice")


def check_ids(vocab: dict, path: Path) -> None:
    """Raise TokenizerFileError unless every piece has an id of its own, a number from 0 up."""
    if not isinstance(vocab, dict) or not vocab:
        raise TokenizerFileError(f"{path}: the vocabulary must be a non-empty object of pieces and ids")
    by_id: dict[int, str] = {}
    for piece, i in vocab.items():
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < 10_000_000:
            raise TokenizerFileError(f"{path}: the id of {piece!r} is {i!r}; a number from 0 up was expected")
        if i in by_id:
            raise TokenizerFileError(f"{path}: {by_id[i]!r} and {piece!r} have the same id {i}")
        by_id[i] = piece
