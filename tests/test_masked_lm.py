"""Filling gaps: the exact answer, the model's, pairs, RoBERTa's rows, pseudo-log-likelihood."""

import math
import random

import pytest
import torch

from llmkit.data.masking import mask_tokens, replace_chosen
from llmkit.data.sentence_pairs import join_pair, next_sentence_pairs
from llmkit.data.toyland import STORIES
from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.filling import fillings
from llmkit.data.toyland.words import Pool, split
from llmkit.evaluation.pseudo_likelihood import pseudo_log_likelihood
from llmkit.layers.encoder_heads import fill_mask, masked_loss
from llmkit.models.bert import BertConfig, bert
from llmkit.models.roberta import position_ids
from llmkit.training.losses import label_loss

MASK = 4


def small_bert():
    torch.manual_seed(0)
    model = bert(BertConfig(30, 16, 2, n_heads=2, d_ff=32, max_len=24)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def a_batch():
    ids = torch.randint(5, 30, (3, 12), generator=torch.Generator().manual_seed(1))
    real = torch.arange(12) < torch.tensor([12, 9, 4])[:, None]
    return ids.masked_fill(~real, 0), real


def test_masked_loss_is_label_loss():
    model, (ids, real) = small_bert(), a_batch()
    inputs, labels = mask_tokens(ids, MASK, 30, ~real, 0.4, torch.Generator().manual_seed(0))
    wanted, got = label_loss(model, inputs, real, labels), masked_loss(model, inputs, real, labels)
    assert torch.allclose(wanted, got, atol=1e-6)
    first, second = (torch.autograd.grad(loss, model.parameters(), allow_unused=True) for loss in (wanted, got))
    assert all(a is b is None or torch.allclose(a, b, atol=1e-5) for a, b in zip(first, second, strict=True))
    with pytest.raises(ValueError, match="every target is -100"):
        masked_loss(model, ids, real, torch.full_like(ids, -100))


def test_fill_mask():
    model, (ids, real) = small_bert(), a_batch()
    gaps = [(0, 3), (0, 7), (2, 1)]
    for b, t in gaps:
        ids[b, t] = MASK
    tokens, probs = fill_mask(model, ids, MASK, 4, real)
    assert tokens.shape == probs.shape == (3, 4) and not probs.requires_grad
    wanted = model(ids, real).softmax(-1)
    for row, (b, t) in enumerate(gaps):
        assert tokens[row, 0] == wanted[b, t].argmax()
        assert torch.allclose(probs[row], wanted[b, t, tokens[row]], atol=1e-6)
        assert (probs[row].diff() <= 0).all()
    assert fill_mask(model, ids[1:2], MASK, 4)[0].shape == (0, 4)
    half = lambda ids, mask: model(ids, mask).bfloat16()  # noqa: E731
    exact = half(ids, real).float().softmax(-1)[0, 3].topk(4).values
    assert torch.equal(fill_mask(half, ids, MASK, 4, real)[1][0], exact)


@torch.no_grad()
def test_packed_texts_do_not_see_each_other():
    model, (ids, _) = small_bert(), a_batch()
    documents = torch.tensor([[0] * 5 + [1] * 7])
    packed = model(ids[:1], documents=documents)
    assert torch.allclose(packed[:, :5], model(ids[:1, :5]), atol=1e-5)
    assert torch.allclose(packed[:, 5:], model(ids[:1, 5:]), atol=1e-5)


def test_pseudo_log_likelihood():
    model = small_bert()
    ids = torch.tensor([2, 7, 9, 8, 3])
    special = ids < 5
    scores = pseudo_log_likelihood(model, ids, MASK, special)
    for t in (1, 2, 3):
        copy = ids.clone()
        copy[t] = MASK
        assert torch.allclose(scores[t], model(copy[None])[0, t].log_softmax(-1)[ids[t]], atol=1e-5)
    assert scores[0] == scores[-1] == 0 and (scores[1:4] < 0).all()
    assert (pseudo_log_likelihood(model, ids, MASK) < 0).all()
    assert pseudo_log_likelihood(model, ids, MASK, torch.ones(5)).tolist() == [0.0] * 5
    logits = 5 * torch.randn(1, 5, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    half = pseudo_log_likelihood(lambda ids, mask: logits.expand(5, -1, -1), ids, MASK)
    assert torch.equal(half, logits[0].float().log_softmax(-1)[torch.arange(5), ids])


@pytest.mark.parametrize("pad_id", [1, 0, 7])
def test_position_ids_are_transformers(pad_id):
    modeling = pytest.importorskip("transformers.models.roberta.modeling_roberta")
    theirs = getattr(modeling.RobertaEmbeddings, "create_position_ids_from_input_ids", None)
    theirs = theirs or modeling.create_position_ids_from_input_ids
    for seed in range(5):
        ids = torch.randint(0, 9, (4, 11), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(position_ids(ids, pad_id), theirs(ids, pad_id))


def test_replace_chosen_leaves_the_others_alone():
    ids, _ = a_batch()
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    before = ids.clone()
    out = replace_chosen(ids, chosen, MASK, 30, torch.Generator().manual_seed(0))
    assert torch.equal(out[~chosen], ids[~chosen]) and torch.equal(ids, before) and (out == MASK).any()


def test_pairs():
    assert join_pair([7], [8, 9], 1, 2) == ([1, 7, 2, 8, 9, 2], [0, 0, 0, 1, 1, 1])
    assert join_pair([7], [], 1, 2) == ([1, 7, 2], [0, 0, 0])
    documents = [[f"{d}.{s}" for s in range(5)] for d in range(200)]
    for swap in (False, True):
        pairs = next_sentence_pairs(documents, random.Random(0), swap)
        assert len(pairs) == 800 and 0.44 < sum(truth for _, _, truth in pairs) / 800 < 0.56
        for first, second, truth in pairs:
            (d, s), (e, t) = (map(int, part.split(".")) for part in (first, second))
            assert truth == (d == e and t == s + 1)
            assert truth or (e == d and t == s - 1 if swap else e != d)
    with pytest.raises(ValueError, match="another document"):
        next_sentence_pairs(documents[:1], random.Random(0))
    with pytest.raises(ValueError, match="none of them empty"):
        next_sentence_pairs([*documents[:3], []], random.Random(0))
    assert next_sentence_pairs(documents[:1], random.Random(0), swap=True)


# --- the exact answer in a gap ---


@pytest.fixture(scope="module")
def world():
    """Few enough texts to enumerate all of them."""
    rules = {
        "start": lambda m: [(2, "The <a=animals> saw the <b=animals but a>. <end>"), (1, "A <a=animals> slept.")],
        "end": lambda m: [(3, "The {a} ran."), (1, "The {b} ran."), (1, "It ran.")],
    }
    return World(rules, {"animals": Pool(["cat", "dog", "owl"], [3, 2, 1])})


def test_fillings_are_exact(world):
    documents = {}
    for text, p in world.documents():
        documents[text] = documents.get(text, 0.0) + p
    assert math.isclose(sum(documents.values()), 1.0)
    for text in documents:
        tokens = split(text)
        for place in range(len(tokens)):
            others = {}
            for other, p in documents.items():
                word = split(other)
                rest = [*word[:place], *word[place + 1 :]]
                if len(word) == len(tokens) and rest == [*tokens[:place], *tokens[place + 1 :]]:
                    others[word[place]] = others.get(word[place], 0.0) + p
            got = fillings(world, tokens, place)
            assert got.keys() == others.keys() and list(got.values()) == sorted(got.values(), reverse=True)
            assert all(math.isclose(got[w], others[w] / sum(others.values())) for w in others)


def test_fillings_of_a_beginning(world):
    beginning = split("The cat saw")
    got = fillings(world, beginning, 1, complete=False)
    assert got == pytest.approx({" cat": 1 / 2, " dog": 1 / 3, " owl": 1 / 6})
    with pytest.raises(ValueError, match="no token at place 1"):
        fillings(world, beginning, 1)
    with pytest.raises(ValueError, match="no token at place 2"):
        fillings(world, split("A saw cat."), 2)
    with pytest.raises(IndexError, match="place 3"):
        fillings(world, beginning, 3)


def test_the_last_word_is_what_next_word_says():
    """With nothing to the right, both sides are the left side."""
    tokens = split(STORIES.sample(random.Random(3)).text)[:12]
    left = STORIES.next_word("".join(tokens[:-1]))
    assert fillings(STORIES, tokens, 11, complete=False) == pytest.approx(left)
