"""SentencePiece's two tokenizers, BPE (LLaMA 1 and 2, Mistral) and Unigram (T5): spaces are characters like others.

Source: Kudo and Richardson 2018 (arXiv:1808.06226); google/sentencepiece:src/bpe_model.cc, unigram_model.cc.
"""

import base64
import ctypes
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from llmkit.tokenizers import protobuf
from llmkit.tokenizers.base import Tokenizer, check_text
from llmkit.tokenizers.normalize import SPACE, CharsMap, mark_spaces, nmt_nfkc
from llmkit.tokenizers.protobuf import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, SentencePieceModel

_WORD = re.compile(f"{SPACE}*[^{SPACE}]*")


def byte_pieces(char: str) -> list[str]:
    """The pieces that spell a character which has none of its own: one for each of its bytes in UTF-8.

    >>> byte_pieces("é")
    ['<0xC3>', '<0xA9>']
    """
    return [f"<0x{byte:02X}>" for byte in char.encode("utf-8")]


def _utf8(data: bytes) -> str:
    """Decode with one \ufffd for each byte that is no UTF-8, as SentencePiece does."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data[: error.start].decode("utf-8") + "\ufffd" + _utf8(data[error.start + 1 :])


def words_of(text: str) -> list[str]:
    """A text with marked spaces, cut before each run of spaces.

    >>> words_of("▁the▁cat")
    ['▁the', '▁cat']
    """
    return [word for word in _WORD.findall(text) if word]


class SentencePiece(Tokenizer):
    """What BPE and Unigram share: normalisation, bytes for unknown characters, control pieces.

    Control pieces (<s>, </s>) are special tokens: encode makes them only when asked to.
    """

    def __init__(self, model: SentencePieceModel):
        controls = {p: i for i, (p, t) in enumerate(zip(model.pieces, model.types, strict=True)) if t == CONTROL}
        super().__init__(model.pieces, controls)
        if model.whitespace_as_suffix or not model.escape_whitespaces:
            raise ValueError("spaces as suffixes, or not shown as ▁, are not supported")
        unknown = [i for i, t in enumerate(model.types) if t == UNKNOWN]
        if len(unknown) != 1:
            raise ValueError(f"a model needs exactly one unknown piece; this one has {len(unknown)}")
        self.model, self.unk_id = model, unknown[0]
        self.ids = {p: i for i, p in enumerate(model.pieces)}
        usable = (NORMAL, USER_DEFINED)
        self.scores = {p: s for p, s, t in zip(model.pieces, model.scores, model.types, strict=True) if t in usable}
        if not self.scores:
            raise ValueError("the model has no piece for any text")
        if UNUSED in model.types:
            raise ValueError(
                f"the piece {model.pieces[model.types.index(UNUSED)]!r} is of the unused type: not supported"
            )
        names = {f"<0x{byte:02X}>": byte for byte in range(256)}
        self._bytes = {i: names.get(p, -1) for i, p in enumerate(model.pieces) if model.types[i] == BYTE}
        if model.byte_fallback and sorted(self._bytes.values()) != list(range(256)):
            raise ValueError(f"byte fallback needs the 256 pieces <0x00> to <0xFF>; this model has {len(self._bytes)}")
        self._charsmap = CharsMap(model.charsmap) if model.charsmap else None
        user_defined = [p for p, t in zip(model.pieces, model.types, strict=True) if t == USER_DEFINED]
        longest_first = sorted(user_defined, key=len, reverse=True)
        self._user_defined = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if user_defined else None
        # A piece with a space after other characters could reach across words; then words cannot be cut alone.
        crossing = any(SPACE in piece.lstrip(SPACE) for piece in self.scores if piece not in user_defined)
        self._words = (lambda text: [text]) if crossing else words_of
        self._cache: dict[str, list[int]] = {}

    def normalize(self, text: str) -> str:
        """The text as the pieces see it: characters replaced, spaces squeezed where the model says so, and marked."""
        if not text:
            return ""
        if self._charsmap and self._user_defined:  # what the user defined is left as it is
            parts = self._user_defined.split(text)
            text = "".join(p if i % 2 else self._charsmap.replace(p) for i, p in enumerate(parts))
        elif self._charsmap:
            text = self._charsmap.replace(text)
        return mark_spaces(text, self.model.add_dummy_prefix, self.model.remove_extra_whitespaces)

    def split_word(self, word: str) -> list[str]:
        """The pieces of a word; characters that are in no piece stand alone."""
        raise TypeError(f"{type(self).__name__} must define split_word")

    def encode_ordinary(self, text: str) -> list[int]:
        check_text(text)
        ids: list[int] = []
        normal = self.normalize(text)
        parts = self._user_defined.split(normal) if self._user_defined else [normal]
        # Parts at odd places are user-defined pieces, which are never cut.
        for word in [w for i, part in enumerate(parts) for w in ([part] if i % 2 else self._words(part))]:
            known = self._cache.get(word)
            if known is None:
                if len(self._cache) >= 500_000:
                    self._cache.clear()
                known = self._cache[word] = self._word_ids(word)
            # Several unknown characters in a row are one unknown token, also across words.
            ids += known[1:] if ids and known and ids[-1] == known[0] == self.unk_id else known
        return ids

    def _word_ids(self, word: str) -> list[int]:
        ids: list[int] = []
        is_user_defined = self._user_defined and self._user_defined.fullmatch(word)
        for piece in [word] if is_user_defined else self.split_word(word):
            if piece in self.scores:
                ids.append(self.ids[piece])
            elif self.model.byte_fallback:
                ids += [self.ids[byte] for byte in byte_pieces(piece)]
            elif not ids or ids[-1] != self.unk_id:
                ids.append(self.unk_id)
        return ids

    def decode_ordinary(self, ids: Sequence[int]) -> str:
        """The text of ids; the space that the model puts in front of a text is taken away again."""
        squeeze = self.model.remove_extra_whitespaces
        out, run, at_start = [], bytearray(), True
        for i in [*ids, -1]:
            if i in self._bytes:
                run.append(self._bytes[i])
                at_start = False
                continue
            if run:
                out.append(_utf8(bytes(run)))
                run = bytearray()
            piece = " ⁇ " if i == self.unk_id else self.pieces[i] if i >= 0 else ""
            if at_start and squeeze:
                piece = piece.lstrip(SPACE)
            elif at_start and self.model.add_dummy_prefix:
                piece = piece.removeprefix(SPACE)
            at_start = at_start and squeeze and not piece
            out.append(piece.replace(SPACE, " "))
        return "".join(out)

    def save_model(self, path: str | Path) -> None:
        """Write a tokenizer.model, which SentencePiece and llama.cpp read."""
        protobuf.write_model(self.model, path)

    def _json(self, model: dict) -> dict:
        replace_space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        steps: list[dict] = []
        if self.model.charsmap:
            charsmap = base64.b64encode(self.model.charsmap).decode()
            steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
        if self.model.remove_extra_whitespaces:
            steps += [
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
            ]
        if self.model.add_dummy_prefix:
            steps.append({"type": "Prepend", "prepend": " "})
        decoder = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if self.model.add_dummy_prefix:
            decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens_json(),
            "normalizer": {"type": "Sequence", "normalizers": [*steps, replace_space]},
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": decoder},
            "model": model,
        }


def training_words(texts: str | Iterable[str]) -> Counter:
    """Words of normalised texts, a line being a text, with counts."""
    words: Counter = Counter()
    for text in [texts] if isinstance(texts, str) else texts:
        for line in text.split("\n"):
            words.update(words_of(mark_spaces(nmt_nfkc(line))))
    return words


def new_model(algorithm: int, pieces: Sequence[str], scores: Sequence[float]) -> SentencePieceModel:
    """<unk>, <s>, </s>, for BPE the 256 bytes, then the pieces, as in LLaMA and T5.

    The written model has no table of characters, so at encoding time a text is taken as it is.
    """
    with_bytes = algorithm == protobuf.BPE
    byte_names = [f"<0x{byte:02X}>" for byte in range(256)] if with_bytes else []
    fixed = ["<unk>", "<s>", "</s>", *byte_names]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * len(byte_names), *[NORMAL] * len(pieces)]
    all_scores = [0.0] * len(fixed) + [ctypes.c_float(score).value for score in scores]  # as the file keeps them
    return SentencePieceModel(
        [*fixed, *pieces], all_scores, types, algorithm, with_bytes, remove_extra_whitespaces=not with_bytes
    )


def room_for_pieces(vocab_size: int, fixed: int) -> int:
    """Ids that are left for pieces."""
    if vocab_size < fixed + 40:
        raise ValueError(f"vocab_size must be at least {fixed + 40}: {fixed} are fixed and every letter needs one")
    return vocab_size - fixed
