"""Named entities: from BIO tags to spans, and how many spans were found.

B-PER begins a person, I-PER goes on with it, O is outside (the scheme IOB2: every span begins with B).
"""

from collections.abc import Sequence
from typing import NamedTuple

from llmkit.evaluation.scores import Report, report


class Span(NamedTuple):
    """tokens[start:end] is one entity of this type."""

    start: int
    end: int
    type: str


def parse_tag(tag: str) -> tuple[str, str]:
    """The letter and the type of a BIO tag. Raises ValueError for what is none.

    >>> parse_tag("B-PER"), parse_tag("O")
    (('B', 'PER'), ('O', ''))
    """
    letter, _, type_ = tag.partition("-")
    if tag != "O" and (letter not in ("B", "I") or not type_):
        raise ValueError(f"{tag!r} is not a BIO tag: O, B-TYPE or I-TYPE")
    return letter, type_


def bio_spans(tags: Sequence[str], strict: bool = False) -> list[Span]:
    """The spans of one sentence, from left to right.

    tags    one BIO tag for each token
    strict  what becomes of an I-X that goes on with nothing, because O, the sentence's start or another type is
            before it. False: it begins a span, as B-X would (the reading of conlleval, and seqeval's default).
            True: it belongs to no span, and neither do the I-X right after it (seqeval's strict mode with IOB2).

    A span ends where its type stops going on: before O, any B-, an I- of another type, the end of the sentence.
    Gold tags are well formed and read the same both ways; predicted tags often are not, and then the two readings
    give different scores: say which one you used. Raises ValueError for a tag that is not BIO.
    Source: the script conlleval of Tjong Kim Sang and De Meulder 2003 (CoNLL-2003).

    >>> bio_spans(["B-PER", "I-PER", "O", "I-LOC"])
    [Span(start=0, end=2, type='PER'), Span(start=3, end=4, type='LOC')]
    >>> bio_spans(["B-PER", "I-PER", "O", "I-LOC"], strict=True)
    [Span(start=0, end=2, type='PER')]
    """
    spans, start, open_type = [], 0, ""  # open_type: of the span that is not closed yet
    for i, tag in enumerate([*tags, "O"]):  # the last O closes what is open
        letter, type_ = parse_tag(tag)
        if letter == "I" and type_ == open_type:
            continue
        if open_type:
            spans.append(Span(start, i, open_type))
        begins = letter == "B" or (letter == "I" and not strict)
        start, open_type = i, type_ if begins else ""
    return spans


def span_report(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], strict: bool = False) -> Report:
    """Entity precision, recall and F1 over a corpus: for each type, micro and macro.

    predicted  for each sentence its tags
    true       the right ones
    strict     how tags are read: see `bio_spans`

    A span is correct when start, end and type are right: half an entity is no entity, and counts as one wrong
    prediction and one miss. The counts of all sentences are added up before dividing (a corpus score is not the
    mean of its sentences' scores). Types are in alphabetical order. Raises ValueError where the two do not have
    the same number of sentences, or of tags in a sentence.

    >>> r = span_report([["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]])
    >>> r.micro.f1, r.per_class["PER"].f1, r.per_class["LOC"].support
    (0.5, 0.0, 1)
    """
    _check(predicted, true)
    counts: dict[str, list[int]] = {}
    for predicted_tags, true_tags in zip(predicted, true, strict=True):
        found, wanted = set(bio_spans(predicted_tags, strict)), set(bio_spans(true_tags, strict))
        for i, spans in enumerate((found & wanted, found, wanted)):
            for _, _, type_ in spans:
                counts.setdefault(type_, [0, 0, 0])[i] += 1
    return report({type_: tuple(counts[type_]) for type_ in sorted(counts)})


def token_accuracy(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """The share of tokens with the right tag, between 0 and 1.

    It misleads: most tokens are O, so a tagger that finds nothing at all scores high. Raises ValueError as
    `span_report` does, and for no tokens at all.

    >>> token_accuracy([["O", "O", "O", "O"]], [["O", "O", "B-PER", "O"]])
    0.75
    """
    _check(predicted, true)
    pairs = [pair for sentences in zip(predicted, true, strict=True) for pair in zip(*sentences, strict=True)]
    if not pairs:
        raise ValueError("token_accuracy needs at least one token")
    return sum(p == t for p, t in pairs) / len(pairs)


def _check(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> None:
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predicted sentences, but {len(true)} true ones")
    for i, (p, t) in enumerate(zip(predicted, true, strict=True)):
        if isinstance(p, str) or isinstance(t, str):
            raise ValueError("tags must come as a list for each sentence, not as one flat list")
        if not all(isinstance(tag, str) for tag in (*p, *t)):
            raise ValueError(f"sentence {i}: tags are names such as 'B-PER'; a number is a place in a model's labels")
        if len(p) != len(t):
            raise ValueError(f"sentence {i}: {len(p)} predicted tags, but {len(t)} true ones")
