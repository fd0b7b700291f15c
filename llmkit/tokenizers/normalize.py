"""SentencePiece's normalisation: one form for characters that look alike, one space, and a space before the first word.

Sources: google/sentencepiece:src/normalizer.cc; the double-array trie is s-yata/darts-clone's.
"""

import re
import struct
import unicodedata

SPACE = "\u2581"  # ▁, which stands for the space in pieces
_DROPPED = {*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F}
_TO_SPACE = {0x09, 0x0A, 0x0C, 0x0D, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD}
_BEYOND_ASCII = re.compile("[ -~]?[^ -~]+")
_ANYTHING = re.compile(r"\S+|\s+")
_NMT = {**dict.fromkeys(_DROPPED, None), **dict.fromkeys(_TO_SPACE, " ")}


def nmt_nfkc(text: str) -> str:
    """Drop control characters, make every kind of white space a space, then NFKC: "ﬁ" becomes "fi", "①" becomes "1".

    >>> nmt_nfkc("ﬁne\\tⅣ")
    'fine IV'
    """
    return unicodedata.normalize("NFKC", text.translate(_NMT))


def mark_spaces(text: str, add_prefix: bool = True, squeeze: bool = True) -> str:
    """Make spaces visible: "Hello world" becomes "▁Hello▁world".

    squeeze     drop spaces at both ends and keep one of several in a row
    add_prefix  put a space in front, so that a word is the same piece at the beginning of a text and inside it

    >>> mark_spaces("  the  cat ")
    '▁the▁cat'
    """
    if squeeze:
        text = re.sub(" +", " ", text).strip(" ")
    if add_prefix and (text or not squeeze):
        text = " " + text
    text = text.replace(" ", SPACE)
    return text.rstrip(SPACE) if squeeze else text  # a ▁ that was typed counts as a space here


class CharsMap:
    """The table of replacements in a tokenizer.model: a trie of UTF-8 byte strings, each with its replacement.

    Raises ValueError for a table whose parts do not fit together.
    """

    def __init__(self, blob: bytes):
        if len(blob) < 4:
            raise ValueError("the character map is cut off")
        (size,) = struct.unpack_from("<I", blob)
        if size < 4 or size % 4 or 4 + size > len(blob):
            raise ValueError(f"the character map announces a trie of {size} bytes and has {len(blob) - 4}")
        self._units = struct.unpack_from(f"<{size // 4}I", blob, 4)
        self._texts = blob[4 + size :]
        self._known: dict[str, str] = {}
        keeps_ascii = all(self._longest_match(bytes([b]), 0) == (0, 0) for b in range(0x20, 0x7F))
        self._runs = _BEYOND_ASCII if keeps_ascii else _ANYTHING  # case folding maps replace A to Z too

    def replace(self, text: str) -> str:
        """The text with the longest match at each place replaced; what matches nothing stays.

        In most maps printable ASCII stays as it is, except where a mark for the letter follows, and only the rest
        is looked up.
        """
        return self._runs.sub(self._replace_run, text)

    def _replace_run(self, match: re.Match) -> str:
        run = match[0]
        if run not in self._known:
            if len(self._known) >= 100_000:
                self._known.clear()
            self._known[run] = self._look_up(run)
        return self._known[run]

    def _look_up(self, text: str) -> str:
        data, at, out = text.encode("utf-8"), 0, []
        starts = _character_starts(data)
        while at < len(data):
            length, value = self._longest_match(data, at)
            if length:
                out.append(self._texts[value : self._texts.index(b"\0", value)])
            else:
                length = starts[at]
                out.append(data[at : at + length])
            at += length
        return b"".join(out).decode("utf-8")

    def _longest_match(self, data: bytes, at: int) -> tuple[int, int]:
        """(length in bytes, where its replacement begins) of the longest key that begins at `at`; (0, 0) if none."""
        units, found = self._units, (0, 0)
        node = _offset(units[0])
        for i in range(at, len(data)):
            node ^= data[i]
            if node >= len(units):
                break
            unit = units[node]
            if unit & 0x800000FF != data[i]:
                break
            node ^= _offset(unit)
            if unit >> 8 & 1:
                found = (i + 1 - at, units[node] & 0x7FFFFFFF)
        return found


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _character_starts(data: bytes) -> dict[int, int]:
    """Where each character of UTF-8 begins -> its number of bytes."""
    starts = [i for i, b in enumerate(data) if b & 0xC0 != 0x80]
    return {a: b - a for a, b in zip(starts, [*starts[1:], len(data)], strict=True)}
