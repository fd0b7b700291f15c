"""The sentences about "it": labels right by an independent rule, the held-out side really unseen."""

from collections import Counter
from itertools import islice

import pytest

from llmkit.data.toyland import coreference
from llmkit.data.toyland.words import split

TIRED = set("tired weak dizzy ill sleepy lazy clumsy nervous".split())


def some(n=2000, **options):
    return list(islice(coreference.examples(seed=3, **options), n))


def referent_by_grammar(text):
    """Read from the text alone: who acts is before an active verb and after "by"."""
    before, word = text.rstrip(".").split(" because it was ")
    nouns = [w for w in before.split() if w in {*coreference.LOADS, *coreference.DOERS}]
    doer, load = reversed(nouns) if " by the " in before else nouns
    return doer if word in TIRED else load


@pytest.mark.parametrize("held_out", [False, True])
def test_labels_are_what_the_sentence_says(held_out):
    for example in some(held_out=held_out):
        assert example.referent == f" {referent_by_grammar(example.text)}", example.text
        assert example.tokens[example.it] == " it" and tuple(split(example.text)) == example.tokens
        assert example.tokens.count(example.referent) == 1


def test_sides_share_no_couple_in_either_order():
    known, kept = coreference.pairs(held_out=False), coreference.pairs(held_out=True)
    assert not {frozenset(pair) for pair in known} & {frozenset(pair) for pair in kept}
    assert ("robot", "ball") in kept
    assert 0.15 < len(kept) / (len(kept) + len(known)) < 0.25
    assert {(e.doer, e.load) for e in some()} <= set(known)
    assert {(e.doer, e.load) for e in some(held_out=True)} <= set(kept)
    assert {noun for pair in kept for noun in pair} <= {noun for pair in known for noun in pair}, "no word is new"


def test_only_the_last_word_decides():
    examples = some()
    for of_load, of_doer in zip(examples[::2], examples[1::2], strict=True):
        assert of_load.tokens[:-2] == of_doer.tokens[:-2]
        assert (of_load.referent, of_doer.referent) == (f" {of_load.load}", f" {of_doer.doer}")
    places = Counter(e.tokens.index(e.referent) < e.tokens.index(" because") - 1 for e in examples)
    assert 0.4 < places[True] / len(examples) < 0.6, "the place alone must not tell"


def test_the_vocabulary_holds_every_token_once():
    words = coreference.vocabulary()
    assert len(set(words)) == len(words)
    assert {token for held_out in (False, True) for e in some(held_out=held_out) for token in e.tokens} <= set(words)


def test_same_seed_same_sentences():
    assert some(50) == some(50)


def test_what_cannot_be_said_is_refused():
    with pytest.raises(ValueError, match="'green' does not tell what 'it' is"):
        coreference.sentence("robot", "ball", "green")
    with pytest.raises(ValueError, match="doer and load must differ"):
        coreference.sentence("fox", "fox", "heavy")
