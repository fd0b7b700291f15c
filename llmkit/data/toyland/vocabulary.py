"""Tokens for the text-to-text tasks: whole English words, and Tolk's words cut into stem and endings.

A capital letter is the mark ⇧ before the small one, so that "The" and "the" are one word. What is in no list is spelt
in letters. Any printable ASCII text comes back exactly as it was.
"""

import re
import string
from collections.abc import Iterable, Sequence

from llmkit.data.toyland.language import CASES, LEXICON, TENSES
from llmkit.data.toyland.tasks import Example

PAD, END, UP = "<pad>", "</s>", "⇧"
_CAPITAL, _MARKED = re.compile(" ?[A-Z]"), re.compile(f"{UP}( ?)([a-z])")
_SIGNS = string.ascii_lowercase + string.digits + string.punctuation + " "


class Vocabulary:
    """Text to ids and back; a token that begins a word has the space before it.

    words   what shall be one token at the beginning of a word, in small letters; letters, signs and Tolk's endings
            are added, and stand for the rest
    ids     0 is <pad>, which is also what a decoder begins with, 1 is </s>, the end

    >>> v = Vocabulary(["the", "queen", LEXICON["queen"]])
    >>> v.tokens_of("The queen's.")
    ['⇧', ' the', ' queen', "'", 's', '.']
    >>> v.tokens_of("habemota")     # Tolk: to the queen
    [' habemo', 'ta']
    >>> v.decode(v.encode("The queen's."))
    "The queen's."
    """

    pad_id, end_id = 0, 1

    def __init__(self, words: Iterable[str]):
        endings = {*CASES.values(), *TENSES.values()} - set(_SIGNS)
        self.tokens = [PAD, END, UP, *_SIGNS, *sorted(endings), *sorted({f" {word}" for word in words})]
        self.id_of = {token: i for i, token in enumerate(self.tokens)}
        longest_first = sorted(self.tokens[2:], key=len, reverse=True)
        self._token = re.compile("|".join(map(re.escape, longest_first)))

    def __len__(self) -> int:
        return len(self.tokens)

    def tokens_of(self, text: str) -> list[str]:
        """The longest token that fits, again and again. Raises ValueError for what is no printable ASCII."""
        if strange := sorted(set(text) - {*_SIGNS, *string.ascii_uppercase}):
            raise ValueError(f"only ASCII letters, digits, signs and spaces have tokens here, not {strange[0]!r}")
        return self._token.findall(_CAPITAL.sub(lambda m: UP + m.group().lower(), f" {text}")) if text else []

    def encode(self, text: str, end: bool = True) -> list[int]:
        """Ids of a text; </s> stands at its end, as T5 has it in texts and answers alike, unless `end` is False."""
        return [self.id_of[token] for token in self.tokens_of(text)] + [self.end_id] * end

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids up to the first </s>, without <pad>. Raises ValueError for an id that does not exist."""
        tokens = []
        for i in map(int, ids):
            if not 0 <= i < len(self.tokens):
                raise ValueError(f"no token has the id {i}; ids go from 0 to {len(self.tokens) - 1}")
            if i == self.end_id:
                break
            if i != self.pad_id:
                tokens.append(self.tokens[i])
        text = _MARKED.sub(lambda m: m.group(1) + m.group(2).upper(), "".join(tokens))
        return text.removeprefix(" ")


def task_vocabulary(examples: Iterable[Example]) -> Vocabulary:
    """The words of the examples' English (inputs, and answers that are no translations), and Tolk's stems."""
    english: set[str] = set()
    for example in examples:
        texts = [example.input] if example.task == "translation" else [example.input, example.target]
        english.update(word for text in texts for word in re.findall("[a-z]+", text.lower()))
    return Vocabulary(english | set(LEXICON.values()))
