"""What all tokenizers share: special tokens that user text cannot become, encode and decode, save and fast."""

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import regex
import tokenizers

# The usual names of the token that ends a text or a turn.
TEXT_ENDS = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|eos|>", "<|im_end|>", "<|eot_id|>")
MOST_IDS = 10_000_000  # a damaged file must not ask for more memory than any vocabulary needs


class TokenizerFileError(ValueError):
    """A tokenizer file that cannot be used; the message names the file and the reason."""


def split_special(text: str, special: Collection[str]) -> list[str]:
    """Cut a text at special tokens; pieces that are special tokens stand alone, and nothing is lost.

    special   the tokens to look for. Where two begin at the same place the longer one wins. Empty pieces are left
              out. With no special tokens the text is one piece, whatever it contains.

    >>> split_special("Hi<|end|>you", ["<|end|>"])
    ['Hi', '<|end|>', 'you']
    >>> split_special("Hi<|end|>you", [])
    ['Hi<|end|>you']
    """
    if not special:
        return [text] if text else []
    longest_first = sorted(special, key=len, reverse=True)
    pattern = "(" + "|".join(regex.escape(token) for token in longest_first) + ")"
    return [piece for piece in regex.split(pattern, text) if piece]


class Tokenizer:
    """Text to ids and back. A family gives encode_ordinary, decode_ordinary, the list of pieces and to_json.

    pieces          piece of each id as text for display; None for an id that is not in use
    special_tokens  name -> id; no ordinary piece may have the same id, unless it has the same name
    """

    # What a model's folder says beside the ids, kept for whoever writes the tokenizer again: tokenizer.json's
    # post_processor (special tokens around a text), and checkpoints.special.Settings. Nothing here looks at them.
    post_processor: dict | None = None
    settings: Any = None

    def __init__(self, pieces: Sequence[str | None], special_tokens: dict[str, int] | None = None):
        self.pieces = list(pieces)
        self.special_tokens = dict(special_tokens or {})
        for name, i in self.special_tokens.items():
            if not isinstance(name, str) or not name:
                raise ValueError("a special token needs a name of at least one character")
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < MOST_IDS:
                raise ValueError(f"the special token {name!r} has the id {i!r}; a number from 0 up was expected")
            if i < len(self.pieces) and self.pieces[i] not in (None, name):
                raise ValueError(f"the special token {name!r} has the id {i} of the ordinary piece {self.pieces[i]!r}")
            self.pieces += [None] * (i + 1 - len(self.pieces))
            self.pieces[i] = name
        self._special_names = {i: name for name, i in self.special_tokens.items()}
        if len(self._special_names) != len(self.special_tokens):
            raise ValueError(f"two special tokens have the same id: {self.special_tokens}")

    # --- what a family gives ---

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        raise TypeError(f"{type(self).__name__} must define encode_ordinary")

    def decode_ordinary(self, ids: Sequence[int]) -> str:
        """Text of ids among which none is special."""
        raise TypeError(f"{type(self).__name__} must define decode_ordinary")

    def to_json(self) -> dict:
        """The content of tokenizer.json, as the `tokenizers` library reads it."""
        raise TypeError(f"{type(self).__name__} must define to_json")

    # --- what everyone uses ---

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens and unused ones included: the rows that an embedding needs."""
        return len(self.pieces)

    def encode(self, text: str, special: Collection[str] | str = ()) -> list[int]:
        """Ids of a text.

        special   names of special tokens that this text may contain, or "all". By default none: whatever a user
                  types stays ordinary text, also when it looks like a control token.

        Raises ValueError for a name that is no special token and for a text with a lone surrogate.
        """
        check_text(text)
        if isinstance(special, str):
            special = list(self.special_tokens) if special == "all" else [special]
        allowed = set(special)
        for name in allowed:
            if name not in self.special_tokens:
                raise ValueError(f"{name!r} is no special token here; they are {sorted(self.special_tokens)}")
        ids: list[int] = []
        for piece in split_special(text, allowed):
            ids += [self.special_tokens[piece]] if piece in allowed else self.encode_ordinary(piece)
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of ids; special tokens are written by name or, with skip_special, left out.

        Raises ValueError for an id outside the vocabulary.
        """
        text, run = [], []
        for i in map(int, ids):  # also the elements of a tensor
            self.id_to_piece(i)  # names an id that does not exist
            if i in self._special_names:
                text += [self.decode_ordinary(run)] if run else []
                text += [] if skip_special else [self._special_names[i]]
                run = []
            else:
                run.append(i)
        return "".join([*text, self.decode_ordinary(run) if run else ""])

    def id_to_piece(self, i: int) -> str:
        """The piece of an id. Raises ValueError where there is none."""
        if not 0 <= i < len(self.pieces) or self.pieces[i] is None:
            raise ValueError(f"no token has the id {i}; ids go from 0 to {len(self.pieces) - 1}")
        return self.pieces[i]

    def tokens(self, text: str) -> list[str]:
        """The pieces that a text is cut into, for display."""
        return [self.id_to_piece(i) for i in self.encode(text)]

    def save(self, path: str | os.PathLike, post_processor: dict | None = None) -> None:
        """Write tokenizer.json (or a file of that form); written aside first, so that no half file is left.

        post_processor   how the `tokenizers` library puts special tokens around a text; by default as it was read
        """
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        aside = path.with_name(path.name + ".tmp")
        data = self.to_json() | {"post_processor": post_processor or self.post_processor}
        aside.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
        aside.replace(path)

    def fast(self) -> tokenizers.Tokenizer:
        """The same tokenizer in the `tokenizers` library: the same ids, several texts at once in Rust."""
        fast = tokenizers.Tokenizer.from_str(json.dumps(self.to_json()))
        fast.encode_special_tokens = True  # there too, user text does not become a control token
        return fast

    def added_tokens_json(self) -> list[dict]:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        by_id = sorted(self.special_tokens.items(), key=lambda item: item[1])
        return [{"id": i, "content": name, **flags} for name, i in by_id]


def check_text(text: str) -> None:
    """Raise for what is no text: TypeError for another type, ValueError for a lone surrogate and where it is."""
    if not isinstance(text, str):
        raise TypeError(f"a tokenizer encodes str, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!r} at position {error.start}"
        raise ValueError(f"{found} is half of a surrogate pair, which is no character; decode the text anew") from None
