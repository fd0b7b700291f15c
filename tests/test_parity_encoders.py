"""BERT and RoBERTa with every head against transformers, through the file; then what only an encoder has."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import llmkit
from llmkit.checkpoints.safetensors import SafetensorsFolder
from llmkit.checkpoints.tables import WeightsError
from llmkit.checkpoints.weights import stored_weights
from llmkit.layers.encoder_heads import SequenceClassifier, first_token, max_pool, mean_pool
from llmkit.models import FAMILIES, bert, roberta

pytest.importorskip("transformers")
from parity import ENCODERS, ids_for, make_theirs, relative_error  # noqa: E402
from test_parity import LIMIT  # noqa: E402


@pytest.fixture(params=list(ENCODERS))
def pair(request, tmp_path):
    theirs = make_theirs(request.param)
    theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    return theirs, ours


def output(theirs, *args, **kwargs):
    """Logits, or the hidden states of a model without a head."""
    out = theirs(*args, **kwargs)
    return out.logits if "logits" in out else out.last_hidden_state


@torch.no_grad()
def test_logits(pair):
    theirs, ours = pair
    ids = ids_for(theirs)
    types = torch.randint(0, theirs.config.type_vocab_size, ids.shape, generator=torch.Generator().manual_seed(2))
    assert relative_error(output(theirs, ids), ours(ids)) < LIMIT
    assert relative_error(output(theirs, ids, token_type_ids=types), ours(ids, types=types)) < LIMIT


@torch.no_grad()
@pytest.mark.parametrize("name", list(ENCODERS))
def test_logits_without_noise(name, tmp_path):
    """Small activations show an eps that large ones hide."""
    theirs = make_theirs(name, noise=0.0)
    theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    ids = ids_for(theirs)
    assert relative_error(output(theirs, ids), ours(ids)) < LIMIT


@torch.no_grad()
def test_hidden_states(pair):
    theirs, ours = pair
    ids = ids_for(theirs)
    expected = theirs(ids, output_hidden_states=True).hidden_states
    x = ours.transformer.embed(ids, torch.arange(ids.size(1)))
    assert relative_error(expected[0], x) < LIMIT
    for block, hidden in zip(ours.transformer.blocks, expected[1:], strict=True):
        x = block(x)
        assert relative_error(hidden, x) < LIMIT


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert model", "roberta model"])
def test_pooler(name, tmp_path):
    theirs = make_theirs(name)
    theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    ids = ids_for(theirs)
    assert relative_error(theirs(ids).pooler_output, ours.pooled(ours(ids))) < LIMIT
    mask = torch.ones_like(ids)
    mask[0, :7] = 0  # padding on the left: the first token stands at 7
    pooled = ours.pooled(ours(ids, mask), mask)
    assert relative_error(ours.pooled(ours(ids[:1, 7:])), pooled[:1]) < LIMIT
    assert relative_error(ours.pooled(ours(ids[1:])), pooled[1:]) < LIMIT


def test_gradients(pair):
    theirs, ours = pair
    ids = ids_for(theirs, (2, 24))
    expected, got = output(theirs, ids), ours(ids)
    target = torch.randint(0, got.size(-1), got.shape[:-1], generator=torch.Generator().manual_seed(3)).flatten()
    F.cross_entropy(expected.flatten(0, -2), target).backward()
    F.cross_entropy(got.flatten(0, -2), target).backward()
    for parameter in ours.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    tensors = stored_weights(ours, FAMILIES[theirs.config.model_type].weights(ours.config))
    for name, parameter in theirs.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        error = (gradient - tensors[name]).abs().max() / gradient.abs().max().clamp(min=1e-3)
        assert error < 5e-5, name


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(pair, side):
    theirs, ours = pair
    ids = ids_for(theirs, (3, 20))
    mask = torch.ones_like(ids)
    for row, n in enumerate((0, 5, 13)):
        mask[row, :n] = 0
    mask = mask.flip(1) if side == "right" else mask
    ids = ids.masked_fill(mask == 0, theirs.config.pad_token_id)
    got = ours(ids, mask)
    assert got.isfinite().all()
    alone = ours(ids[2:][mask[2:].bool()][None])
    per_token = got.dim() == 3
    assert relative_error(alone[0], got[2][mask[2].bool()] if per_token else got[2]) < LIMIT
    if side == "left":
        if not per_token:
            return  # transformers' pooler reads the padding in front; ours the first token
        if theirs.config.model_type == "bert":  # which counts padding unless it is told the positions
            expected = output(theirs, ids, mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
        else:
            expected = output(theirs, ids, mask)
    else:
        expected = output(theirs, ids, mask)
    real = mask.bool()
    assert relative_error(expected[real] if per_token else expected, got[real] if per_token else got) < LIMIT


@pytest.mark.parametrize("name", list(ENCODERS))
def test_fresh_weights_spread_as_theirs(name, tmp_path):
    theirs = make_theirs(name, noise=0.0)
    theirs.save_pretrained(tmp_path)
    config = llmkit.from_pretrained(tmp_path)[0].config
    family = FAMILIES[theirs.config.model_type]
    tensors = stored_weights(family.build(config), family.weights(config))
    for part, parameter in theirs.named_parameters():
        if parameter.numel() >= 32 * 32:
            assert tensors[part].std() == pytest.approx(parameter.std().item(), rel=0.15), part


@torch.no_grad()
def test_both_sides_are_read(pair):
    _, ours = pair
    ids = torch.arange(3, 15)[None]
    other = ids.clone()
    other[0, 9] = 50
    a, b = ours(ids), ours(other)
    place = (0, 0) if a.dim() == 3 else (0,)
    assert (a[place] - b[place]).abs().max() > 1e-4  # a later token changes what the first one is told


@torch.no_grad()
def test_bfloat16(pair, tmp_path_factory):
    theirs, _ = pair
    folder = tmp_path_factory.mktemp("bf16")
    theirs.bfloat16().save_pretrained(folder)
    kind = type(theirs)
    exact, half = (kind.from_pretrained(folder, dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16))
    ours, _ = llmkit.from_pretrained(folder)
    assert next(ours.parameters()).dtype == torch.bfloat16
    ids = ids_for(theirs)
    expected = output(exact, ids)
    their_error = (output(half, ids).float() - expected).abs().mean()
    assert (ours(ids).float() - expected).abs().mean() < 1.5 * their_error


@torch.no_grad()
def test_save_is_read_back_by_transformers(pair, tmp_path_factory):
    theirs, ours = pair
    folder = tmp_path_factory.mktemp("saved")
    llmkit.save_pretrained(ours, folder)
    again, report = type(theirs).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert again.config.architectures == [type(theirs).__name__]
    assert again.config.id2label == theirs.config.id2label
    ids = ids_for(theirs)
    assert torch.equal(output(again.eval(), ids), output(theirs, ids))


@torch.no_grad()
def test_old_names_gamma_and_beta(tmp_path):
    """bert-base-uncased as it lies on the Hub: TensorFlow's names, the tied matrix twice, the next-sentence head."""
    theirs = make_theirs("bert")
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = dict(SafetensorsFolder(tmp_path))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.seq_relationship.weight"], old["cls.seq_relationship.bias"] = torch.zeros(2, 32), torch.zeros(2)
    old["bert.pooler.dense.weight"], old["bert.pooler.dense.bias"] = torch.zeros(32, 32), torch.zeros(32)
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]

    save_file(old, file)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["BertForPreTraining"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours, _ = llmkit.from_pretrained(tmp_path)
    ids = ids_for(theirs)
    assert relative_error(theirs(ids).logits, ours(ids)) < LIMIT
    assert ours.config.to_hf()["architectures"] == ["BertForMaskedLM"]  # what is saved has no head that it lacks


@torch.no_grad()
def test_padding_alone_is_finite_and_positions_are_limited(pair):
    _, ours = pair
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    ids = torch.tensor([[5, 6, 7], [1, 1, 1]])
    got = ours(ids, mask)
    assert got.isfinite().all()
    assert relative_error(ours(ids[:1])[0], got[0]) < LIMIT
    assert ours(torch.zeros(0, 4, dtype=torch.long)).shape[0] == 0  # an empty batch has an empty answer
    with pytest.raises(ValueError, match="65 tokens, but this model has learned 64 positions"):
        ours(torch.full((1, 65), 5))
    assert ours(torch.full((1, 64), 5)).isfinite().all()
    with pytest.raises(ValueError, match="at least|T >= 1"):
        ours(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="segment"):
        ours(ids, types=torch.full_like(ids, 7))


def test_a_way_to_pool_that_the_file_cannot_say_is_not_lost(tmp_path):
    config = bert.BertConfig(99, 32, 1, 4, 56, 64, head="ForSequenceClassification")
    model = bert.bert(config)
    model.pool = mean_pool
    with pytest.raises(WeightsError, match="pools with mean_pool would be read back"):
        llmkit.save_pretrained(model, tmp_path)
    model.pool = partial(mean_pool)  # which has no name
    with pytest.raises(WeightsError, match="pools with functools.partial"):
        llmkit.save_pretrained(model, tmp_path)
    assert not list(tmp_path.iterdir())
    model.pool = first_token
    llmkit.save_pretrained(model, tmp_path)


def test_a_head_that_the_config_does_not_name_is_not_saved(tmp_path):
    config = bert.BertConfig(99, 32, 1, 4, 56, 64, head="Model")
    pretrained = bert.bert(config)
    by_hand = SequenceClassifier(pretrained.transformer, config)
    with pytest.raises(WeightsError, match="has head='Model': it needs head='ForSequenceClassification'"):
        llmkit.save_pretrained(by_hand, tmp_path)
    assert not list(tmp_path.iterdir())
    for build, family in ((bert.bert, bert.BertConfig), (roberta.roberta, roberta.RobertaConfig)):
        config = family(99, 32, 1, 4, 56, 64, dropout=0.1, head="ForSequenceClassification")
        llmkit.save_pretrained(build(config), tmp_path)
        llmkit.save_pretrained(SequenceClassifier(bert.encoder(config), config), tmp_path)
        assert SequenceClassifier(bert.encoder(config), config).pool_dropout.p == build(config).pool_dropout.p


def test_configs_that_fit_no_model(tmp_path):
    good = bert.BertConfig(99, 32, 1, 4, 56, 64).to_hf()
    save_file({f"t{i}": torch.zeros(1) for i in range(9)}, tmp_path / "model.safetensors")  # widths are seen after it
    for change, words in (
        ({"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "swish9"}, "swish9"),
        ({"is_decoder": True}, "decoder"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"hidden_size": 33}, "33"),
        ({"tie_word_embeddings": False}, "output matrix of its own"),
        ({"pad_token_id": None}, "pad_token_id is null; Bert's is 0"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(good | change))
        with pytest.raises(WeightsError, match=words):
            llmkit.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pad_token_id is 0"):
        roberta.RobertaConfig(pad_id=0)
    short = {key: value for key, value in roberta.RobertaConfig().to_hf().items() if key != "pad_token_id"}
    assert roberta.RobertaConfig.from_hf(short).pad_id == 1  # as transformers has it
    untied_tagger = bert.BertConfig(head="ForTokenClassification").to_hf() | {"tie_word_embeddings": False}
    assert bert.BertConfig.from_hf(untied_tagger).head == "ForTokenClassification"  # no output matrix at all


def test_pooling():
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[0, 1, 1], [0, 0, 0]])
    assert mean_pool(hidden, mask).tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert max_pool(hidden, mask).tolist() == [[4.0, 5.0], [0.0, 0.0]]
    assert first_token(hidden, mask)[0].tolist() == [2.0, 3.0]
    assert mean_pool(hidden).tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert max_pool(hidden)[0].tolist() == [4.0, 5.0] and first_token(hidden)[1].tolist() == [6.0, 7.0]


def test_published_sizes():
    """With the pooler and no other head, as the papers count: 110M, 340M, 125M."""
    with torch.device("meta"):
        for config, build, n in (
            (bert.SIZES["bert-base"], bert.bert, 109_482_240),
            (bert.SIZES["bert-large"], bert.bert, 335_141_888),
            (roberta.SIZES["roberta-base"], roberta.roberta, 124_645_632),
        ):
            assert build(replace(config, head="Model")).n_params() == n
