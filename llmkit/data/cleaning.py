"""Cleaning text, and rules that tell prose from what else the web holds: menus, lists, code, one line a hundred times.

The rules are those of Gopher (Rae et al. 2021, appendix A.1.1, with its table of repetitions) and of C4 (Raffel et al.
2020, section 2.2) that judge a whole document; C4's rules for single lines and for bad words are not here. The
thresholds are theirs, set by hand for English web pages: for code, poems or other languages they are wrong.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
BULLETS = ("•", "‣", "▪", "●", "◦", "-", "*", "–")
ELLIPSES = ("...", "…")
SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")  # a full stop inside a number or name ends nothing
TOP_GRAM = {2: 0.20, 3: 0.18, 4: 0.16}  # n: the largest share of characters in the most frequent n-gram
REPEATED_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # … in all n-grams that came before

LINE_END = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Controls, and what is invisible and cuts words for a tokenizer: soft hyphen, zero-width space, byte-order mark. The
# joiners U+200C and U+200D stay: Persian and emoji need them.
UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\ufeff]")
SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    r"""The same text in one form: NFC, \n for every kind of line end, nothing that cannot be seen.

    Blanks at line ends go, of several empty lines one stays, and empty lines at both ends go; blanks at the beginning
    of a line stay (code). Lone surrogates, which UTF-8 cannot hold, become U+FFFD. Cleaning twice changes nothing.

    >>> clean("\n\nCafe\u0301  \r\n\r\n\r\n\r\nO\x00K\t\n")
    'Café\n\nOK'
    """
    text = SURROGATE.sub("\ufffd", UNSEEN.sub("", LINE_END.sub("\n", text)))
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[^\S\n]+(?=\n|$)", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def problems(text: str, min_words: int = 50) -> list[str]:
    """Which rules a document breaks, each with what was measured and the limit; an empty list for a good one.

    min_words   Gopher's 50; less for short stories

    >>> problems("The cat sat on the mat and looked at the dog with big eyes. " * 5)[0]
    'characters in the most frequent 3-gram: 0.261, at most 0.180'
    >>> problems("Menu | Home | Log in")[:3]
    ['words: 6, at least 50', 'mean word length: 2.500, at least 3.000', 'words with a letter: 0.667, at least 0.800']
    """
    words = text.split()
    if not words:
        return ["words: 0, at least 1"]
    found = [*_words(text, words, min_words), *_lines(text), *_sentences(text), *_repetitions(text, words)]
    return [f"{name}: {_number(value)}, {limit}" for name, value, limit in found if limit]


Finding = tuple[str, float, str]  # what was measured, the value, and the limit that it breaks or ""


def _at_least(name: str, value: float, limit: float) -> Finding:
    return name, value, f"at least {_number(limit)}" if value < limit else ""


def _at_most(name: str, value: float, limit: float) -> Finding:
    return name, value, f"at most {_number(limit)}" if value > limit else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _words(text: str, words: Sequence[str], min_words: int) -> list[Finding]:
    n = len(words)
    mean_length = sum(map(len, words)) / n
    return [
        _at_least("words", n, min_words),
        _at_most("words", n, 100_000),
        _at_least("mean word length", mean_length, 3.0),
        _at_most("mean word length", mean_length, 10.0),
        _at_most("hash signs a word", text.count("#") / n, 0.1),
        _at_most("ellipses a word", sum(map(text.count, ELLIPSES)) / n, 0.1),
        _at_least("words with a letter", sum(any(map(str.isalpha, word)) for word in words) / n, 0.8),
        _at_least("different stop words", len(STOP_WORDS & set(re.findall(r"\w+", text.lower()))), 2),
    ]


def _lines(text: str) -> list[Finding]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [
        _at_most("lines that begin with a bullet", sum(line.startswith(BULLETS) for line in lines) / len(lines), 0.9),
        _at_most("lines that end with an ellipsis", sum(line.endswith(ELLIPSES) for line in lines) / len(lines), 0.3),
    ]


def _sentences(text: str) -> list[Finding]:
    return [
        _at_least("sentences", len(SENTENCE_END.findall(text)), 3),  # 5 in the first version of the paper
        _at_most("curly brackets", text.count("{") + text.count("}"), 0),
        _at_most("lorem ipsum", text.lower().count("lorem ipsum"), 0),
    ]


def _repetitions(text: str, words: Sequence[str]) -> list[Finding]:
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = []
    for name, parts in ("lines", lines), ("paragraphs", paragraphs):
        copies = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
        found.append(_at_most(f"repeated {name}", len(copies) / len(parts), 0.3))
        share = sum(map(len, copies)) / sum(map(len, parts))
        found.append(_at_most(f"characters in repeated {name}", share, 0.2))
    for n, limit in TOP_GRAM.items():
        found.append(_at_most(f"characters in the most frequent {n}-gram", top_gram_share(words, n), limit))
    for n, limit in REPEATED_GRAMS.items():
        found.append(_at_most(f"characters in repeated {n}-grams", repeated_grams_share(words, n), limit))
    return found


def top_gram_share(words: Sequence[str], n: int) -> float:
    """Share of the words' characters that lie in the most frequent run of n words; 0 where none comes twice.

    Of runs that are equally frequent, the one with most characters counts.

    >>> top_gram_share("a rose is a rose".split(), 2)  # a rose, twice: 10 of 12 characters
    0.8333333333333334
    """
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(grams)
    top = max(counts, key=lambda gram: (counts[gram], sum(map(len, gram))), default=None)
    if top is None or counts[top] < 2:
        return 0.0
    return _covered(words, [i for i, gram in enumerate(grams) if gram == top], n)


def repeated_grams_share(words: Sequence[str], n: int) -> float:
    """Share of the words' characters in runs of n words that have come before; where runs overlap, counted once.

    >>> repeated_grams_share("a rose is a rose".split(), 2)
    0.4166666666666667
    """
    seen: set[tuple[str, ...]] = set()
    starts = []
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            starts.append(i)
        seen.add(gram)
    return _covered(words, starts, n)


def _covered(words: Sequence[str], starts: Sequence[int], n: int) -> float:
    places = {i for start in starts for i in range(start, start + n)}
    return sum(len(words[i]) for i in places) / sum(map(len, words))
