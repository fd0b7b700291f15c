"""Byte-pair encoding: merge the most frequent pair, again and again.

Source: Sennrich, Haddow and Birch 2016 (arXiv:1508.07909); on bytes: GPT-2's encoder.py.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import regex

Pair = tuple[int, int]

# What is merged never crosses these pieces. GPT-2's pattern: contractions, words with the space before them, numbers,
# punctuation, white space but for the last space, which goes to the next word.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# GPT-4's: contractions in any case, numbers in groups of three, line ends kept apart.
CL100K_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|"""
    r"""\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)


@cache
def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's table from each of the 256 bytes to a printable character.

    Bytes that print as themselves (! to ~, ¡ to ¬, ® to ÿ) stay; the other 68 become the characters from 256 on, in
    the order of the bytes. So a space (32) is shown as Ġ (288), and a newline (10) as Ċ (266).

    >>> bytes_to_unicode()[ord("A")], bytes_to_unicode()[ord(" ")]
    ('A', 'Ġ')
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)}


def count_pairs(words: Mapping[tuple[int, ...], int]) -> Counter:
    """How often each two neighbours occur, counting every word as often as it occurs.

    words   the symbols of a word -> how many times the word was seen

    Pairs overlap: (1, 1, 1) holds (1, 1) twice. Words of fewer than two symbols hold none.

    >>> count_pairs({(1, 2, 3): 5, (1, 2): 1})
    Counter({(1, 2): 6, (2, 3): 5})
    """
    pairs: Counter = Counter()
    for word, count in words.items():
        for pair in zip(word, word[1:], strict=False):
            pairs[pair] += count
    return pairs


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Replace each occurrence of a pair by one new symbol, from left to right; a new list.

    Occurrences do not overlap: in [1, 1, 1] the first two are merged and the third stays.

    >>> merge([1, 2, 3, 1, 2], (1, 2), 4)
    [4, 3, 4]
    """
    merged, i = [], 0
    while i < len(ids):
        if ids[i] == pair[0] and i + 1 < len(ids) and ids[i + 1] == pair[1]:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def train_bpe_simple(words: Mapping[tuple[int, ...], int], first_id: int, n_merges: int) -> list[Pair]:
    """Learn merges by counting all pairs anew before each; short, and slow on real text.

    The most frequent pair is merged next; among equally frequent ones the smaller pair, so that the result is the
    same on every machine. The k-th merge makes the symbol first_id + k. Ends early when no pair is left.

    >>> train_bpe_simple({(1, 2, 1, 2): 3, (2, 1): 1}, first_id=10, n_merges=2)
    [(1, 2), (10, 10)]
    """
    words, merges = dict(words), []
    for new_id in range(first_id, first_id + n_merges):
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: dict[tuple[int, ...], int] = {}
        for word, count in words.items():
            new_word = tuple(merge(word, best, new_id))
            merged[new_word] = merged.get(new_word, 0) + count
        words = merged
    return merges


def train_bpe(words: Mapping[tuple[int, ...], int], first_id: int, n_merges: int) -> list[Pair]:
    """The same merges as train_bpe_simple, but only what a merge changes is counted again.

    An index tells which words hold a pair, so a merge touches those alone. A heap holds the pairs by count. Counts of
    pairs in it can only fall; an entry whose count no longer holds is put back with the right one when it comes up.
    """
    symbols, counts = [list(word) for word in words], list(words.values())
    pairs = count_pairs(words)
    where: dict[Pair, list[int]] = {}  # a word may stand here twice, or no longer hold the pair: merging shows it
    for i, word in enumerate(symbols):
        for pair in zip(word, word[1:], strict=False):
            where.setdefault(pair, []).append(i)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        negative, best = heapq.heappop(heap)
        if pairs[best] != -negative:
            if pairs[best] > 0:
                heapq.heappush(heap, (-pairs[best], best))
            continue
        new_id = first_id + len(merges)
        merges.append(best)
        born: list[Pair] = []
        for i in where.pop(best):
            count = counts[i]
            symbols[i], gone, come = _merge_and_tell(symbols[i], best, new_id)
            for pair in gone:
                pairs[pair] -= count
            for pair in come:
                pairs[pair] += count
                if pair in where:
                    where[pair].append(i)
                else:
                    where[pair] = [i]
                    born.append(pair)
        del pairs[best]
        for pair in born:
            if pairs[pair] > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
    return merges


def _merge_and_tell(word: list[int], pair: Pair, new_id: int) -> tuple[list[int], list[Pair], list[Pair]]:
    """merge, and which neighbours that breaks up and which it brings together; the merged pair itself is left out."""
    a, b = pair
    merged: list[int] = []
    gone, come = [], []
    i, last = 0, len(word) - 1
    while i <= last:
        symbol = word[i]
        if symbol == a and i < last and word[i + 1] == b:
            if merged:
                gone.append((merged[-1], a))
                come.append((merged[-1], new_id))
            if i + 2 <= last:
                gone.append((b, word[i + 2]))
                come.append((new_id, word[i + 2]))
            merged.append(new_id)
            i += 2
        else:
            merged.append(symbol)
            i += 1
    return merged, gone, come


def bpe_encode(ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
    """Apply learned merges to the symbols of one word, the earliest learned first.

    merges   pair -> the id that it becomes; a smaller id was learned earlier

    Among all neighbours that can be merged, the pair learned first is merged everywhere in the word, then the next,
    until none is left. Not the longest piece wins, and not the leftmost, but the order of learning.

    >>> bpe_encode([1, 2, 3], {(2, 3): 10, (1, 2): 11})
    [1, 10]
    """
    while possible := [pair for pair in zip(ids, ids[1:], strict=False) if pair in merges]:
        pair = min(possible, key=merges.__getitem__)
        ids = merge(ids, pair, merges[pair])
    return list(ids)


def bpe_encode_long(ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
    """The same as bpe_encode in n log n steps, for "words" of thousands of symbols (Chinese paragraphs, base64).

    A heap holds the possible merges by rank and place; a linked list of places says who is whose neighbour now.
    """
    ids, following, before = list(ids), [*range(1, len(ids)), -1], [*range(-1, len(ids) - 1)]
    heap = [(merges[pair], i, *pair) for i, pair in enumerate(zip(ids, ids[1:], strict=False)) if pair in merges]
    heapq.heapify(heap)
    while heap:
        new_id, i, left, right = heapq.heappop(heap)
        j = following[i]
        if j < 0 or ids[i] != left or ids[j] != right:
            continue  # one of the two has been merged with another in the meantime
        ids[i], ids[j], following[i] = new_id, -1, following[j]
        if following[i] >= 0:
            before[following[i]] = i
        for a, b in ((before[i], i), (i, following[i])):
            if a >= 0 and b >= 0 and (ids[a], ids[b]) in merges:
                heapq.heappush(heap, (merges[ids[a], ids[b]], a, ids[a], ids[b]))
    return [symbol for symbol in ids if symbol >= 0]


def count_words(texts: str | Iterable[str], pattern: str = GPT2_PATTERN) -> Counter:
    """How often each piece of the pattern occurs in a text, or in several."""
    split = regex.compile(pattern).findall
    words: Counter = Counter()
    for text in [texts] if isinstance(texts, str) else texts:
        words.update(split(text))
    return words
