"""Spans from BIO tags against seqeval, lenient (conlleval) and strict."""

import random

import pytest

import llmkit.evaluation.spans
from llmkit.evaluation.scores import Score
from llmkit.evaluation.spans import Span, bio_spans, parse_tag, span_report, token_accuracy

TYPES = ["PER", "LOC", "geo-loc"]
TAGS = ["O", *(f"{letter}-{type_}" for letter in "BI" for type_ in TYPES)]


def _sentence(rng, length):
    return rng.choices(TAGS, weights=[3, *(6 * [1])], k=length)


def _corpus(rng):
    """Tags, and a copy that is right in some places, so that some entities are found."""
    true = [_sentence(rng, rng.randrange(9)) for _ in range(rng.randint(1, 4))]
    keep = rng.choice([0.0, 0.6, 0.8, 0.9, 1.0])
    return [[t if rng.random() < keep else rng.choice(TAGS) for t in tags] for tags in true], true


def test_spans_equal_seqeval():
    scheme, labeling = (pytest.importorskip(f"seqeval.{m}") for m in ("scheme", "metrics.sequence_labeling"))
    rng = random.Random(0)
    for _ in range(4000):
        tags = _sentence(rng, rng.randrange(10))
        lenient = {Span(start, end + 1, type_) for type_, start, end in labeling.get_entities(tags)}
        strict = {Span(e.start, e.end, e.tag) for e in scheme.Tokens(tags, scheme.IOB2).entities}
        for spans, expected in ((bio_spans(tags), lenient), (bio_spans(tags, strict=True), strict)):
            assert len(spans) == len(expected) and set(spans) == expected and spans == sorted(spans), tags


@pytest.mark.parametrize("strict", [False, True])
def test_reports_equal_seqeval(strict):
    metrics, scheme = (pytest.importorskip(f"seqeval.{m}") for m in ("metrics", "scheme"))
    kind = {"mode": "strict", "scheme": scheme.IOB2} if strict else {}
    rng = random.Random(int(strict))
    some_right = 0
    for _ in range(2000):
        predicted, true = _corpus(rng)
        got = span_report(predicted, true, strict)
        peer = (
            metrics.classification_report(true, predicted, output_dict=True, zero_division=0, **kind)
            if got.per_class
            else {}
        )
        expected = {name: (*row.values(),) for name, row in peer.items() if not name.endswith(" avg")}
        assert list(got.per_class) == list(expected)
        assert all(got.per_class[name] == pytest.approx(row) for name, row in expected.items())
        if peer:
            assert got.micro == pytest.approx((*peer["micro avg"].values(),))
            assert got.macro == pytest.approx((*peer["macro avg"].values(),))
        some_right += 0 < got.micro.f1 < 1
        if any(true):
            assert token_accuracy(predicted, true) == pytest.approx(metrics.accuracy_score(true, predicted))
    assert some_right > 600


def test_well_formed_tags_read_the_same_both_ways_and_come_back():
    rng = random.Random(2)
    for _ in range(300):
        spans, end = [], 0
        for _ in range(rng.randrange(5)):
            start = end + rng.randrange(3)
            end = start + rng.randint(1, 3)
            spans.append(Span(start, end, rng.choice(TYPES)))
        tags = ["O"] * (end + rng.randrange(2))
        for span in spans:
            tags[span.start : span.end] = [f"B-{span.type}", *[f"I-{span.type}"] * (span.end - span.start - 1)]
        assert bio_spans(tags) == bio_spans(tags, strict=True) == spans


def test_nothing_found_is_zero_and_still_looks_accurate():
    true = [["O"] * 18 + ["B-PER", "I-PER"]]
    predicted = [["O"] * 20]
    assert span_report(predicted, true).micro == Score(0.0, 0.0, 0.0, 1)
    assert token_accuracy(predicted, true) == 0.9
    assert span_report([["I-PER"]], [["B-PER"]]).micro.f1 == 1, "lenient unless asked"
    assert span_report([["O"]], [["O"]]).macro == Score(0.0, 0.0, 0.0, 0) == span_report([], []).micro


def test_a_span_may_be_a_bare_tuple(monkeypatch):
    """As a learner's own bio_spans gives it: a tuple of three equals a Span."""
    tags, true = [["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]]
    expected = span_report(tags, true)
    bare = lambda tags, strict: [tuple(span) for span in bio_spans(tags, strict)]  # noqa: E731
    monkeypatch.setattr(llmkit.evaluation.spans, "bio_spans", bare)
    assert span_report(tags, true) == expected


@pytest.mark.parametrize("tag", ["", "B", "I", "B-", "I-", "O-PER", "E-PER", "PER", "b-PER", "o"])
def test_other_tags_are_refused(tag):
    for call in (lambda: parse_tag(tag), lambda: bio_spans(["O", tag])):
        with pytest.raises(ValueError, match="is not a BIO tag"):
            call()


def test_uneven_input_is_refused():
    for function in (span_report, token_accuracy):
        with pytest.raises(ValueError, match="sentence 0: tags are names such as 'B-PER'"):
            function([[0, 1]], [[0, -100]])
        with pytest.raises(ValueError, match="1 predicted sentences, but 2 true"):
            function([["O"]], [["O"], ["O"]])
        with pytest.raises(ValueError, match="sentence 1: 1 predicted tags, but 2 true"):
            function([["O"], ["O"]], [["O"], ["O", "O"]])
        with pytest.raises(ValueError, match="list for each sentence"):
            function(["O", "O"], ["O", "O"])
        for one_flat in ((["O"], [["O"]]), ([["O"]], ["O"])):
            with pytest.raises(ValueError, match="list for each sentence"):
                function(*one_flat)
    with pytest.raises(ValueError, match="at least one token"):
        token_accuracy([[]], [[]])
