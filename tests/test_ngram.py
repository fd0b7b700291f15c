"""Lesson 01's parts: exact identities and properties that hold for every text."""

import math
import random

import pytest
import torch
from torch.nn import functional as F

from llmkit.data import toyland
from llmkit.data.toyland import END, split
from llmkit.evaluation.metrics import bits_per_byte, cross_entropy, perplexity
from llmkit.generation.sampling import pick, sample
from llmkit.models.bigram import bigram_gradient, train_bigram
from llmkit.models.ngram import count_ngrams, kneser_ney_ngram, witten_bell_ngram


@pytest.fixture(scope="module")
def documents():
    return [[*split(text), END] for text in toyland.stories(80)]


@pytest.mark.parametrize("train", [witten_bell_ngram, kneser_ney_ngram])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_probabilities_sum_to_one_in_every_context(train, n, documents):
    """Over the known tokens and the rest of the vocabulary, which all have the same share."""
    known = {token for document in documents for token in document}
    size = len(known) + 50
    model = train(documents, n, size)
    rng = random.Random(n)
    for _ in range(12):
        document = rng.choice(documents)
        context = document[: rng.randrange(len(document))]
        total = math.fsum(model.next_token(context).values())
        total += 50 * model.prob("never seen", ["<start>"] * (n - 1) + context)
        assert math.isclose(total, 1, rel_tol=1e-9)


def test_a_model_of_a_uniform_source_is_undecided_among_all():
    tokens = [str(i) for i in range(8)]
    documents = [[a, b] for a in tokens for b in tokens]
    model = kneser_ney_ngram(documents, 1, 8)
    assert math.isclose(perplexity(model.log_probs(documents[5])), 8, rel_tol=1e-9)


def test_longer_contexts_help_on_toyland_up_to_a_point():
    train = [[*split(text), END] for text in toyland.stories(500, seed=1)]
    new = toyland.stories(40, seed=2)
    tokens = [[*split(text), END] for text in new]
    size = len({t for document in train + tokens for t in document})
    loss = {}
    for n in (1, 2, 3):
        model = kneser_ney_ngram(train, n, size)
        loss[n] = cross_entropy([p for document in tokens for p in model.log_probs(document)])
    assert loss[1] > loss[2] + 1 > loss[3] + 1
    assert loss[3] > toyland.entropy(new).nats_per_token + 0.8, "no n-gram comes near the entropy"


def test_the_gradient_is_autograds():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    x, y = (torch.randint(7, (50,), generator=generator) for _ in range(2))
    (expected,) = torch.autograd.grad(F.cross_entropy(table[x], y), table)
    assert torch.allclose(bigram_gradient(table.detach(), x, y), expected, atol=1e-12)


def test_training_finds_the_counts():
    x, y = torch.tensor([0, 0, 0, 1, 1, 2] * 5), torch.tensor([1, 1, 2, 0, 0, 2] * 5)
    table, losses = train_bigram(x, y, 3, steps=2000, lr=2.0)
    trained = torch.softmax(table, -1)
    assert torch.allclose(trained[0], torch.tensor([0, 2 / 3, 1 / 3]), atol=2e-3)
    assert losses[0] == pytest.approx(math.log(3)) and all(
        b <= a + 1e-6 for a, b in zip(losses, losses[1:], strict=False)
    )


def test_sampling_follows_the_distribution():
    rng, counts = random.Random(0), {"a": 0, "b": 0, "c": 0}
    for _ in range(6000):
        counts[pick({"a": 0.5, "b": 0.0, "c": 0.5}, rng.random())] += 1
    assert counts["b"] == 0 and abs(counts["a"] - 3000) < 200


def test_sampling_from_the_source_gives_its_stories():
    text = sample(lambda tokens: toyland.next_word("".join(tokens)), ["The", " cat"], random.Random(3), END, 400)
    assert toyland.log_prob("The cat" + "".join(text)) > -math.inf
    assert sample(lambda tokens: {"x": 1.0}, [], random.Random(0), END, max_tokens=5) == ["x"] * 5


def test_measures_of_nothing_are_refused():
    for measure in (cross_entropy, perplexity):
        with pytest.raises(ValueError, match="at least one"):
            measure([])
    with pytest.raises(ValueError, match="at least one byte"):
        bits_per_byte([], "")
    with pytest.raises(ValueError, match="nothing to pick"):
        pick({}, 0.5)


def test_no_ngram_reaches_into_the_next_document():
    counts = count_ngrams([["a", "b"], ["c"]], 2)
    assert ("b",) not in counts and counts[("<start>",)] == {"a": 1, "c": 1}
