"""WordPiece, the tokenizer of BERT: longest piece first, pieces inside a word marked with ##.

Sources: Schuster and Nakajima 2012; google-research/bert:tokenization.py; training as in Hugging Face's course.
"""

import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from llmkit.tokenizers.base import Tokenizer, check_text

# Blocks of CJK ideographs. They are written without spaces, so BERT treats each as a word.
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
# Unicode's White_Space. Python's isspace also counts the separators 0x1c to 0x1f, which BERT drops as controls.
_SPACES = set("\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}
_CONTROLS = {"Cc", "Cf", "Co"}  # controls, invisible format characters, private use
_ASCII_PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _is_cjk(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in _CJK)


def _is_punctuation(char: str) -> bool:
    return char in _ASCII_PUNCTUATION or unicodedata.category(char).startswith("P")


def _clean(text: str) -> str:
    """White space to spaces, control characters dropped, ideographs set apart."""
    kept = []
    for char in text:
        if char in "\x00\ufffd" or (char not in "\t\n\r" and unicodedata.category(char) in _CONTROLS):
            continue
        kept.append(" " if char in _SPACES else f" {char} " if _is_cjk(char) else char)
    return "".join(kept)


def basic_tokenize(text: str, lower: bool = True) -> list[str]:
    """BERT's words: cut at white space and around every punctuation mark; lower case without accents if `lower`.

    >>> basic_tokenize("Café, 2x!")
    ['cafe', ',', '2x', '!']
    """
    text = _clean(text)
    if lower:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        text = "".join(c.lower() for c in text)  # one by one: in "ΑΣ" Python would write a final sigma
    words: list[str] = []
    begins = True
    for char in text:
        if char in _SPACES:
            begins = True
        elif begins or _is_punctuation(char):
            words.append(char)
            begins = _is_punctuation(char)
        else:
            words[-1] += char
    return words


def wordpiece_split(word: str, vocab: Container[str], unk: str = "[UNK]", max_chars: int = 100) -> list[str]:
    """Cut a word into the longest pieces that the vocabulary has, from left to right.

    Pieces after the first are looked up, and returned, with ## in front. If at some place no piece fits, the whole
    word is [unk]; so is a word of more than max_chars characters. The empty word has no pieces.

    >>> wordpiece_split("playing", {"play", "##ing", "##in", "##g"})
    ['play', '##ing']
    >>> wordpiece_split("plays", {"play", "##ing"})
    ['[UNK]']
    """
    if len(word) > max_chars:
        return [unk]
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return [unk]
    return pieces


def train_wordpiece(words: Mapping[str, int], n_pieces: int) -> list[str]:
    """Learn pieces by merging the pair with the highest count(ab) / (count(a) * count(b)).

    words   word -> how often it was seen

    Where BPE takes the most frequent pair, WordPiece takes the one whose parts most often go together. Returns the
    characters (inside a word with ##), sorted, and then the merged pieces in order, at most n_pieces in all; among
    equal scores the pair that sorts first. A heap would not help as it does in BPE: a merge changes the scores of all
    pairs that share one of its parts.
    """
    split = [[c if i == 0 else "##" + c for i, c in enumerate(word)] for word in words]
    counts = list(words.values())
    single: Counter = Counter()
    pairs: Counter = Counter()
    where: dict[tuple[str, str], set[int]] = {}

    def add(i: int, sign: int) -> None:
        for symbol in split[i]:
            single[symbol] += sign * counts[i]
        for pair in zip(split[i], split[i][1:], strict=False):
            pairs[pair] += sign * counts[i]
            where.setdefault(pair, set()).add(i)
            if pairs[pair] == 0:
                del pairs[pair]

    for i in range(len(split)):
        add(i, 1)
    pieces = dict.fromkeys(sorted(single))
    while len(pieces) < n_pieces and pairs:
        left, right = min(pairs, key=lambda p: (-pairs[p] / (single[p[0]] * single[p[1]]), p))
        new = left + right.removeprefix("##")
        pieces[new] = None
        for i in where.pop((left, right)):
            add(i, -1)
            split[i] = _merged(split[i], left, right, new)
            add(i, 1)
    return list(pieces)[:n_pieces]


def _merged(symbols: list[str], left: str, right: str, new: str) -> list[str]:
    merged, i = [], 0
    while i < len(symbols):
        both = i + 1 < len(symbols) and symbols[i] == left and symbols[i + 1] == right
        merged.append(new if both else symbols[i])
        i += 2 if both else 1
    return merged


class WordPiece(Tokenizer):
    """WordPiece over BERT's basic tokens.

    pieces   vocab.txt's lines, in order of id; [UNK] must be among them

    What BERT puts around a text, [CLS] and [SEP], are special tokens like others: encode does not add them.
    Decoding joins pieces with spaces, since the text's own spaces and capitals are not kept.
    """

    def __init__(self, pieces: Sequence[str], lower: bool = True, special_tokens: Mapping[str, int] | None = None):
        self.vocab = {piece: i for i, piece in enumerate(pieces)}
        if len(self.vocab) != len(pieces):
            raise ValueError("the vocabulary has the same piece under two ids")
        if "[UNK]" not in self.vocab:
            raise ValueError("the vocabulary has no [UNK], which stands for words that no pieces fit")
        if special_tokens is None:
            usual = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
            special_tokens = {name: self.vocab[name] for name in usual if name in self.vocab}
        super().__init__(pieces, special_tokens)
        self.lower = lower
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(cls, texts: str | Iterable[str], vocab_size: int, lower: bool = True) -> "WordPiece":
        """Learn a vocabulary whose first ids are BERT's five special tokens."""
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words: Counter = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            words.update(basic_tokenize(text, lower))
        if vocab_size <= len(special):
            raise ValueError(f"vocab_size must be more than {len(special)}, not {vocab_size}")
        return cls(special + train_wordpiece(words, vocab_size - len(special)), lower)

    def encode_ordinary(self, text: str) -> list[int]:
        check_text(text)
        ids: list[int] = []
        cache = self._cache
        for chunk in text.split(" "):  # a space ends a word under every rule, so chunks can be remembered
            known = cache.get(chunk)
            if known is None:
                if len(cache) >= 500_000:
                    cache.clear()
                words = basic_tokenize(chunk, self.lower)
                known = cache[chunk] = [self.vocab[p] for word in words for p in wordpiece_split(word, self.vocab)]
            ids += known
        return ids

    def decode_ordinary(self, ids: Sequence[int]) -> str:
        return " ".join(self.pieces[i] for i in ids).replace(" ##", "")

    def to_json(self) -> dict:
        bert = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": self.lower, "lowercase": self.lower}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens_json(),
            "normalizer": {"type": "BertNormalizer", **bert},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": self.vocab,
            },
        }
