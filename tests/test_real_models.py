"""Real weights from pip packages, against a real llama.cpp on the same file. About half a minute on two cores."""

import pytest
import torch
from llama_cpp import LlamaCpp

from llmkit.generation.generate import generate
from llmkit.generation.logits import GREEDY
from llmkit.tokenizers.chat import encode_chat

pytest.importorskip("gguf")
BEGINNING = "Once upon a time, there was a little girl"
TEXTS = (
    "Hello, world! It's 12345.67 o'clock.",
    "  two  spaces\n\n\nand lines\t\ttabs   ",
    "Ein schöner Tag für 猫 und 🐈 — naïve café",
    "def f(x):\n    return x**2 + 1e-10  # (comment)\n",
    "I'll we've THEY'RE don't <|im_end|> is only text here",
)
CHAT = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def peer(smollm2_path):
    pytest.importorskip("xllamacpp")
    return LlamaCpp(smollm2_path)


def test_smollm2_is_whole(smollm2):
    model, tokenizer = smollm2
    assert model.n_params() == 134_515_008
    assert model.lm_head.weight is model.transformer.embed.tokens.weight
    assert tokenizer.vocab_size == 49152


def test_smollm2_tells_the_story_that_llama_cpp_tells(smollm2, peer):
    """llama.cpp computes with 8-bit activations, so two texts may part later on; ten tokens are the same."""
    model, tokenizer = smollm2
    ids = tokenizer.encode(BEGINNING)
    ours = generate(model, torch.tensor([ids]), 10, GREEDY)[0, len(ids) :].tolist()
    assert tokenizer.decode(ours) == " named Emma who loved to play in the sun."
    assert peer.greedy(ids, 10) == ours


def test_smollm2_cuts_texts_like_llama_cpp(smollm2, peer):
    _, tokenizer = smollm2
    for text in TEXTS:
        assert tokenizer.encode(text) == peer.tokenize(text), text
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_smollm2_has_llama_cpps_favourite_at_nearly_all_positions(smollm2, peer):
    model, tokenizer = smollm2
    text = (
        "The sun was going down behind the hills. A farmer walked home slowly, because he had worked all day and was "
    )
    text += "very tired. His dog ran ahead and waited for him at the gate. In the kitchen there was bread and soup. "
    text += "The capital of Italy is Rome, and the capital of Spain is Madrid. Water boils at 100 degrees Celsius and "
    text += "freezes at 0 degrees. To make tea, you need hot water, a cup and some tea leaves. Wait for a few minutes, "
    text += "then take out the leaves. You can add milk or sugar if you like. Many people drink tea in the afternoon."
    ids = tokenizer.encode(text)
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0].argmax(-1).tolist()
    theirs = [peer.greedy(ids[: t + 1], 1)[0] for t in range(len(ids))]
    agree = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ids)
    print(f"the same favourite at {agree:.1%} of {len(ids)} positions")
    assert agree >= 0.95


def test_smollm2_answers_a_chat_prompt(smollm2, peer):
    model, tokenizer = smollm2
    ids, _ = encode_chat(CHAT, tokenizer, "chatml", prompt=True)
    assert ids == peer.tokenize(peer.chat_prompt(CHAT), special=True)
    stop = [tokenizer.special_tokens["<|im_end|>"]]
    answer = generate(model, torch.tensor([ids]), 16, GREEDY, stop_tokens=stop)[0, len(ids) :].tolist()
    assert "Paris" in tokenizer.decode(answer, skip_special=True)
