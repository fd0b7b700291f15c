"""SentencePiece's BPE, the tokenizer of LLaMA 1 and 2 and of Mistral.

Source: google/sentencepiece:src/bpe_model.cc.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

from llmkit.tokenizers import protobuf
from llmkit.tokenizers.bpe import train_bpe
from llmkit.tokenizers.sentencepiece import SentencePiece, new_model, room_for_pieces, training_words


def merge_by_score(parts: Sequence[str], scores: dict[str, float]) -> list[str]:
    """Join neighbours, always the two whose joint piece has the best score, the leftmost of equals.

    >>> merge_by_score("abc", {"ab": -1.0, "bc": 0.0, "abc": -2.0})
    ['abc']
    """
    parts = list(parts)
    following = [*range(1, len(parts)), -1]
    before = [*range(-1, len(parts) - 1)]
    heap: list[tuple[float, int, str]] = []

    def consider(i: int) -> None:
        if i >= 0 and following[i] >= 0 and (joint := parts[i] + parts[following[i]]) in scores:
            heapq.heappush(heap, (-scores[joint], i, joint))

    for i in range(len(parts)):
        consider(i)
    while heap:
        _, i, joint = heapq.heappop(heap)
        j = following[i] if parts[i] else -1
        if j < 0 or parts[i] + parts[j] != joint:
            continue  # one of the two has been merged with another in the meantime
        parts[i], parts[j] = joint, ""
        following[i] = following[j]
        if following[i] >= 0:
            before[following[i]] = i
        consider(i)
        consider(before[i])
    return [part for part in parts if part]


class SentencePieceBPE(SentencePiece):
    """BPE on characters; of all neighbours whose joint piece exists, the piece with the best score is made first."""

    @classmethod
    def train(cls, texts: str | Iterable[str], vocab_size: int) -> "SentencePieceBPE":
        """Learn pieces by merging; the rarest characters are left to the bytes if there are too many of them."""
        words, room = training_words(texts), room_for_pieces(vocab_size, 3 + 256)
        counts: Counter = Counter()
        for word, n in words.items():
            counts.update(dict.fromkeys(word, 0))
            for char in word:
                counts[char] += n
        alphabet = [char for char, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][: room // 2]
        order = {char: i for i, char in enumerate(alphabet)}
        symbols = {tuple(order[c] for c in word): n for word, n in words.items() if all(c in order for c in word)}
        pieces: list[str] = list(alphabet)
        for left, right in train_bpe(symbols, len(alphabet), room - len(alphabet)):
            pieces.append(pieces[left] + pieces[right])
        made = list(dict.fromkeys(pieces[len(alphabet) :]))  # two merges can make the same piece
        ordered = [*made, *alphabet]
        return cls(new_model(protobuf.BPE, ordered, [-float(i) for i in range(len(ordered))]))

    def split_word(self, word: str) -> list[str]:
        return merge_by_score(word, self.scores)

    def to_json(self) -> dict:
        """The merges that the library wants are made from the pieces: every cut of a piece into two others.

        In runs of hundreds of spaces, where many cuts have the same score, the library may group them otherwise.
        """
        merges = []
        for piece, score in self.scores.items():
            cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
            cuts = [cut for cut in cuts if cut[0] in self.scores and cut[1] in self.scores]
            merges += [(-score, self.ids[left], self.ids[right], left, right) for left, right in cuts]
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": self.pieces[self.unk_id],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": self.model.byte_fallback,
            "ignore_merges": False,
            "vocab": self.ids,
            "merges": [[left, right] for *_, left, right in sorted(merges)],
        }
        return self._json(model)
