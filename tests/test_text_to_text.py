"""What lesson 12 adds: tokens that come back exactly, mixing rates, choosing among answers, alignment of attention."""

import math
import random
import string

import pytest
import torch

from llmkit.data.batches import pad_pairs
from llmkit.data.mixture import mixing_rates
from llmkit.data.toyland.language import LEXICON, translations
from llmkit.data.toyland.tasks import examples
from llmkit.data.toyland.vocabulary import UP, Vocabulary, task_vocabulary
from llmkit.evaluation.alignment import aligned_share
from llmkit.generation.choose import answer_log_probs, score_answers
from llmkit.models.t5 import T5Config, t5
from llmkit.training.losses import seq2seq_loss


@pytest.fixture(scope="module")
def vocabulary():
    return task_vocabulary(e for task in ("translation", "sentiment", "kind", "summary") for e in examples(task, 3000))


# --- vocabulary ---


@pytest.mark.parametrize("task", ["translation", "sentiment", "kind", "summary", "story", "question"])
def test_every_task_comes_back_exactly(vocabulary, task):
    for example in examples(task, 200, seed=5):  # other sentences, and words that are in no list
        for text in (example.input, example.target):
            assert vocabulary.decode(vocabulary.encode(text)) == text


def test_any_printable_ascii_comes_back_exactly(vocabulary):
    rng = random.Random(0)
    signs = string.ascii_letters + string.digits + string.punctuation + "    "
    texts = ["", " ", "  a", "A", " A", "aB", "the The  THE", "x " * 3, "2+2=4"]
    texts += ["".join(rng.choices(signs, k=rng.randrange(30))) for _ in range(500)]
    for text in texts:
        assert vocabulary.decode(vocabulary.encode(text)) == text
        assert vocabulary.decode([0, *vocabulary.encode(text), 5, 0]) == text  # nothing after </s>, no padding


def test_tolk_is_cut_into_stem_and_endings(vocabulary):
    stems = {f" {stem}" for stem in LEXICON.values()}
    for sentence in translations(2000, 3):
        for word in sentence.tolk().rstrip(".").split():
            stem, *endings = vocabulary.tokens_of(word)
            assert stem in stems and set(endings) <= {"i", "s", "n", "ta", "ri", "m", "ra", "ke", "lo"}
        english = vocabulary.tokens_of(sentence.english())
        assert english[0] == UP and english[-1] == "."
        assert all(token.startswith(" ") for token in english[1:-1])  # every English word is one token


def test_vocabulary_ids(vocabulary):
    assert vocabulary.encode("")[-1] == vocabulary.end_id == 1 and vocabulary.encode("", end=False) == []
    assert len(set(vocabulary.tokens)) == len(vocabulary) == len(vocabulary.id_of)
    assert Vocabulary(["b", "a", "a"]).tokens == Vocabulary(["a", "b"]).tokens
    with pytest.raises(ValueError, match="é"):
        vocabulary.encode("café")
    with pytest.raises(ValueError, match="\u212a"):
        vocabulary.encode("5 \u212a")  # the Kelvin sign, whose small letter is an ASCII k
    with pytest.raises(ValueError, match=UP):
        vocabulary.encode(UP)
    with pytest.raises(ValueError, match="ids go from 0"):
        vocabulary.decode([len(vocabulary)])


# --- mixing rates ---


def test_mixing_rates_by_hand():
    rates = mixing_rates({"a": 100, "b": 400, "c": 900}, temperature=2)
    assert rates == pytest.approx({"a": 1 / 6, "b": 2 / 6, "c": 3 / 6})
    assert mixing_rates({"a": 100, "b": 400}, limit=100) == {"a": 0.5, "b": 0.5}
    assert mixing_rates({"a": 1, "b": 10**9}, temperature=1e6)["a"] == pytest.approx(0.5, abs=1e-4)
    assert math.isclose(sum(mixing_rates({"a": 3, "b": 5, "c": 11}, 7, 3.0).values()), 1)


@pytest.mark.parametrize("arguments", [({},), ({"a": 0},), ({"a": 1}, 0), ({"a": 1}, None, 0.0)])
def test_bad_mixtures_are_refused(arguments):
    with pytest.raises(ValueError):
        mixing_rates(*arguments)


# --- choosing ---


def test_answer_log_probs_agrees_with_the_loss():
    torch.manual_seed(0)
    model = t5(T5Config(23, 16, 1, 1, 2, 8, 16))
    ids, mask, labels = pad_pairs([([5, 6, 7, 1], [8, 9, 1]), ([5, 1], [4, 1]), ([2, 3, 1], [6, 7, 8, 9, 1])])
    with torch.no_grad():
        loss = seq2seq_loss(model, ids, mask, labels)
        answers = [[8, 9, 1], [4, 1], [6, 7, 8, 9, 1]]
        scores = score_answers(model, ids, mask, answers)
        assert torch.allclose(-scores.diagonal().sum() / (labels != -100).sum(), loss, atol=1e-6)
        for b, row in enumerate(ids):  # one text and one answer at a time, without any padding
            for n, answer in enumerate(answers):
                alone = seq2seq_loss(model, row[mask[b]][None], None, torch.tensor([answer])) * len(answer)
                assert torch.allclose(-scores[b, n], alone, atol=1e-5)


def test_probabilities_of_all_answers_sum_to_one():
    torch.manual_seed(0)
    model = t5(T5Config(4, 8, 1, 1, 2, 4, 8))
    answers = [[a, b] for a in range(4) for b in range(4)]
    scores = score_answers(model, torch.tensor([[2, 3, 1]]), None, answers)
    assert torch.allclose(scores.exp().sum(), torch.tensor(1.0), atol=1e-5)


def test_padding_alone_has_log_probability_0():
    logits = torch.randn(2, 3, 5)
    assert answer_log_probs(logits, torch.full((2, 3), -100)).tolist() == [0, 0]
    assert answer_log_probs(logits.bfloat16(), torch.zeros(2, 3, dtype=torch.long)).dtype == torch.float32


# --- alignment ---


def test_aligned_share_by_hand():
    weights = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [1.0, 0.0, 0.0]])
    assert aligned_share(weights, [(0, 0), (1, 1), (2, 2)]) == 2 / 3  # the tie of word 2 goes to the first
    several = [(1, 0), (0, 0), (2, 1)]  # one of several is enough; words in no link do not count
    assert aligned_share(weights, several) == 0.5
    with pytest.raises(ValueError, match="links"):
        aligned_share(weights, [])
