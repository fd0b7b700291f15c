"""Dropout against transformers: with the same seed, the very same numbers are dropped in every place."""

import pytest
import torch

import llmkit
from llmkit.layers.attention import MultiHeadAttention, attention, fused_attention
from llmkit.layers.dropout import drops_out
from llmkit.layers.masks import CAUSAL
from llmkit.models import FAMILIES

pytest.importorskip("transformers")
from parity import ENCODERS, MODELS, SEQ2SEQ, ids_for, make_theirs, relative_error  # noqa: E402
from test_parity import LIMIT  # noqa: E402

# Each kind of dropout under its names in config.json, each with a share of its own.
SHARES = {
    **dict.fromkeys(["resid_pdrop", "hidden_dropout_prob", "dropout", "dropout_rate"], 0.3),
    **dict.fromkeys(["attn_pdrop", "attention_probs_dropout_prob", "attention_dropout"], 0.2),
    **dict.fromkeys(["embd_pdrop", "activation_dropout"], 0.1),
    "classifier_dropout": 0.4,
}
NAMES = [*MODELS, *ENCODERS, "t5", "t5 v1.1", "bart"]


def shares_of(config):
    """Those that a family has. (T5's and BART's classifiers are not built here.)"""
    ours = {"classifier_dropout"} if config.model_type in ("bert", "roberta") else set()
    return [key for key in SHARES if hasattr(config, key) and (key != "classifier_dropout" or key in ours)]


def pair(name, folder):
    """transformers' model, and ours from its file, both in training."""
    theirs = make_theirs(name)
    for key in shares_of(theirs.config):
        setattr(theirs.config, key, SHARES[key])
    theirs.save_pretrained(folder)
    ours, _ = llmkit.from_pretrained(folder)
    assert not ours.training
    return type(theirs).from_pretrained(folder).train(), ours.train()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers_are_dropped(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    ids, inputs = ids_for(theirs), {"input_ids": ids_for(theirs)}
    given = (ids,)
    if name in SEQ2SEQ:
        given = ids, ids_for(theirs, (3, 11), seed=2)
        inputs["decoder_input_ids"] = given[1]
    torch.manual_seed(0)
    expected = theirs(**inputs)
    torch.manual_seed(0)
    got = ours(*given)
    expected = expected.logits if "logits" in expected else expected.last_hidden_state
    assert relative_error(expected, got) < LIMIT
    assert relative_error(got, ours.eval()(*given)) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept(name, tmp_path):
    """Off in what from_pretrained gives; but whoever trains on, here or with transformers, starts with it."""
    theirs, ours = pair(name, tmp_path)
    saved = ours.config.to_hf()
    assert {key: saved.get(key) for key in shares_of(theirs.config)} == {
        key: SHARES[key] for key in shares_of(theirs.config)
    }


def test_a_config_without_a_word_means_theirs():
    """transformers leaves keys out of config.json whose values are its defaults."""
    for name in ("gpt2", "llama", "mixtral", "palm", "bert", "roberta", "t5", "bart"):
        theirs = (MODELS | ENCODERS | SEQ2SEQ)[name]().config
        config = {key: value for key, value in theirs.to_dict().items() if key not in SHARES}
        ours = FAMILIES[theirs.model_type].config.from_hf(config).to_hf()
        for key in shares_of(theirs):
            assert ours.get(key) == getattr(theirs, key), (name, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # bfloat16 with gradients goes another way
def test_weights_are_dropped_in_training_alone_and_the_mean_stays(dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 5, 8, dtype=dtype, requires_grad=True) for _ in range(3))
    draws = torch.stack([fused_attention(q, k, v, CAUSAL, dropout=0.5).detach().float() for _ in range(4000)])
    assert relative_error(attention(q, k, v, CAUSAL).detach().float(), draws.mean(0)) < 0.05
    first = draws[:, :, :, 0]  # the first query has one key: all of it, doubled, or nothing
    assert torch.unique((first / v[:, :, 0].detach().float()).round(decimals=1)).tolist() == [0.0, 2.0]
    layer, x = MultiHeadAttention(16, 2, dropout=1.0).to(dtype), torch.randn(1, 5, 16, dtype=dtype)
    seen = []
    for recorder in (None, seen.append):
        layer.recorder = recorder
        assert not layer.train()(x, CAUSAL).any() and layer.eval()(x, CAUSAL).any()
    assert all(weights.float().sum(-1).allclose(torch.ones(()), atol=0.01) for weights in seen)  # before any is dropped


def test_the_layers_own_switch_counts():
    """Whoever switches every Dropout off leaves the model in training mode."""
    layer, x = MultiHeadAttention(16, 2, dropout=0.9).train(), torch.randn(1, 5, 16)
    layer.dropout.eval()
    assert not drops_out(layer) and torch.equal(layer(x), layer(x))
    layer.eval()
    layer.dropout.train()
    assert drops_out(layer) and not torch.equal(layer(x), layer(x))
