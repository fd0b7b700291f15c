"""BLEU and chrF against sacrebleu, ROUGE against rouge-score, on random texts full of repeats and odd characters."""

import math
import random

import pytest

from llmkit.evaluation.bleu import bleu, bleu_counts, bleu_from_counts, tokenize_13a
from llmkit.evaluation.chrf import chrf, chrf_counts, chrf_from_counts
from llmkit.evaluation.overlap import exact_match
from llmkit.evaluation.rouge import lcs_length, rouge_l, rouge_n

WORDS = ["the", "cat", "sat", "on", "a", "mat"]
ODD = [
    *"""The Cat's don't 3.5 1,000 10-12 x-ray U.S. (on) [mat] {a} a/b c:d e;f "sat" 'on' .5 ,a a, -5 5- 5.""".split(),
    *"""&quot;a&amp;b&lt;c&gt; &amp;lt; <skipped> , ! ?? $3 50% a@b #1 *_* a~b `c` ^ \\ | < > — … «a» - .""".split(),
    *"naïve Ärger café 日本 日本語。 İstanbul 𝄞 e\u0301 \u212a".split(),  # the last is the Kelvin sign, k in lower case
    *["\u00a0", "a\u3000b", "cat-\nsat", "on\nmat", "end-\n", "\t"],
]


def _text(rng, odd=0.3, longest=12):
    words = [rng.choice(ODD) if rng.random() < odd else rng.choice(WORDS) for _ in range(rng.randrange(longest))]
    return rng.choice([" ", " ", "  "]).join(words) + rng.choice(["", "", ".", " ", "-\n"])


def _near(rng, text):
    """A text that shares much: words dropped, doubled, exchanged."""
    words = text.split(" ")
    for _ in range(rng.randrange(4)):
        i = rng.randrange(len(words))
        words[i : i + 1] = rng.choice([[], [words[i]] * 2, [rng.choice(WORDS)]])
        words = words or [""]
    return " ".join(words)


def _corpus(rng, n_texts, odd=0.3):
    hypotheses = [_text(rng, odd) for _ in range(n_texts)]
    references = [
        [rng.choice([_near(rng, h), _near(rng, h), _text(rng, odd)]) for _ in range(rng.randint(1, 3))]
        for h in hypotheses
    ]
    return hypotheses, references


def _streams(references):
    """sacrebleu's way round: one list for each reference translation, None where a text has fewer."""
    most = max(map(len, references))
    return [[refs[i] if i < len(refs) else None for refs in references] for i in range(most)]


def _close(a, b):
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)


def test_tokenizer_equals_sacrebleu():
    theirs = pytest.importorskip("sacrebleu").metrics.BLEU()
    rng = random.Random(0)
    for _ in range(5000):
        text = _text(rng, odd=0.8)
        assert tokenize_13a(text) == theirs._preprocess_segment(text).split(), repr(text)
    characters = [chr(i) for i in range(0x250)]
    for _ in range(2000):
        text = "".join(rng.choices(characters[:128] if rng.random() < 0.7 else characters, k=rng.randrange(12)))
        assert tokenize_13a(text) == theirs._preprocess_segment(text).split(), repr(text)


@pytest.mark.parametrize("smoothing", ["none", "exp"])
@pytest.mark.parametrize("tokenize", ["none", "13a"])
def test_bleu_equals_sacrebleu(tokenize, smoothing):
    theirs = pytest.importorskip("sacrebleu").metrics.BLEU(smooth_method=smoothing, tokenize=tokenize, force=True)
    cut = tokenize_13a if tokenize == "13a" else str.split
    rng = random.Random(len(tokenize) + len(smoothing))
    zero = short = smoothed = 0
    for case in range(1200):
        hypotheses, references = _corpus(rng, 1 + case % 4)
        expected = theirs.corpus_score(hypotheses, _streams(references))
        got = bleu([cut(h) for h in hypotheses], [[cut(r) for r in refs] for refs in references], smoothing)
        assert _close(got.score, expected.score), (hypotheses, references)
        if any(expected.counts):
            assert got.precisions == pytest.approx(expected.precisions)
        assert _close(got.brevity_penalty, expected.bp)
        assert (got.hypothesis_length, got.reference_length) == (expected.sys_len, expected.ref_len)
        zero += got.score == 0
        short += 0 < got.brevity_penalty < 1
        smoothed += got.score > 0 and 0 in expected.counts
    assert 50 < zero < 1150 and short > 50 and (smoothed > 50) == (smoothing == "exp")


def test_chrf_equals_sacrebleu():
    theirs = pytest.importorskip("sacrebleu").metrics.CHRF()
    rng = random.Random(1)
    between = 0
    for case in range(2000):
        hypotheses, references = _corpus(rng, 1 + case % 4)
        got = chrf(hypotheses, references)
        assert _close(got, theirs.corpus_score(hypotheses, _streams(references)).score), (hypotheses, references)
        assert _close(chrf([hypotheses[0]], [references[0]]), theirs.sentence_score(hypotheses[0], references[0]).score)
        between += 0 < got < 100
    assert between > 1500
    letters = "ab \n"
    for _ in range(1000):  # shorter than 6 letters, or nothing but white space
        h, r = ("".join(rng.choices(letters, k=rng.randrange(9))) for _ in range(2))
        assert _close(chrf([h], [[r]]), theirs.sentence_score(h, [r]).score), (h, r)


def test_rouge_equals_rouge_score():
    rouge = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rouge2", "rougeL"], use_stemmer=False
    )
    rng = random.Random(2)
    between = 0
    for _ in range(3000):
        hypothesis = _text(rng, odd=0.4)
        reference = _near(rng, hypothesis) if rng.random() < 0.7 else _text(rng)
        expected = rouge.score(target=reference, prediction=hypothesis)
        for got, name in (
            (rouge_n(hypothesis, reference, 1), "rouge1"),
            (rouge_n(hypothesis, reference, 2), "rouge2"),
            (rouge_l(hypothesis, reference), "rougeL"),
        ):
            assert got[:3] == pytest.approx(tuple(expected[name]), abs=1e-15), (name, hypothesis, reference)
        between += 0 < got.f1 < 1
    assert between > 1000
    with pytest.raises(ValueError, match="n of at least 1"):
        rouge_n("a", "a", 0)


def test_lcs_against_all_subsequences():
    rng = random.Random(3)

    def subsequences(text):
        found = {""}
        for letter in text:
            found |= {s + letter for s in found}
        return found

    for _ in range(300):
        a, b = ("".join(rng.choices("abc", k=rng.randrange(8))) for _ in range(2))
        assert lcs_length(a, b) == max(map(len, subsequences(a) & subsequences(b))), (a, b)


def test_corpus_scores_come_from_summed_counts():
    """What the bootstrap relies on; and that the mean of sentence scores is another number."""
    rng = random.Random(4)
    hypotheses, references = _corpus(rng, 40, odd=0.0)
    tokens, reference_tokens = [h.split() for h in hypotheses], [[r.split() for r in refs] for refs in references]
    rows = [bleu_counts(h, refs) for h, refs in zip(tokens, reference_tokens, strict=True)]
    assert bleu_from_counts(sum(rows)) == bleu(tokens, reference_tokens)
    assert abs(sum(bleu_from_counts(r).score for r in rows) / 40 - bleu(tokens, reference_tokens).score) > 1
    rows = [chrf_counts(h, refs) for h, refs in zip(hypotheses, references, strict=True)]
    assert chrf_from_counts(sum(rows)) == chrf(hypotheses, references)


def test_exact_match():
    assert exact_match(["a b", "A b", "a b ", "x"], [["a b"], ["a b"], ["a b"], ["y", "x"]]) == 0.5
    assert exact_match([""], [[""]]) == 1.0


TEXT_ERRORS = {
    "no texts": ([], [], "at least one text"),
    "one text": ("a", ["a"], "at least one text"),
    "lengths": (["a", "b"], [["a"]], "2 hypotheses, but references for 1"),
    "no list of references": (["a", "b"], [["a"], "b"], r"references\[1\] must be a list of texts"),
    "no references": (["a"], [[]], r"references\[0\] must be a list of texts"),
}


@pytest.mark.parametrize("hypotheses, references, message", TEXT_ERRORS.values(), ids=TEXT_ERRORS)
def test_what_is_no_corpus_is_refused(hypotheses, references, message):
    for function in (exact_match, chrf):
        with pytest.raises(ValueError, match=message):
            function(hypotheses, references)
    if len(references) == len(hypotheses) != 1 and references:
        with pytest.raises(ValueError, match=message):
            bleu([h.split() for h in hypotheses], [r if r == "b" else [["a"]] for r in references])


def test_texts_where_tokens_are_wanted_are_refused_and_the_other_way_round():
    for call, message in (
        (lambda: bleu(["a b"], [[["a"]]]), r"hypotheses\[0\] must be a list of tokens, got 'a b'"),
        (lambda: bleu([["a"]], [["a b"]]), r"each of references\[0\] must be a list of tokens"),
        (lambda: bleu_counts("a b", [["a"]]), "hypothesis must be a list of tokens"),
        (lambda: chrf([["a"]], [["a"]]), r"hypotheses\[0\] must be a string"),
        (lambda: chrf(["a"], [[["a"]]]), r"each of references\[0\] must be a string"),
        (lambda: chrf_counts("a", "a"), "references must be a list of texts"),
        (lambda: bleu([["a"]], [[["a"]]], smoothing="floor"), 'must be "none" or "exp"'),
    ):
        with pytest.raises(ValueError, match=message):
            call()
