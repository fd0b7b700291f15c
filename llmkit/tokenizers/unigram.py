"""The Unigram model's algorithms: the best cut (Viterbi), expected counts (forward-backward), EM and pruning.

Source: Kudo 2018, "Subword regularization" (arXiv:1804.10959), section 3.2;
google/sentencepiece:src/unigram_model_trainer.cc.
"""

import math
import sys
from collections import Counter
from collections.abc import Mapping

LONGEST = 16  # characters of a piece at most, as in SentencePiece
SEEDS_PER_PIECE = 10  # how many candidates training begins with, for each piece that will be kept
SHRINK = 0.75  # share of the pieces that one round of pruning keeps


def viterbi(
    text: str, log_probs: Mapping[str, float], unk: float = -math.inf, longest: int = LONGEST
) -> tuple[list[str], float]:
    """The most probable way to cut a text into pieces, and its log-probability.

    log_probs  piece -> log P (nats); a cut's log-probability is the sum over its pieces
    unk        log P of a single character that is no piece; -inf forbids it
    longest    characters of the longest piece that is looked for

    best[i] is the log-probability of the best cut of text[:i]. It is the maximum, over the last piece text[j:i], of
    best[j] + log P(text[j:i]); remembering which j won, one reads the pieces off from the end. Of equal cuts the one
    with the longer last piece wins. The empty text has no pieces and log-probability 0; a text that cannot be cut
    gives ([], -inf).

    >>> viterbi("abc", {"a": -1.0, "b": -1.0, "c": -1.0, "ab": -1.5, "bc": -3.0})
    (['ab', 'c'], -2.5)
    """
    best = [0.0] + [-math.inf] * len(text)
    begin = [0] * (len(text) + 1)  # where the last piece of the best cut begins
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            score = log_probs.get(text[start:end])
            if score is None:
                if end - start > 1:
                    continue
                score = unk
            if best[start] + score > best[end]:
                best[end], begin[end] = best[start] + score, start
    if best[-1] == -math.inf:
        return [], -math.inf
    pieces, end = [], len(text)
    while end > 0:
        pieces.append(text[begin[end] : end])
        end = begin[end]
    return pieces[::-1], best[-1]


def expected_counts(word: str, log_probs: Mapping[str, float], scale: float = 0.0) -> tuple[dict[str, float], float]:
    """How often each piece is expected in a word when all cuts are weighed by their probability, and log P(word).

    forward[i] is the total probability of all cuts of word[:i], backward[i] of word[i:]. The piece word[i:j] is used
    with probability forward[i] * P(piece) * backward[j] / forward[len(word)]. A word that cannot be cut gives
    ({}, -inf).

    scale   added to log P for each character, to keep the products of a long word within what a float can hold; it
            multiplies all cuts alike, so the counts do not change. Set by the function itself where it is needed.

    >>> counts, _ = expected_counts("ab", {"a": math.log(0.5), "b": math.log(0.4), "ab": math.log(0.1)})
    >>> round(counts["ab"], 3)   # 0.1 / (0.1 + 0.5 * 0.4)
    0.333
    """
    n = len(word)
    spans = [
        (i, j, math.exp(log_probs[word[i:j]] + scale * (j - i)))
        for i in range(n)
        for j in range(i + 1, min(n, i + LONGEST) + 1)
        if word[i:j] in log_probs
    ]
    forward, backward = [1.0] + [0.0] * n, [0.0] * n + [1.0]
    for i, j, p in spans:  # in order of i, so forward[i] is complete when it is used
        forward[j] += forward[i] * p
    for i, j, p in reversed(spans):
        backward[i] += p * backward[j]
    if forward[n] == 0:
        best = viterbi(word, log_probs)[1]
        underflow = scale == 0 and best > -math.inf
        return expected_counts(word, log_probs, -best / n) if underflow else ({}, -math.inf)
    counts: dict[str, float] = {}
    for i, j, p in spans:
        counts[word[i:j]] = counts.get(word[i:j], 0.0) + forward[i] * p * backward[j] / forward[n]
    return counts, math.log(forward[n]) - scale * n


def em_step(words: Mapping[str, int], log_probs: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """One step of expectation maximisation: expected counts of all pieces, made into probabilities again.

    words      word -> how often it was seen
    log_probs  piece -> log P (nats)

    Returns the new log-probabilities, which leave out pieces with expected count 0, and the log-probability of all
    words under the old ones. Repeating the step never makes that smaller.

    >>> new, _ = em_step({"ab": 3}, {"a": math.log(0.5), "b": math.log(0.4), "ab": math.log(0.1)})
    >>> round(math.exp(new["ab"]), 3)   # counts: ab 1, a 2, b 2
    0.2
    """
    counts: dict[str, float] = {}
    total_log_prob = 0.0
    for word, n in words.items():
        expected, log_prob = expected_counts(word, log_probs)
        total_log_prob += n * log_prob
        for piece, count in expected.items():
            counts[piece] = counts.get(piece, 0.0) + n * count
    total = math.fsum(counts.values())
    # A count above 0 may become 0 in the division; such a piece stays, or a word might lose its only cut.
    new = {piece: math.log(max(count / total, sys.float_info.min)) for piece, count in counts.items() if count > 0}
    return new, total_log_prob


def seed_pieces(words: Mapping[str, int], n: int) -> dict[str, float]:
    """Candidates to begin with: all characters, and the n substrings that cover most text, with their log shares."""
    counts: Counter = Counter()
    for word, count in words.items():
        for i in range(len(word)):
            for j in range(i + 1, min(len(word), i + LONGEST) + 1):
                counts[word[i:j]] += count
    longer = [piece for piece, count in counts.items() if len(piece) > 1 and count > 1]
    longer.sort(key=lambda piece: (-counts[piece] * len(piece), piece))
    kept = sorted(piece for piece in counts if len(piece) == 1) + longer[:n]
    total = sum(counts[piece] * len(piece) for piece in kept)
    return {piece: math.log(counts[piece] * len(piece) / total) for piece in kept}


def prune(words: Mapping[str, int], log_probs: Mapping[str, float], keep: int) -> dict[str, float]:
    """Drop the pieces that are missed least, down to `keep`; single characters always stay.

    What a piece is worth: how often it is used in best cuts, times what it costs to say the same with the others.
    """
    used: Counter = Counter()
    for word, count in words.items():
        for piece in viterbi(word, log_probs)[0]:
            used[piece] += count
    worth = {}
    for piece, log_prob in log_probs.items():
        if len(piece) > 1:
            others = {part: p for part, p in _parts(piece, log_probs) if part != piece}
            worth[piece] = used[piece] * (log_prob - viterbi(piece, others)[1])
    n_characters = len(log_probs) - len(worth)
    best = sorted(worth, key=lambda piece: (-worth[piece], piece))[: max(keep - n_characters, 0)]
    kept = set(best)
    return {piece: p for piece, p in log_probs.items() if len(piece) == 1 or piece in kept}


def _parts(piece: str, log_probs: Mapping[str, float]) -> list[tuple[str, float]]:
    parts = {piece[i:j] for i in range(len(piece)) for j in range(i + 1, len(piece) + 1)}
    return [(part, log_probs[part]) for part in parts if part in log_probs]


def train_unigram(words: Mapping[str, int], n_pieces: int) -> dict[str, float]:
    """Learn n_pieces pieces with log-probabilities: many candidates, then EM and pruning in turn.

    words   word -> how often it was seen

    Raises ValueError when the words have more characters than there is room for, or too few substrings.
    """
    n_characters = len({char for word in words for char in word})
    if n_characters > n_pieces:
        raise ValueError(f"the text has {n_characters} different characters, more than the {n_pieces} pieces asked for")
    log_probs = seed_pieces(words, SEEDS_PER_PIECE * n_pieces)
    if len(log_probs) < n_pieces:
        raise ValueError(f"the text has only {len(log_probs)} repeated substrings; {n_pieces} pieces were asked for")
    while len(log_probs) > n_pieces:
        log_probs = _with_characters(em_step(words, em_step(words, log_probs)[0])[0], log_probs)
        if len(log_probs) > n_pieces:
            log_probs = prune(words, log_probs, max(n_pieces, int(SHRINK * len(log_probs))))
    return _with_characters(em_step(words, em_step(words, log_probs)[0])[0], log_probs)


def _with_characters(after: dict[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """EM may take all probability from a character; it stays as the rarest piece, so that every word can be cut."""
    lowest = min(after.values()) - 1.0
    return {piece: after.get(piece, lowest) for piece in before if piece in after or len(piece) == 1}
