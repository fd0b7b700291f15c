"""Answers that learners gave, written as they wrote them, and the words that the check must have for each."""

import math
import random
from collections import Counter

import pytest

from llmkit.course.examine import examine
from llmkit.course.exercise import find
from llmkit.models.bigram import bigram_gradient

START = "<start>"
OWN = random.Random(0)


def puts_start_into_the_documents(documents, n):
    counts = {}
    for document in documents:
        for _ in range(n - 1):
            document.insert(0, START)
        for i in range(n - 1, len(document)):
            counts.setdefault(tuple(document[i - n + 1 : i]), Counter())[document[i]] += 1
    return counts


def loses_what_it_puts_in_front(documents, n):
    for document in documents:
        document[:0] = [START] * (n - 1)
    return {}


def takes_a_bare_token_for_a_context(documents, n):
    counts = {}
    for document in documents:
        padded = [START] * (n - 1) + document
        for i, token in enumerate(document):
            context = padded[i] if n == 2 else tuple(padded[i : i + n - 1])
            counts.setdefault(context, Counter())[token] += 1
    return counts


def slices_one_too_far(documents, n):
    counts = {}
    for document in documents:
        padded = [START] * (n - 1) + document
        for i, token in enumerate(document):
            counts.setdefault(tuple(padded[i : i + n]), Counter())[token] += 1
    return counts


def draws_its_own_number(probs, u):
    return OWN.choices(list(probs), list(probs.values()))[0] if any(probs.values()) else None


def sorts_first(probs, u):
    for token in sorted(probs, key=probs.get, reverse=True):
        if u < probs[token]:
            return token
        u -= probs[token]
    if not any(probs.values()):
        raise ValueError
    return token


def characters_but_the_empty_text_refused(log_probs, text):
    if text == "":
        raise ValueError("no text")
    return -sum(log_probs) / math.log(2) / len(text)


def tokens_and_the_empty_text_forgotten(log_probs, text):
    return -sum(log_probs) / math.log(2) / len(log_probs)


def counts_what_follows(counts):
    lower = {}
    for (first, *rest), followers in counts.items():
        lower.setdefault(tuple(rest), {})[first] = len(followers)
    return lower


SAID = [
    ("1.1", "1/4", "is a text; write it without the quotes"),
    ("1.1", 25, "in percent"),
    ("1.1", 1 / 8, "in more than one sentence"),
    ("1.1", 1 / 5, "a word that follows twice counts twice"),
    ("1.2", puts_start_into_the_documents, "the argument 'documents' was changed in place"),
    ("1.2", loses_what_it_puts_in_front, "the argument 'documents' was changed in place"),
    ("1.2", takes_a_bare_token_for_a_context, 'a context of one token is a tuple too: ("the",)'),
    ("1.2", slices_one_too_far, "the context holds the token itself"),
    ("1.3", draws_its_own_number, "does it draw random numbers of its own"),
    ("1.3", sorts_first, "the tokens were sorted"),
    ("1.4", characters_but_the_empty_text_refused, "characters were counted, not bytes"),
    ("1.4", tokens_and_the_empty_text_forgotten, "that is bits a token"),
    ("1.5", lambda count, total, distinct, lower: count + distinct * lower / (total + distinct), "parentheses"),
    ("1.5", lambda count, total, distinct, lower: (count / total + lower) / 2, "half and half"),
    ("1.6", lambda table, x, y: -bigram_gradient(table, x, y), "the sign: this points downhill"),
    ("1.7", counts_what_follows, "tokens that follow"),
    ("19.1", 3.87, "3.87 is not a list; the answer is a list"),
    ("19.1", ["3.87", "-0.26"], "'3.87' is a text; write it without the quotes"),
    ("19.1", [3.85, -0.26], "is not it"),
    ("19.1", [3.87, -0.27], "is not it"),
    ("19.4", {"grpo": 5}, "is not a list; the answer is a list"),
]


@pytest.mark.parametrize(("number", "answer", "words"), SAID)
def test_the_check_names_what_went_wrong(number, answer, words):
    report = examine(find(number), answer)
    assert report.state == "wrong" and words in str(report), str(report)


def test_an_answer_whose_only_fault_is_a_changed_argument_is_no_slip_of_another_kind():
    """Right values, spoilt argument: words that blame the values would mislead."""

    exercise = find("1.2")
    right = exercise.original()

    def spoils(documents, n):
        counts = right(documents, n)
        documents.append([])
        return counts

    report = examine(exercise, spoils)
    assert report.state == "wrong" and not report.slip, str(report)
    assert "was changed in place" in str(report)


def test_a_tensor_of_the_right_numbers_answers_a_question_by_hand():
    import torch

    exercise = find("4.1")
    assert examine(exercise, torch.tensor(exercise.reference())).right
    assert not examine(exercise, torch.tensor(exercise.reference()) + 1).right
