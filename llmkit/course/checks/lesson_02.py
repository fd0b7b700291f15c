"""Lesson 02: byte-pair encoding, WordPiece, Unigram, and special tokens that users cannot type."""

import math
import random

import regex

from llmkit.course.exercise import Case, Exercise
from llmkit.tokenizers.base import split_special
from llmkit.tokenizers.bpe import count_pairs, merge, train_bpe_simple
from llmkit.tokenizers.unigram import em_step, expected_counts, viterbi
from llmkit.tokenizers.wordpiece import wordpiece_split

WORDS = {"cat": 6, "cats": 2, "hat": 4, "that": 3}


# --- 2.1 by hand ---


def second_merge() -> str:
    letters = sorted({letter for word in WORDS for letter in word})
    symbols = {tuple(letters.index(letter) for letter in word): n for word, n in WORDS.items()}
    pieces = list(letters)
    for left, right in train_bpe_simple(symbols, len(letters), 2):
        pieces.append(pieces[left] + pieces[right])
    return pieces[-1]


# --- 2.2 count_pairs ---


def _words(seed: int, n_words: int) -> dict[tuple[int, ...], int]:
    rng = random.Random(seed)
    return {tuple(rng.randrange(4) for _ in range(rng.randrange(1, 7))): rng.randrange(1, 9) for _ in range(n_words)}


def count_cases() -> list[Case]:
    return [
        Case("two words", lambda: ({(1, 2, 3): 5, (1, 2): 1},)),
        Case("a pair that overlaps itself", lambda: ({(7, 7, 7): 2},)),
        Case("words of one symbol hold no pair", lambda: ({(1,): 9, (2, 1): 1},)),
        Case("no words", lambda: ({},)),
        Case("many words", lambda: (_words(1, 40),)),
    ]


def count_each_word_once(words):
    return count_pairs(dict.fromkeys(words, 1))


def count_overwrites(words):
    pairs = {}
    for word, count in words.items():
        for pair in zip(word, word[1:], strict=False):
            pairs[pair] = count
    return pairs


def count_without_overlap(words):
    pairs = {}
    for word, count in words.items():
        i = 0
        while i + 1 < len(word):
            pair = word[i], word[i + 1]
            pairs[pair] = pairs.get(pair, 0) + count
            i += 2 if pair[0] == pair[1] else 1
    return pairs


def count_every_second(words):
    pairs = {}
    for word, count in words.items():
        for i in range(0, len(word) - 1, 2):
            pairs[word[i], word[i + 1]] = pairs.get((word[i], word[i + 1]), 0) + count
    return pairs


def count_pair_once_a_word(words):
    pairs = {}
    for word, count in words.items():
        for pair in set(zip(word, word[1:], strict=False)):
            pairs[pair] = pairs.get(pair, 0) + count
    return pairs


def count_forgets_the_last(words):
    pairs = {}
    for word, count in words.items():
        for i in range(len(word) - 2):
            pairs[word[i], word[i + 1]] = pairs.get((word[i], word[i + 1]), 0) + count
    return pairs


# --- 2.3 merge ---


def merge_cases() -> list[Case]:
    cases = [
        Case("the example", lambda: ([1, 2, 3, 1, 2], (1, 2), 4)),
        Case("nothing to merge", lambda: ([1, 3, 2], (1, 2), 4)),
        Case("occurrences do not overlap", lambda: ([1, 1, 1], (1, 1), 9)),
        Case("four in a row", lambda: ([1, 1, 1, 1], (1, 1), 9)),
        Case("a pair at the very end", lambda: ([3, 1, 2], (1, 2), 4)),
        Case("half a pair at the end", lambda: ([1, 2, 1], (1, 2), 4)),
        Case("the merged symbol is not merged again", lambda: ([1, 2, 2], (1, 2), 1)),
        Case("nothing at all", lambda: ([], (1, 2), 4)),
    ]
    rng = random.Random(2)
    for _ in range(10):
        ids = [rng.randrange(3) for _ in range(rng.randrange(1, 15))]
        cases.append(Case("random ids", lambda ids=tuple(ids): (list(ids), (1, 2), 7)))
    return cases


def merge_keeps_the_second(ids, pair, new_id):
    merged = []
    for i, symbol in enumerate(ids):
        both = i + 1 < len(ids) and (symbol, ids[i + 1]) == pair
        merged.append(new_id if both else symbol)
    return merged


def merge_first_only(ids, pair, new_id):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return list(ids)


def merge_forgets_the_last(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids) - 1:
        both = (ids[i], ids[i + 1]) == pair
        merged.append(new_id if both else ids[i])
        i += 2 if both else 1
    return merged


def merge_again(ids, pair, new_id):
    ids, i = list(ids), 0
    while i + 1 < len(ids):
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new_id]
        else:
            i += 1
    return ids


def merge_either_order(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        both = i + 1 < len(ids) and {ids[i], ids[i + 1]} == set(pair)
        merged.append(new_id if both else ids[i])
        i += 2 if both else 1
    return merged


def merge_nothing(ids, pair, new_id):
    """What comes of `ids[i : i + 2] == pair`."""
    return list(ids)


def merge_in_place(ids, pair, new_id):
    i = 0
    while i + 1 < len(ids):
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new_id]
        i += 1
    return ids


# --- 2.4 bpe_encode (find the bug) ---

_MERGES = {(2, 3): 10, (1, 2): 11, (11, 3): 12, (10, 1): 13, (13, 10): 14, (1, 1): 15}


def encode_cases() -> list[Case]:
    cases = [
        Case("the merge learned first wins, not the leftmost", lambda: ([1, 2, 3], {(2, 3): 10, (1, 2): 11})),
        Case("a merged piece is merged on", lambda: ([2, 3, 1, 2, 3], dict(_MERGES))),
        Case("a pair that occurs twice", lambda: ([1, 2, 9, 1, 2], {(1, 2): 5})),
        Case("three of the same", lambda: ([1, 1, 1], {(1, 1): 4})),
        Case("the longest piece does not win", lambda: ([1, 2, 3], {(2, 3): 10, (1, 2): 11, (11, 3): 12})),
        Case("one symbol", lambda: ([5], dict(_MERGES))),
        Case("no symbols", lambda: ([], dict(_MERGES))),
        Case("no merges", lambda: ([1, 2, 3], {})),
        Case("a pair with the smallest ids that was learned late", lambda: ([1, 2, 5], {(2, 5): 8, (1, 2): 9})),
        Case("the dict is in another order than the ids", lambda: ([1, 2, 3], {(1, 2): 11, (2, 3): 10})),
        Case("a pair with the smallest ids that was learned early", lambda: ([1, 2, 3], {(1, 2): 10, (2, 3): 11})),
    ]
    rng = random.Random(3)
    for _ in range(20):
        ids = tuple(rng.randrange(1, 4) for _ in range(rng.randrange(2, 10)))
        cases.append(Case("random ids", lambda ids=ids: (list(ids), dict(_MERGES))))
    return cases


def encode_leftmost_first(ids, merges):
    ids, i = list(ids), 0
    while i + 1 < len(ids):
        pair = ids[i], ids[i + 1]
        if pair in merges:
            ids[i : i + 2] = [merges[pair]]
            i = 0
        else:
            i += 1
    return ids


def encode_latest_first(ids, merges):
    ids = list(ids)
    while possible := [(merges[p], p) for p in zip(ids, ids[1:], strict=False) if p in merges]:
        new_id, pair = max(possible)
        ids = merge(ids, pair, new_id)
    return ids


def encode_one_pass(ids, merges):
    ids = list(ids)
    possible = [(merges[p], p) for p in zip(ids, ids[1:], strict=False) if p in merges]
    return merge(ids, min(possible)[1], min(possible)[0]) if possible else ids


def encode_in_dict_order(ids, merges):
    for pair, new_id in merges.items():
        ids = merge(ids, pair, new_id)
    return ids


def encode_smallest_pair_first(ids, merges):
    ids = list(ids)
    while possible := [p for p in zip(ids, ids[1:], strict=False) if p in merges]:
        ids = merge(ids, min(possible), merges[min(possible)])
    return ids


# --- 2.5 wordpiece_split ---

_VOCAB = frozenset(
    ["[UNK]", "un", "##aff", "##able", "##a", "##f", "u", "play", "##ing", "##in", "ing", "p", "##l", "able"]
)


def wordpiece_cases() -> list[Case]:
    return [
        Case("two pieces", lambda: ("playing", _VOCAB)),
        Case("the longest piece first, again and again", lambda: ("unaffable", _VOCAB)),
        Case("a whole word", lambda: ("play", _VOCAB)),
        Case("inside a word only ## pieces count", lambda: ("uning", frozenset(["un", "ing", "[UNK]"]))),
        Case("at the beginning ## pieces do not count", lambda: ("aff", frozenset(["##aff", "[UNK]"]))),
        Case("one place without a piece: all of the word is unknown", lambda: ("plays", _VOCAB)),
        Case("greedy from the left has no second thoughts", lambda: ("abc", frozenset(["ab", "a", "##bc", "[UNK]"]))),
        Case("the empty word", lambda: ("", _VOCAB)),
        Case("another name for unknown", lambda: ("xyz", _VOCAB, "<unk>")),
        Case("as long as is allowed", lambda: ("aaaaa", frozenset(["a", "##a"]), "[UNK]", 5)),
        Case("longer than is allowed", lambda: ("aaaaaa", frozenset(["a", "##a"]), "[UNK]", 5)),
        Case("100 characters are allowed by default", lambda: ("a" * 100, frozenset(["a", "##a"]))),
        Case("101 are not", lambda: ("a" * 101, frozenset(["a", "##a"]))),
    ]


def wordpiece_shortest_first(word, vocab, unk="[UNK]", max_chars=100):
    pieces, start = [], 0
    while start < len(word) <= max_chars:
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return [unk]
    return pieces if len(word) <= max_chars else [unk]


def wordpiece_without_marks(word, vocab, unk="[UNK]", max_chars=100):
    pieces, start = [], 0
    while start < len(word) <= max_chars:
        for end in range(len(word), start, -1):
            if word[start:end] in vocab:
                pieces.append(word[start:end])
                start = end
                break
        else:
            return [unk]
    return pieces if len(word) <= max_chars else [unk]


def wordpiece_marks_dropped(word, vocab, unk="[UNK]", max_chars=100):
    return [piece.removeprefix("##") for piece in wordpiece_split(word, vocab, unk, max_chars)]


def wordpiece_unknown_part(word, vocab, unk="[UNK]", max_chars=100):
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
            return [*pieces, unk]
    return pieces


def wordpiece_no_limit(word, vocab, unk="[UNK]", max_chars=100):
    return wordpiece_split(word, vocab, unk, len(word))


def wordpiece_limit_too_low(word, vocab, unk="[UNK]", max_chars=100):
    return wordpiece_split(word, vocab, unk, max_chars - 1) if word else []


def wordpiece_goes_on(word, vocab, unk="[UNK]", max_chars=100):
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
            pieces.append(unk)
            start += 1
    return pieces


def wordpiece_second_thoughts(word, vocab, unk="[UNK]", max_chars=100):
    def cut(start):
        if start == len(word):
            return []
        for end in range(len(word), start, -1):
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            rest = cut(end) if piece in vocab else None
            if rest is not None:
                return [piece, *rest]
        return None

    pieces = cut(0) if len(word) <= max_chars else None
    return [unk] if pieces is None else pieces


def wordpiece_fixed_name(word, vocab, unk="[UNK]", max_chars=100):
    return wordpiece_split(word, vocab, "[UNK]", max_chars)


def wordpiece_unknown_empty(word, vocab, unk="[UNK]", max_chars=100):
    return wordpiece_split(word, vocab, unk, max_chars) or [unk]


# --- 2.6 viterbi ---

_ABC = {"a": -1.0, "b": -1.0, "c": -1.0, "ab": -1.5, "bc": -3.0, "abc": -4.0}


def viterbi_cases() -> list[Case]:
    cases = [
        Case("two pieces beat three", lambda: ("abc", dict(_ABC))),
        Case(
            "the longest piece is not the best",
            lambda: ("abc", {"a": -1.0, "bc": -1.0, "ab": -0.5, "c": -5.0, "abc": -9.0}),
        ),
        Case("greedy from the left is wrong", lambda: ("abc", {"ab": -1.0, "c": -9.0, "a": -2.0, "bc": -2.0})),
        Case("the fewest pieces are not the best", lambda: ("ab", {"a": -0.1, "b": -0.1, "ab": -5.0})),
        Case("the empty text", lambda: ("", dict(_ABC))),
        Case("a text that cannot be cut", lambda: ("abx", dict(_ABC))),
        Case("an unknown character at a price", lambda: ("axb", dict(_ABC), -20.0)),
        Case("two unknown characters are two pieces", lambda: ("axyb", dict(_ABC), -20.0)),
        Case("a piece rarer than unk keeps its own score", lambda: ("ab", {"a": -30.0, "b": -1.0}, -20.0)),
        Case("equal cuts: the longer last piece wins", lambda: ("aaa", {"a": -1.0, "aa": -2.0})),
        Case(
            "pieces of up to 16 characters are found", lambda: ("a" * 16 + "b", {"a" * 16: -1.0, "b": -1.0, "a": -3.0})
        ),
        Case(
            "pieces of more than `longest` are not", lambda: ("abcd", {"abcd": -1.0, "abc": -1.0, "d": -1.0}, -50.0, 3)
        ),
        Case("exactly `longest` is allowed", lambda: ("abc", {"abc": -1.0, "a": -9.0}, -50.0, 3)),
    ]
    cases.append(Case("a long word: trying all cuts would take years", lambda: ("abc" * 20, dict(_ABC))))
    rng = random.Random(5)
    for _ in range(15):
        text = "".join(rng.choice("abc") for _ in range(rng.randrange(1, 9)))
        pieces = {text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1) if rng.random() < 0.5}
        scores = {piece: -rng.uniform(0.5, 6) for piece in sorted(pieces | set("abc"))}
        cases.append(Case("random pieces", lambda text=text, scores=scores: (text, dict(scores))))
    return cases


def viterbi_greedy(text, log_probs, unk=-math.inf, longest=16):
    pieces, total, start = [], 0.0, 0
    while start < len(text):
        ends = [e for e in range(min(len(text), start + longest), start, -1) if text[start:e] in log_probs]
        end = ends[0] if ends else start + 1
        if not ends and unk == -math.inf:
            return [], -math.inf
        pieces.append(text[start:end])
        total += log_probs.get(text[start:end], unk)
        start = end
    return pieces, total


def viterbi_fewest_pieces(text, log_probs, unk=-math.inf, longest=16):
    equal = dict.fromkeys(log_probs, -1.0)
    pieces, _ = viterbi(text, equal, -1000.0 if unk > -math.inf else unk, longest)
    return pieces, math.fsum(log_probs.get(piece, unk) for piece in pieces) if pieces or not text else -math.inf


def viterbi_reversed(text, log_probs, unk=-math.inf, longest=16):
    pieces, score = viterbi(text, log_probs, unk, longest)
    return pieces[::-1], score


def viterbi_last_wins(text, log_probs, unk=-math.inf, longest=16):
    best, begin = [0.0] + [-math.inf] * len(text), [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            score = log_probs.get(text[start:end], unk if end - start == 1 else -math.inf)
            if score > -math.inf and best[start] > -math.inf and best[start] + score >= best[end]:
                best[end], begin[end] = best[start] + score, start
    if best[-1] == -math.inf:
        return [], -math.inf
    pieces, end = [], len(text)
    while end:
        pieces.append(text[begin[end] : end])
        end = begin[end]
    return pieces[::-1], best[-1]


def viterbi_large_number_for_infinity(text, log_probs, unk=-math.inf, longest=16):
    best, begin = [0.0] + [-1e9] * len(text), [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            score = log_probs.get(text[start:end], unk if end - start == 1 else -math.inf)
            if best[start] + score > best[end]:
                best[end], begin[end] = best[start] + score, start
    pieces, end = [], len(text)
    while end:
        pieces.append(text[begin[end] : end])
        end = begin[end]
    return pieces[::-1], best[-1]


def viterbi_pieces_only(text, log_probs, unk=-math.inf, longest=16):
    return viterbi(text, log_probs, unk, longest)[0]


def viterbi_best_piece_first(text, log_probs, unk=-math.inf, longest=16):
    pieces, total, start = [], 0.0, 0
    while start < len(text):
        ends = [e for e in range(start + 1, min(len(text), start + longest) + 1) if text[start:e] in log_probs]
        end = max(ends, key=lambda e: (log_probs[text[start:e]], e)) if ends else start + 1
        if not ends and unk == -math.inf:
            return [], -math.inf
        pieces.append(text[start:end])
        total += log_probs.get(text[start:end], unk)
        start = end
    return pieces, total


def viterbi_without_unk(text, log_probs, unk=-math.inf, longest=16):
    return viterbi(text, log_probs, -math.inf, longest)


def viterbi_unk_of_any_length(text, log_probs, unk=-math.inf, longest=16):
    spans = {text[i:j] for i in range(len(text)) for j in range(i + 1, min(len(text), i + longest) + 1)}
    return viterbi(text, {span: log_probs.get(span, unk) for span in spans}, unk, longest)


def viterbi_unk_if_better(text, log_probs, unk=-math.inf, longest=16):
    raised = {piece: max(p, unk) if len(piece) == 1 else p for piece, p in log_probs.items()}
    return viterbi(text, raised, unk, longest)


def viterbi_names_unk(text, log_probs, unk=-math.inf, longest=16):
    pieces, score = viterbi(text, log_probs, unk, longest)
    return [piece if piece in log_probs else "[UNK]" for piece in pieces], score


def viterbi_one_short(text, log_probs, unk=-math.inf, longest=16):
    return viterbi(text, log_probs, unk, longest - 1)


def viterbi_any_length(text, log_probs, unk=-math.inf, longest=16):
    return viterbi(text, log_probs, unk, max(len(text), 1))


def viterbi_pieces_without_a_way(text, log_probs, unk=-math.inf, longest=16):
    pieces, score = viterbi(text, log_probs, unk, longest)
    return (pieces, score) if score > -math.inf else ([text], score)


# --- 2.7 split_special ---


def special_cases() -> list[Case]:
    names = ["<|end|>", "<|start|>"]
    return [
        Case("one in the middle", lambda: ("Hi<|end|>you", list(names))),
        Case("no special tokens: one piece, whatever it holds", lambda: ("Hi<|end|>you", [])),
        Case("two in a row", lambda: ("<|start|><|start|>a", list(names))),
        Case("alone", lambda: ("<|end|>", list(names))),
        Case("at the end", lambda: ("bye<|end|>", list(names))),
        Case("names are text, not patterns", lambda: ("a.c+b|d", ["a?c", ".", "+", "|"])),
        Case("where two begin together the longer wins", lambda: ("x<a><a>b", ["<a>", "<a>b"])),
        Case("the longer wins whatever the order of the list", lambda: ("<a>b<a>", ["<a>b", "<a>"])),
        Case("of two that overlap the one that begins first wins", lambda: ("x<a>bcd", ["<a>", ">bcd"])),
        Case("the empty text", lambda: ("", list(names))),
        Case("the empty text, nothing special", lambda: ("", [])),
        Case("something that only looks like one", lambda: ("<|END|> <|end| >", list(names))),
        Case("line ends stay", lambda: ("a\n<|end|>\nb", list(names))),
    ]


def special_names_as_patterns(text, special):
    if not special:
        return [text] if text else []
    pattern = "(" + "|".join(sorted(special, key=len, reverse=True)) + ")"
    return [piece for piece in regex.split(pattern, text) if piece]


def special_shortest_first(text, special):
    if not special:
        return [text] if text else []
    pattern = "(" + "|".join(regex.escape(t) for t in sorted(special, key=len)) + ")"
    return [piece for piece in regex.split(pattern, text) if piece]


def special_lost(text, special):
    names = set(special)
    return [piece for piece in split_special(text, special) if piece not in names]


def special_keeps_empty(text, special):
    if not special:
        return [text]
    pattern = "(" + "|".join(regex.escape(t) for t in sorted(special, key=len, reverse=True)) + ")"
    return regex.split(pattern, text)


def special_always(text, special):
    return split_special(text, [*special, *regex.findall(r"<\|\w+\|>", text)])


def special_one_after_another(text, special):
    names, pieces = sorted(special, key=len, reverse=True), [text] if text else []
    for name in names:
        cut = []
        for piece in pieces:
            cut += [piece] if piece in special else split_special(piece, [name])
        pieces = cut
    return pieces


def special_empty_pattern(text, special):
    pattern = "(" + "|".join(regex.escape(t) for t in sorted(special, key=len, reverse=True)) + ")"
    return [piece for piece in regex.split(pattern, text) if piece]


def special_empty_text(text, special):
    return split_special(text, special) if special else [text]


# --- 2.8 em_step ---


def em_cases() -> list[Case]:
    def probs(**pieces):
        return {piece: math.log(p) for piece, p in pieces.items()}

    rng = random.Random(6)
    words = {"".join(rng.choice("ab") for _ in range(rng.randrange(1, 6))): rng.randrange(1, 9) for _ in range(12)}
    return [
        Case("one word", lambda: ({"ab": 3}, probs(a=0.5, b=0.4, ab=0.1))),
        Case("two words, seen 3 times and once", lambda: ({"ab": 3, "b": 1}, probs(a=0.5, b=0.4, ab=0.1))),
        Case("a piece that is in no word disappears", lambda: ({"a": 2}, probs(a=0.5, zz=0.5))),
        Case("a piece that is never expected is left out", lambda: ({"ab": 1}, probs(a=0.5, b=0.5) | {"ab": -2000.0})),
        Case("many words", lambda: (dict(words), probs(a=0.2, b=0.3, ab=0.1, ba=0.1, aa=0.1, bab=0.2))),
    ]


def em_each_word_once(words, log_probs):
    return em_step(dict.fromkeys(words, 1), log_probs)


def em_best_cut_only(words, log_probs):
    counts, total = {}, 0.0
    for word, n in words.items():
        pieces, score = viterbi(word, log_probs)
        total += n * score
        for piece in pieces:
            counts[piece] = counts.get(piece, 0) + n
    return {piece: math.log(c / sum(counts.values())) for piece, c in counts.items()}, total


def em_not_normalised(words, log_probs):
    counts = {}
    for word, n in words.items():
        for piece, count in expected_counts(word, log_probs)[0].items():
            counts[piece] = counts.get(piece, 0.0) + n * count
    return {piece: math.log(count) for piece, count in counts.items() if count > 0}, em_step(words, log_probs)[1]


def em_probabilities(words, log_probs):
    new, total = em_step(words, log_probs)
    return {piece: math.exp(p) for piece, p in new.items()}, total


def em_divides_by_words(words, log_probs):
    new, total = em_not_normalised(words, log_probs)
    return {piece: p - math.log(sum(words.values())) for piece, p in new.items()}, total


def em_counts_once(words, log_probs):
    return em_step(dict.fromkeys(words, 1), log_probs)[0], em_step(words, log_probs)[1]


def em_log_prob_once(words, log_probs):
    return em_step(words, log_probs)[0], em_step(dict.fromkeys(words, 1), log_probs)[1]


def em_keeps_all_pieces(words, log_probs):
    new, total = em_step(words, log_probs)
    return dict.fromkeys(log_probs, -math.inf) | new, total


def em_log_of_zero(words, log_probs):
    counts = {}
    for word, n in words.items():
        for piece, count in expected_counts(word, log_probs)[0].items():
            counts[piece] = counts.get(piece, 0.0) + n * count
    whole = math.fsum(counts.values())
    return {piece: math.log(count / whole) for piece, count in counts.items()}, em_step(words, log_probs)[1]


EXERCISES = [
    Exercise(
        number="2.1",
        name="second_merge",
        reference=second_merge,
        hints=(
            "First merge: go through every pair of neighbours and add the counts of the words that hold it.",
            'After the first merge "at" is one symbol, so cat is c, at and that is t, h, at. Count the pairs again.',
        ),
        wrong={
            "that is the first merge; what comes next, once it is one symbol?": lambda: "at",
            'the pair c, a is gone: after the first merge its a is part of "at"': lambda: "ca",
            'the pair h, a is gone: after the first merge its a is part of "at"': lambda: "ha",
            "close: that pair is seen in two words as well. Add up how often those words occur": lambda: "hat",
        },
    ),
    Exercise(
        number="2.2",
        name="count_pairs",
        reference="llmkit.tokenizers.bpe:count_pairs",
        cases=count_cases,
        hints=(
            "zip(word, word[1:]) gives every two neighbours of a word.",
            "A word that was seen 5 times adds 5 to each of its pairs, and twice 5 where it holds the pair twice.",
        ),
        wrong={
            "every word was counted once; it counts as often as it was seen": count_each_word_once,
            "a later word overwrites the count of an earlier one: add to it": count_overwrites,
            "pairs overlap: (7, 7, 7) holds (7, 7) twice": count_without_overlap,
            "every second pair is missing: a symbol is the end of one pair and the beginning of the next": count_every_second,
            "a word that holds a pair twice adds its count twice": count_pair_once_a_word,
            "the last pair of each word is missing: n symbols have n - 1 pairs": count_forgets_the_last,
        },
    ),
    Exercise(
        number="2.3",
        name="merge",
        reference="llmkit.tokenizers.bpe:merge",
        cases=merge_cases,
        hints=(
            "Walk with an index i; after a merge go on two places, otherwise one.",
            "At the last place there is no neighbour to look at, but its symbol must still be kept.",
        ),
        wrong={
            "the second half of a merged pair is still there: go on two places after a merge": merge_keeps_the_second,
            "only the first occurrence was merged": merge_first_only,
            "the last symbol is lost": merge_forgets_the_last,
            "the new symbol was merged again with what follows; go on behind it": merge_again,
            "the order matters: (2, 1) is not the pair (1, 2)": merge_either_order,
            "nothing is merged: a piece of a list never equals a tuple; compare two tuples": merge_nothing,
            "the list that came in is changed; build a new one": merge_in_place,
        },
    ),
    Exercise(
        number="2.4",
        name="bpe_encode",
        reference="llmkit.tokenizers.bpe:bpe_encode",
        cases=encode_cases,
        starts_from=encode_leftmost_first,
        hints=(
            "Training made the merges in an order. What would training have merged first in this word?",
            "Among all neighbours that can be merged, find the one with the smallest new id; merge() replaces all of it.",
            "min((merges[pair], pair) for pair in …) finds id and pair at once; repeat until nothing can be merged.",
        ),
        wrong={
            "the leftmost pair is merged first; it must be the pair that was learned first": encode_leftmost_first,
            "the pair learned last is merged first: a smaller id was learned earlier": encode_latest_first,
            "only one merge was made; go on until none is possible": encode_one_pass,
            "the merges are tried in the order of the dict; what counts is the id, smaller ones first": encode_in_dict_order,
            "the pair with the smallest symbols is merged first; compare the ids that pairs become": (
                encode_smallest_pair_first
            ),
        },
    ),
    Exercise(
        number="2.5",
        name="wordpiece_split",
        reference="llmkit.tokenizers.wordpiece:wordpiece_split",
        cases=wordpiece_cases,
        hints=(
            "From `start`, try the ends from len(word) down to start + 1; take the first piece that is in the vocabulary.",
            'The piece to look up is word[start:end] at the beginning and "##" + word[start:end] after it.',
            "A for loop has an else branch that runs when no break happened: there the whole word is unknown.",
        ),
        wrong={
            "the shortest piece is taken; take the longest that fits": wordpiece_shortest_first,
            "inside a word pieces are looked up with ## in front": wordpiece_without_marks,
            "the pieces come back with their ##": wordpiece_marks_dropped,
            "where one part is unknown, the whole word is [UNK], not only the rest": wordpiece_unknown_part,
            "a word of more than max_chars characters is [UNK]": wordpiece_no_limit,
            "a word of exactly max_chars characters is still cut": wordpiece_limit_too_low,
            "after the unknown part the word is cut on; one place without a piece makes all of it [UNK]": wordpiece_goes_on,
            "this goes back and tries a shorter piece; the longest piece stays, even if the rest then has none": (
                wordpiece_second_thoughts
            ),
            "the unknown token has the name that `unk` gives": wordpiece_fixed_name,
            "the empty word has no pieces, not an unknown one": wordpiece_unknown_empty,
        },
    ),
    Exercise(
        number="2.6",
        name="viterbi",
        reference="llmkit.tokenizers.unigram:viterbi",
        cases=viterbi_cases,
        hints=(
            "best = [0.0] + [-inf] * len(text): best[i] is the score of the best cut of text[:i]. Fill it from left to right.",
            "best[end] is the maximum over start of best[start] + log P(text[start:end]); remember the start that won.",
            "A single character that is no piece has the score `unk`; a longer text that is no piece cannot be used.",
            "At the end, walk back: the last piece begins at begin[len(text)], the one before at begin[of that], and so on.",
        ),
        wrong={
            "this takes the longest piece from the left; a better cut may begin with a shorter one": viterbi_greedy,
            "this finds the fewest pieces; find the largest sum of log-probabilities": viterbi_fewest_pieces,
            "the pieces come out backwards: you walk from the end, so turn the list around": viterbi_reversed,
            "of equal cuts the one with the longer last piece wins: replace only what is strictly better": viterbi_last_wins,
            "return both: the pieces and their log-probability": viterbi_pieces_only,
            "a text that cannot be cut gives ([], -inf): begin with -math.inf, not with a large negative number": (
                viterbi_large_number_for_infinity
            ),
            "this takes the most probable piece at each place; a cut counts as a whole": viterbi_best_piece_first,
            "a single character that is no piece may be used, at the score `unk`": viterbi_without_unk,
            "`unk` is for single characters; a longer text that is no piece cannot be used": viterbi_unk_of_any_length,
            "`unk` is for characters that are no piece; one that is keeps its own score, however low": viterbi_unk_if_better,
            "a character that is no piece comes back as it is, not under another name": viterbi_names_unk,
            "pieces of exactly `longest` characters are looked for as well": viterbi_one_short,
            "pieces of more than `longest` characters are used": viterbi_any_length,
            "pieces come back for a text that cannot be cut: where its score is -inf, return ([], -inf)": (
                viterbi_pieces_without_a_way
            ),
        },
    ),
    Exercise(
        number="2.7",
        name="split_special",
        reference="llmkit.tokenizers.base:split_special",
        cases=special_cases,
        hints=(
            "regex.split with a group, as in regex.split('(a|b)', text), keeps what it splits at.",
            "regex.escape makes a name match itself: in a pattern | and . and + have a meaning of their own.",
            "Of several alternatives the first that fits is taken, so put the longest first. Drop empty pieces.",
        ),
        wrong={
            "names are used as patterns; escape them": special_names_as_patterns,
            "where two begin at the same place, the longer one wins": special_shortest_first,
            "the special tokens themselves are lost": special_lost,
            "empty pieces are left in": special_keeps_empty,
            "the names are looked for one after the other; go from left to right, and look for all at once": (
                special_one_after_another
            ),
            "with no names the pattern is empty and fits between any two letters; return the text whole": (
                special_empty_pattern
            ),
            "the empty text has no pieces: the list is empty": special_empty_text,
            "whatever looks like <|…|> is taken for special; only the names in `special` are. This is how users "
            "could smuggle control tokens in": special_always,
        },
    ),
    Exercise(
        number="2.8",
        name="em_step",
        reference="llmkit.tokenizers.unigram:em_step",
        cases=em_cases,
        tolerance=1e-9,
        hints=(
            "expected_counts(word, log_probs) does the hard part: it gives the expected counts of one word, and log P(word).",
            "Add the counts up over all words, each as often as it was seen; do the same with log P(word).",
            "New probability of a piece: its count divided by the sum of all counts. Take the logarithm.",
        ),
        wrong={
            "every word was counted once; it counts as often as it was seen": em_each_word_once,
            "only the best cut of each word was counted; weigh all cuts, with expected_counts": em_best_cut_only,
            "the counts must be divided by their sum to be probabilities": em_not_normalised,
            "these are probabilities; their logarithms are wanted": em_probabilities,
            "divide by the sum of the expected counts, not by the number of words": em_divides_by_words,
            "log P of all words is right, but in the counts every word was counted once": em_counts_once,
            "the new probabilities are right, but log P of a word counts as often as it was seen": em_log_prob_once,
            "pieces that are never expected must go, not stay with log P = -inf": em_keeps_all_pieces,
            "there is no logarithm of 0: leave out pieces whose expected count is 0": em_log_of_zero,
        },
    ),
]
