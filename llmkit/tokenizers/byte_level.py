"""Byte-level BPE, the tokenizer of GPT-2, GPT-4, LLaMA 3 and most models since: every text has ids, none is unknown."""

from collections.abc import Iterable, Mapping, Sequence

import regex

from llmkit.tokenizers.base import Tokenizer, check_text
from llmkit.tokenizers.bpe import (
    GPT2_PATTERN,
    bpe_encode,
    bpe_encode_long,
    bytes_to_unicode,
    count_words,
    train_bpe,
)

LONG_WORD = 12  # bytes from which on the heap is faster
NEEDED_BYTES = {*range(0x20, 0x7F), *b"\t\n\r"}  # a file without one of these is damaged
CACHE_SIZE = 500_000  # words; beyond, the cache begins anew, so that endless text does not fill the memory


class ByteLevelBPE(Tokenizer):
    """BPE over the bytes of UTF-8.

    pieces    the bytes of each id, in order of id; the 256 single bytes should be among them. Some vocabularies lack
              a few (SmolLM2's 21: control characters, bytes of rare scripts); text that needs one is refused with
              a ValueError, never shortened. Printable ASCII and white space may not be missing.
    merges    pairs of pieces in the order of learning
    pattern   what text is cut into before merging

    Raises ValueError for a missing byte, a piece that occurs twice, a merge whose parts or result are no pieces, and a
    special token that is spelled like an ordinary piece: tokenizer.json has one list of names for both.
    """

    def __init__(
        self,
        pieces: Sequence[bytes | None],
        merges: Sequence[tuple[bytes, bytes]],
        pattern: str = GPT2_PATTERN,
        special_tokens: Mapping[str, int] | None = None,
    ):
        shown = bytes_to_unicode()
        super().__init__([None if p is None else "".join(shown[b] for b in p) for p in pieces], special_tokens)
        self.bytes_of = [b"" if piece is None else piece for piece in pieces]
        self.ids = {piece: i for i, piece in enumerate(pieces) if piece is not None}
        if len(self.ids) != sum(piece is not None for piece in pieces):
            raise ValueError("the vocabulary has the same piece under two ids")
        ordinary = {"".join(shown[b] for b in piece): i for piece, i in self.ids.items()}
        for name, i in self.special_tokens.items():
            if ordinary.get(name, i) != i:
                raise ValueError(f"the special token {name!r} is spelled like the piece with the id {ordinary[name]}")
        self._missing = {b for b in range(256) if bytes([b]) not in self.ids}
        if needed := self._missing & NEEDED_BYTES:
            raise ValueError(f"the vocabulary lacks the byte {min(needed):#04x}, which no text can do without")
        self.merges: list[tuple[bytes, bytes]] = [tuple(merge) for merge in merges]
        self._ranks: dict[tuple[int, int], int] = {}
        for rank, (left, right) in enumerate(self.merges):
            for part in (left, right, left + right):
                if part not in self.ids:
                    raise ValueError(f"merge {rank} ({left!r}, {right!r}) needs {part!r}, which is no piece")
            self._ranks.setdefault((self.ids[left], self.ids[right]), rank)
        self._made = [self.ids[left + right] for left, right in self.merges]
        self._byte_ids = [self.ids.get(bytes([b]), -1) for b in range(256)]  # -1: never used, see _encode_word
        self.pattern = pattern
        compiled = regex.compile(pattern)
        sample = "The cat's 12345 toys, né 猫!\n\t  x_y \x00"
        if compiled.groups or "".join(compiled.findall(sample)) != sample:
            raise ValueError(
                f"the pattern {pattern!r} must have no groups and match every part of a text, or text is lost"
            )
        self._split = compiled.findall
        self._cache: dict[str, list[int]] = {}
        # bpe_encode wants a smaller id for an earlier merge. In most vocabularies ids grow with the merges; where
        # they do not, merging works on ids of its own that do.
        self._in_order = all(a < b for a, b in zip(self._made, self._made[1:], strict=False))
        self._merges_by_id = {p: self._made[r] for p, r in self._ranks.items()} if self._in_order else self._own_ids()

    def _own_ids(self) -> dict[tuple[int, int], int]:
        """Merges over ids of our own: bytes first, then one id a merge, in the order of learning."""
        own = {bytes([b]): b for b in range(256)}
        merges = {}
        for left, right in self.merges:
            merges[own[left], own[right]] = own.setdefault(left + right, len(own))
        self._to_id = [self.ids.get(piece, -1) for piece in own]
        return merges

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int,
        pattern: str = GPT2_PATTERN,
        special_tokens: Sequence[str] = (),
    ) -> "ByteLevelBPE":
        """Learn a vocabulary of at most vocab_size ids: special tokens behind 256 bytes and the merges.

        Raises ValueError for a vocab_size that cannot hold the bytes and the special tokens.
        """
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise ValueError(f"vocab_size must be at least {256 + len(special_tokens)}, not {vocab_size}")
        # GPT-2's order of the single bytes: that of their printable characters.
        alphabet = [bytes([b]) for b, _ in sorted(bytes_to_unicode().items(), key=lambda item: item[1])]
        order = {piece[0]: i for i, piece in enumerate(alphabet)}
        words = {tuple(order[b] for b in word.encode("utf-8")): n for word, n in count_words(texts, pattern).items()}
        pieces, merges = list(alphabet), []
        for left, right in train_bpe(words, 256, n_merges):
            merges.append((pieces[left], pieces[right]))
            pieces.append(pieces[left] + pieces[right])
        return cls(pieces, merges, pattern, {name: len(pieces) + i for i, name in enumerate(special_tokens)})

    def encode_ordinary(self, text: str) -> list[int]:
        check_text(text)
        ids: list[int] = []
        cache = self._cache
        for word in self._split(text):
            known = cache.get(word)
            if known is None:
                if len(cache) >= CACHE_SIZE:
                    cache.clear()
                known = cache[word] = self._encode_word(word)
            ids += known
        return ids

    def _encode_word(self, word: str) -> list[int]:
        data = word.encode("utf-8")
        if self._missing and not self._missing.isdisjoint(data):
            byte = min(self._missing.intersection(data))
            raise ValueError(f"{word!r} cannot be encoded: this vocabulary has no piece for the byte {byte:#04x}")
        encode = bpe_encode if len(data) <= LONG_WORD else bpe_encode_long
        if self._in_order:
            return encode([self._byte_ids[b] for b in data], self._merges_by_id)
        return [self._to_id[i] for i in encode(data, self._merges_by_id)]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of ids; a single token may be part of a character."""
        return b"".join(self.bytes_of[i] for i in ids)

    def decode_ordinary(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def to_json(self) -> dict:
        shown = bytes_to_unicode()
        ordinary = {"".join(shown[b] for b in piece): i for piece, i in self.ids.items()}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        pre_tokenizer = byte_level
        if self.pattern != GPT2_PATTERN:
            split = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
            pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens_json(),
            "normalizer": None,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": ordinary | self.special_tokens,  # the library takes ids from here alone, not from added_tokens
                "merges": [["".join(shown[b] for b in part) for part in merge] for merge in self.merges],
            },
        }
