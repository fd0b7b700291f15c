"""Multiple choice, its questions, and a judge whose biases are known."""

import doctest
import importlib
import math
import random
import re

import numpy as np
import pytest
import torch

from llmkit.data.toyland.stories import VILLAGE
from llmkit.evaluation.judge import (
    Answers,
    Judge,
    both_orders,
    length_controlled,
    sigmoid,
    system_answers,
    true_wins,
)  # fmt: skip
from llmkit.evaluation.multiple_choice import RULES, Scored, choose, continuation_log_probs, score_choices
from llmkit.evaluation.toyland_cloze import ROLES, _recast, questions, sentences
from llmkit.models.llama import LlamaConfig, llama
from llmkit.tokenizers import ByteLevelBPE

TEXT = "Mia had a lamp. Ben had a very large umbrella. " * 20


@pytest.mark.parametrize("name", ["multiple_choice", "toyland_cloze"])
def test_worked_examples(name):
    failed, attempted = doctest.testmod(importlib.import_module(f"llmkit.evaluation.{name}"))
    assert attempted and not failed


@pytest.fixture(scope="module")
def tokenizer():
    return ByteLevelBPE.train(TEXT, 280, special_tokens=["<end>"])


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return llama(LlamaConfig(tokenizer.vocab_size, 32, 1, 2, d_ff=64)).eval()


def test_scores_are_sums_of_what_the_model_says_of_each_token(model, tokenizer):
    """One answer at a time, without padding, row by row."""
    end, context, choices = tokenizer.special_tokens["<end>"], "Mia had", [" a lamp.", " a very large umbrella.", "."]
    for text, scored in zip(choices, score_choices(model, tokenizer, context, choices, end), strict=True):
        answer = tokenizer.encode(text)
        sums = []
        for before in ([end, *tokenizer.encode(context)], [end]):
            ids = [*before, *answer]
            with torch.no_grad():
                log_probs = model(torch.tensor([ids]))[0].log_softmax(-1)
            sums.append(sum(float(log_probs[t - 1, ids[t]]) for t in range(len(before), len(ids))))
        assert scored.log_prob == pytest.approx(sums[0], abs=1e-4)
        assert scored.unconditional == pytest.approx(sums[1], abs=1e-4)
        assert (scored.n_tokens, scored.n_bytes) == (len(answer), len(text))


def test_probabilities_of_all_continuations_sum_to_one(model, tokenizer):
    ids = torch.tensor([5, 7, 9])
    with torch.no_grad():
        logits = model(ids[None])[0]
    every = [continuation_log_probs(logits, torch.tensor([5, 7, last]), 2) for last in range(tokenizer.vocab_size)]
    assert float(torch.cat(every).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_bytes_are_counted_not_letters(model, tokenizer):
    assert score_choices(model, tokenizer, "Mia", ["né"], 0)[0].n_bytes == 3


def test_each_rule_divides_by_its_own():
    answers = [Scored(-10, 5, 20, -10), Scored(-6, 2, 40, -6.5), Scored(-9, 9, 9, -2), Scored(-7, 3, 10, -20)]
    assert {rule: choose(answers, rule) for rule in RULES} == {"sum": 1, "token": 2, "byte": 1, "unconditional": 3}
    assert choose([answers[0], answers[0]]) == 0
    with pytest.raises(ValueError, match="no rule 'mean'; there are sum, token, byte, unconditional"):
        choose(answers, "mean")
    with pytest.raises(ValueError, match="no answers"):
        choose([])
    with pytest.raises(ValueError, match="'sum' have NaN"):
        choose([Scored(-1, 1, 1, -1), Scored(float("nan"), 1, 1, -1)])


def test_what_cannot_be_scored_is_refused(model, tokenizer):
    for choices in ([], ["a", ""]):
        with pytest.raises(ValueError, match="each at least one character"):
            score_choices(model, tokenizer, "Mia", choices, 0)
    with pytest.raises(ValueError, match="from 1 to 3 tokens, got 0"):
        continuation_log_probs(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), 0)


def test_sentences_lose_nothing():
    rng = random.Random(3)
    for _ in range(100):
        text = VILLAGE.sample(rng).text
        cut = sentences(text)
        assert "".join(cut) == text and all(one.strip()[0] in '"' or one.strip()[0].isupper() for one in cut)
        assert all(one.count('"') % 2 == 0 for one in cut)


def test_questions_are_as_they_say():
    asked = questions(30, seed=4)
    assert asked == questions(30, seed=4) and asked[:5] != questions(5, seed=5)
    for question in asked:
        assert len(set(question.wrong)) == 9 and question.right not in question.wrong
        assert len(sentences(question.context)) == 3 and question.right not in question.context
        lengths = {kind: [len(text) for text in question.choices(kind)[1:]] for kind in ("short", "any", "long")}
        assert all(s <= a <= b for s, a, b in zip(*lengths.values(), strict=True))
        assert all(question.choices(kind)[0] == question.right for kind in lengths)
        assert question.choices("any")[1:] == list(question.wrong[::3])
        assert question.choices("long")[3] == max(question.wrong[6:], key=len)
    rng = random.Random(4)
    stories = [VILLAGE.sample(rng).text for _ in range(30)]
    names = {name for pool in ("girls", "boys", "towns") for name in VILLAGE.pools[pool].words}
    for question, story in zip(asked, stories, strict=True):
        assert question.context + question.right in story
        assert not [text for text in question.wrong if text in sentences(story)], "it would be right too"
        known, *said = (set(re.findall(r"\w+", text)) & names for text in (story, *question.wrong))
        strangers = [some - known for some in said if some - known]
        assert not strangers, "names in wrong answers are those of the question's story"
    assert len(ROLES) == 6


def test_a_sentence_moves_to_another_story_only_with_counterparts_for_its_names():
    theirs = {"hero": "Mia", "friend": "Ben", "thing": "hat", "town": "Ashby"}
    ours = {"hero": "Anna", "friend": "Clara", "thing": "drum", "pet": "dog", "town": "Dunwick"}
    assert _recast(" Mia lost her hat in Ashby.", theirs, ours) == " Anna lost her drum in Dunwick."
    assert _recast(" It rained.", theirs, ours) == " It rained."
    assert _recast(" Ben lost his hat.", theirs, ours) is None, "Clara lost his hat"
    assert _recast(" Mia met Lucy.", theirs, ours) is None, "Lucy only passes through"
    assert _recast(" Mia sang in Oakford.", theirs, ours) is None
    assert _recast(" Mia sang.", theirs, {"friend": "Clara"}) is None, "there is no hero"
    both = _recast(" Mia saw Anna.", {"hero": "Mia", "friend": "Anna"}, {"hero": "Anna", "friend": "Mia"})
    assert both == " Anna saw Mia.", "all at once"


def test_questions_that_cannot_be_made_are_refused():
    for n_context in (0, 5):
        with pytest.raises(ValueError, match=f"from 1 to 4 sentences, got {n_context}"):
            questions(1, n_context=n_context)
    assert len(sentences(questions(1, n_context=4)[0].context)) == 4
    with pytest.raises(ValueError, match="none of 2000 sentences in a row was new after .* fewer n_wrong"):
        questions(1, n_wrong=100_000)
    question = questions(1)[0]
    assert len(question.choices(n=9)) == 10
    for n in (0, 10):
        with pytest.raises(ValueError, match=f"has 9 wrong answers, so n is from 1 to that, got {n}"):
            question.choices(n=n)


# --- the judge ---


def answers(right, lengths):
    return Answers(["word " * n for n in lengths], np.array(right, dtype=float))


def test_systems_are_as_right_and_as_wordy_as_they_are_told():
    a = system_answers(800, 0.7, 0.2)
    assert a.right.mean() == pytest.approx(0.72, abs=0.05)  # some wrong answers happen to be right
    b = system_answers(800, 0.7, 0.9, wordy_when_wrong=0.0)
    assert b.n_words[b.right == 1].mean() > 2 * b.n_words[b.right == 0].mean()
    assert a.texts == system_answers(800, 0.7, 0.2).texts
    true, guessed = system_answers(200, 1.0, 0.0), system_answers(200, 0.0, 0.0)
    agree = np.array([one == other for one, other in zip(true.texts, guessed.texts, strict=True)])
    assert (agree == guessed.right).all() and agree.mean() < 0.2, "a wrong answer says something else"
    twin, other = system_answers(800, 0.7, 0.2, name="other"), system_answers(800, 0.7, 0.2, name="third")
    assert a.questions == twin.questions and 0.3 < (a.right != twin.right).mean() < 0.5, "equal, but not the same"
    assert (twin.right != other.right).any()
    always, never = system_answers(50, 1.0, 0.0), system_answers(50, 1.0, 1.0)
    for short, sentence in zip(always.texts, never.texts, strict=True):
        assert short.split()[-1] in sentence and always.right.all(), "both are asked the same questions"
    assert always.questions == never.questions and all(question.endswith("?") for question in always.questions)
    for question, sentence in zip(never.questions, never.texts, strict=True):
        about = question.split()[1] == "is" and question.split()[2].removesuffix("'s")
        assert not about or sentence.startswith(about), "each answer stands beside its question"


def test_a_verdict_is_as_probable_as_the_formula_says():
    n = 40_000
    first, second = answers([1] * n, [2] * n), answers([0] * n, [5] * n)
    judge = Judge(sharpness=1.5, position=0.4, length=0.2)
    share = judge.first_wins(first, second, np.random.default_rng(0)).mean()
    assert share == pytest.approx(sigmoid(1.5 + 0.4 - 0.6), abs=0.01)
    assert judge.first_wins(second, first, np.random.default_rng(1)).mean() == pytest.approx(
        sigmoid(-1.5 + 0.4 + 0.6), abs=0.01
    )


def test_both_orders_cure_the_position_and_nothing_else():
    n = 20_000
    a, b = answers([1, 0] * (n // 2), [3] * n), answers([0, 1] * (n // 2), [3] * n)
    placed, long_ = Judge(1.0, position=2.0), Judge(1.0, length=0.5)
    assert placed.first_wins(a, b, np.random.default_rng(0)).mean() > 0.6
    assert both_orders(placed, a, b, np.random.default_rng(0)).mean() == pytest.approx(0.5, abs=0.01)
    wordy = answers(b.right, [6] * n)
    assert both_orders(long_, a, wordy, np.random.default_rng(0)).mean() < 0.4
    assert true_wins(a, b).mean() == 0.5


def test_length_control_recovers_the_rate_at_equal_lengths():
    rng = np.random.default_rng(0)
    more = rng.integers(-6, 5, 50_000).astype(float)
    theta, phi = 0.4, 1.3
    p = sigmoid(theta + phi * np.tanh(more / more.std()))
    wins = (rng.random(len(p)) < p).astype(float)
    assert wins.mean() < 0.55
    assert length_controlled(wins, more) == pytest.approx(sigmoid(theta), abs=0.01)
    assert length_controlled(p, more) == pytest.approx(sigmoid(theta), abs=1e-4), "shares serve as well as verdicts"


def test_length_control_needs_different_lengths():
    with pytest.raises(ValueError, match="all equal"):
        length_controlled(np.array([1.0, 0.0]), np.array([3.0, 3.0]))
    with pytest.raises(ValueError, match="one difference in length a verdict, got 2 and 3"):
        length_controlled(np.ones(2), np.arange(3))
    for wins, more in (([1.0, np.nan], [1.0, 2.0]), ([1.0, 0.0], [1.0, np.nan]), ([1.0, 0.0], [1.0, np.inf])):
        with pytest.raises(ValueError, match="NaN or infinite"):
            length_controlled(np.array(wins), np.array(more))
    assert math.isfinite(length_controlled(np.array([1.0, 1.0, 0.0]), np.array([1.0, 2.0, -1.0])))
