"""SentencePiece's Unigram, the tokenizer of T5, ALBERT and XLNet.

Source: google/sentencepiece:src/unigram_model.cc. The algorithms are in unigram.py.
"""

import json
from collections.abc import Callable, Iterable

import tokenizers

from llmkit.tokenizers import protobuf
from llmkit.tokenizers.protobuf import NORMAL, USER_DEFINED, SentencePieceModel
from llmkit.tokenizers.sentencepiece import SentencePiece, new_model, room_for_pieces, training_words
from llmkit.tokenizers.unigram import train_unigram, viterbi

UNK_PENALTY = 10.0  # an unknown character costs this much more than the rarest piece


class _Normalizer:
    """A Python normaliser for the tokenizers library."""

    def __init__(self, normalize: Callable[[str], str]):
        self._normalize = normalize

    def normalize(self, normalized: tokenizers.NormalizedString) -> None:
        text = self._normalize(normalized.normalized)
        normalized.clear()
        normalized.append(text)


class Unigram(SentencePiece):
    """Every piece has a probability; a word is cut into the pieces whose product is largest."""

    @classmethod
    def train(cls, texts: str | Iterable[str], vocab_size: int) -> "Unigram":
        """Learn pieces and their probabilities by expectation maximisation and pruning.

        The first ids are <unk>, <s> and </s>. Google's T5 has <pad>, </s>, <unk> instead, which T5Config's defaults
        follow: with this vocabulary end_id is 2.
        """
        log_probs = train_unigram(training_words(texts), room_for_pieces(vocab_size, 3))
        ordered = sorted(log_probs, key=lambda piece: (-log_probs[piece], piece))
        return cls(new_model(protobuf.UNIGRAM, ordered, [log_probs[piece] for piece in ordered]))

    def __init__(self, model: SentencePieceModel):
        super().__init__(model)
        self._unk_score, self._longest = min(self.scores.values()) - UNK_PENALTY, max(map(len, self.scores))

    def split_word(self, word: str) -> list[str]:
        return viterbi(word, self.scores, self._unk_score, self._longest)[0]

    def fast(self) -> tokenizers.Tokenizer:
        """As Tokenizer.fast.

        The library looks for every piece in the text, also for control pieces, and applies a character map to whole
        clusters of characters. So here control pieces get a name with a space, which no normalised text contains, and
        normalisation is ours. Raises ValueError for byte fallback: the library would read "<0x0A>" as that byte.
        """
        if self.model.byte_fallback:
            raise ValueError("the tokenizers library would take a typed '<0x0A>' for a byte piece; use encode")
        description = self.to_json() | {"added_tokens": [], "normalizer": None}
        for i, entry in enumerate(description["model"]["vocab"]):
            if self.model.types[i] not in (NORMAL, USER_DEFINED):
                entry[0] = f" {entry[0]}"
        fast = tokenizers.Tokenizer.from_str(json.dumps(description))
        fast.normalizer = tokenizers.normalizers.Normalizer.custom(_Normalizer(self.normalize))
        return fast

    def to_json(self) -> dict:
        """The content of tokenizer.json.

        Read by the library itself, without fast(), it gives other ids for texts that contain a control piece's name,
        and, with a character map, for letters with several marks: the library looks for all pieces in the text, and
        maps clusters of characters where SentencePiece maps characters.
        """
        model = {
            "type": "Unigram",
            "unk_id": self.unk_id,
            "vocab": [[p, s] for p, s in zip(self.model.pieces, self.model.scores, strict=True)],
            "byte_fallback": self.model.byte_fallback,
        }
        return self._json(model)
