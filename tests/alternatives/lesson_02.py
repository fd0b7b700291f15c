"""Lesson 02: right answers written differently, and mutants that compute the same."""

import functools
import itertools
import math
import re
from collections import Counter, defaultdict

from llmkit.tokenizers.unigram import expected_counts


def pairs_with_counter(words):
    return sum((Counter({p: k * n for p, k in Counter(zip(w, w[1:])).items()}) for w, n in words.items()), Counter())  # noqa: B905


def pairs_with_indices(words):
    found = defaultdict(int)
    for word in words:
        for i in range(1, len(word)):
            found[word[i - 1], word[i]] += words[word]
    return dict(found)


def pairs_with_pairwise(words):
    found = {}
    for word, n in words.items():
        for pair in itertools.pairwise(word):
            found.setdefault(pair, 0)
            found[pair] += n
    return found


def merge_with_iterator(ids, pair, new_id):
    out = []
    for symbol in ids:
        fresh = out and out[-1] is not MARK and not isinstance(out[-1], tuple)
        if fresh and (out[-1], symbol) == pair:
            out[-1] = (new_id,)
        else:
            out.append(symbol)
    return [s[0] if isinstance(s, tuple) else s for s in out]


MARK = object()


def merge_with_slices(ids, pair, new_id):
    if len(ids) < 2:
        return list(ids)
    if tuple(ids[:2]) == tuple(pair):
        return [new_id, *merge_with_slices(ids[2:], pair, new_id)]
    return [ids[0], *merge_with_slices(ids[1:], pair, new_id)]


def merge_with_while(ids, pair, new_id):
    rest, out = list(ids)[::-1], []
    while rest:
        first = rest.pop()
        if rest and first == pair[0] and rest[-1] == pair[1]:
            rest.pop()
            first = new_id
        out.append(first)
    return out


def encode_by_rank_loop(ids, merges):
    ids = list(ids)
    for pair, new_id in sorted(merges.items(), key=lambda item: item[1]):
        i = 0
        while i + 1 < len(ids):
            if (ids[i], ids[i + 1]) == pair:
                ids[i : i + 2] = [new_id]
            i += 1
    return ids


def encode_one_at_a_time(ids, merges):
    ids = list(ids)
    while len(ids) >= 2:
        ranked = [(merges.get((ids[i], ids[i + 1]), math.inf), i) for i in range(len(ids) - 1)]
        new_id, i = min(ranked)
        if new_id == math.inf:
            return ids
        ids = ids[:i] + [new_id] + ids[i + 2 :]
    return ids


def encode_recursively(ids, merges):
    found = [p for p in zip(ids, ids[1:]) if p in merges]  # noqa: B905
    if not found:
        return list(ids)
    best = min(found, key=merges.__getitem__)
    return encode_recursively(merge_with_while(ids, best, merges[best]), merges)


def wordpiece_recursively(word, vocab, unk="[UNK]", max_chars=100):
    def cut(rest, mark):
        if not rest:
            return []
        for end in reversed(range(1, len(rest) + 1)):
            if mark + rest[:end] in vocab:
                tail = cut(rest[end:], "##")
                return None if tail is None else [mark + rest[:end], *tail]
        return None

    if len(word) > max_chars:
        return [unk]
    pieces = cut(word, "")
    return [unk] if pieces is None else pieces


def wordpiece_shrinking(word, vocab, unk="[UNK]", max_chars=100):
    if max_chars < len(word):
        return [unk]
    pieces, rest, mark = [], word, ""
    while rest:
        piece = rest
        while piece and mark + piece not in vocab:
            piece = piece[:-1]
        if not piece:
            return [unk]
        pieces.append(mark + piece)
        rest, mark = rest[len(piece) :], "##"
    return pieces


def wordpiece_next(word, vocab, unk="[UNK]", max_chars=100):
    if len(word) > max_chars:
        return [unk]
    out, i = [], 0
    while i < len(word):
        prefix = "##" * (i > 0)
        j = next((j for j in range(len(word), i, -1) if prefix + word[i:j] in vocab), None)
        if j is None:
            return [unk]
        out.append(prefix + word[i:j])
        i = j
    return out


def viterbi_forward(text, log_probs, unk=-math.inf, longest=16):
    """Pushes from each start instead of pulling to each end."""
    best = {0: (0.0, [])}
    for start in range(len(text)):
        if start not in best or best[start][0] == -math.inf:
            continue
        for end in range(start + 1, min(len(text), start + longest) + 1):
            piece = text[start:end]
            score = log_probs.get(piece, unk if len(piece) == 1 else None)
            if score is None:
                continue
            total = best[start][0] + score
            if total > best.get(end, (-math.inf, None))[0]:
                best[end] = (total, [*best[start][1], piece])
    score, pieces = best.get(len(text), (-math.inf, []))
    return pieces, score


def viterbi_recursive(text, log_probs, unk=-math.inf, longest=16):
    @functools.cache
    def solve(end):
        if end == 0:
            return 0.0, ()
        best = (-math.inf, ())
        for start in range(max(0, end - longest), end):
            piece = text[start:end]
            if piece not in log_probs and len(piece) > 1:
                continue
            before, pieces = solve(start)
            score = before + log_probs.get(piece, unk)
            if score > best[0]:
                best = (score, (*pieces, piece))
        return best

    score, pieces = solve(len(text))
    return list(pieces), score


def viterbi_arrays(text, log_probs, unk=-math.inf, longest=16):
    n = len(text)
    score, back = [-math.inf] * (n + 1), [None] * (n + 1)
    score[0] = 0.0
    for j in range(1, n + 1):
        candidates = []
        for i in range(max(0, j - longest), j):
            lp = log_probs[text[i:j]] if text[i:j] in log_probs else (unk if j - i == 1 else -math.inf)
            candidates.append((score[i] + lp, i))
        top = max(c for c, _ in candidates)
        score[j], back[j] = top, next(i for c, i in candidates if c == top)
    if score[n] == -math.inf:
        return [], -math.inf
    cuts = [n]
    while cuts[-1]:
        cuts.append(back[cuts[-1]])
    cuts.reverse()
    return [text[a:b] for a, b in itertools.pairwise(cuts)], score[n]


def special_with_re(text, special):
    if not special:
        return [text] if text else []
    names = sorted(special, key=lambda s: -len(s))
    return [p for p in re.split("(" + "|".join(map(re.escape, names)) + ")", text) if p != ""]


def special_scanning(text, special):
    out, run, i = [], "", 0
    while i < len(text):
        hit = max((s for s in special if text.startswith(s, i)), key=len, default=None)
        if hit:
            out += [run, hit] if run else [hit]
            run, i = "", i + len(hit)
        else:
            run, i = run + text[i], i + 1
    return out + [run] * bool(run)


def special_finditer(text, special):
    out, at = [], 0
    if special:
        pattern = re.compile("|".join(re.escape(s) for s in sorted(special, key=len)[::-1]))
        for match in pattern.finditer(text):
            out += [text[at : match.start()], match.group()]
            at = match.end()
    return [piece for piece in [*out, text[at:]] if piece]


def em_with_counter(words, log_probs):
    counts, log_likelihood = Counter(), 0.0
    for word in words:
        expected, lp = expected_counts(word, log_probs)
        counts.update({piece: words[word] * c for piece, c in expected.items()})
        log_likelihood += words[word] * lp
    z = sum(counts.values())
    return {piece: math.log(c) - math.log(z) for piece, c in counts.items() if c > 0}, log_likelihood


def em_two_passes(words, log_probs):
    results = {word: expected_counts(word, log_probs) for word in words}
    pieces = {piece for counts, _ in results.values() for piece in counts}
    total = {p: math.fsum(words[w] * results[w][0].get(p, 0.0) for w in words) for p in sorted(pieces)}
    z = math.fsum(total.values())
    return {p: math.log(c / z) for p, c in total.items() if c}, math.fsum(words[w] * results[w][1] for w in words)


def em_defaultdict(words, log_probs):
    counts, likelihood = defaultdict(float), 0
    for word, n in words.items():
        expected, lp = expected_counts(word, log_probs)
        likelihood += n * lp
        for piece in expected:
            counts[piece] += expected[piece] * n
    norm = math.log(sum(counts.values()))
    return {piece: math.log(counts[piece]) - norm for piece in counts if counts[piece]}, likelihood


RIGHT = {
    "count_pairs": [pairs_with_counter, pairs_with_indices, pairs_with_pairwise],
    "merge": [merge_with_iterator, merge_with_slices, merge_with_while],
    "bpe_encode": [encode_by_rank_loop, encode_one_at_a_time, encode_recursively],
    "wordpiece_split": [wordpiece_recursively, wordpiece_shrinking, wordpiece_next],
    "viterbi": [viterbi_forward, viterbi_recursive, viterbi_arrays],
    "split_special": [special_with_re, special_scanning, special_finditer],
    "em_step": [em_with_counter, em_two_passes, em_defaultdict],
}

EQUIVALENT = {
    "viterbi": {
        "1  ->  0": "end = 0 has no start before it, so beginning there changes nothing",
        "0  ->  1 (#2)": "begin is only read where it was written before",
        "0  ->  -1 (#2)": "begin is only read where it was written before",
        "1  ->  2 (#2)": "begin gets one place more that nobody uses",
        "max(0, end - longest)  ->  arguments 0 and 1 swapped": "max does not care about the order",
        "0  ->  -1 (#3)": "start = -1 is the last character; adding a log-probability to best[end] never improves it",
    },
    "split_special": {
        "sorted(special, key=len, reverse=True)  ->  without key": "only names that begin alike compete, and of those "
        "the longer one also comes first in the order of the alphabet, backwards",
    },
}
