"""Would the parity tests of BERT, RoBERTa, T5 and BART notice? Bugs that people make, put into a loaded model."""

import pytest
import torch
from torch import nn

import llmkit
from llmkit.layers import cross
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.norms import RMSNorm

pytest.importorskip("transformers")
from parity import ids_for, make_theirs, relative_error  # noqa: E402
from test_parity import LIMIT  # noqa: E402
from test_parity_encoders import output  # noqa: E402
from test_parity_seq2seq import padding, texts  # noqa: E402


def _swap(block, a, b):
    first, second = getattr(block, a), getattr(block, b)
    setattr(block, a, second), setattr(block, b, first)


def _stacks(model):
    return [model.transformer] if hasattr(model, "transformer") else [model.encoder, model.decoder]


def _blocks(model):
    return [block for stack in _stacks(model) for block in stack.blocks]


def norms_swapped(model, monkeypatch):
    for block in _blocks(model):
        _swap(block, "attn_norm", "mlp_norm")


def cross_norm_swapped(model, monkeypatch):
    for block in model.decoder.blocks:
        _swap(block, "attn_norm", "cross_norm")


def cross_and_self_swapped(model, monkeypatch):
    for block in model.decoder.blocks:
        for p in ("q_proj", "k_proj", "v_proj", "o_proj"):
            first, second = getattr(block.attn, p), getattr(block.cross_attn, p)
            setattr(block.attn, p, second), setattr(block.cross_attn, p, first)


def tanh_gelu(model, monkeypatch):
    for block in _blocks(model):
        block.mlp.activation = nn.GELU("tanh")


def exact_gelu(model, monkeypatch):
    for block in _blocks(model):
        block.mlp.activation = nn.GELU()


def layer_norm_eps(model, monkeypatch):
    for norm in (module for module in model.modules() if isinstance(module, nn.LayerNorm)):
        norm.eps = 1e-6


def rms_eps(model, monkeypatch):
    for norm in (module for module in model.modules() if isinstance(module, RMSNorm)):
        norm.eps = 1e-5


def causal_encoder(model, monkeypatch):
    _stacks(model)[0].causal = True


def offset_forgotten(model, monkeypatch):
    for stack in _stacks(model):
        stack.embed.positions.offset = 0


def embedding_norm_forgotten(model, monkeypatch):
    for stack in _stacks(model):
        stack.embed.norm = None


def segments_forgotten(model, monkeypatch):
    model.transformer.embed.types = None


def embedding_scale_forgotten(model, monkeypatch):
    for stack in _stacks(model):
        stack.embed.scale = 1.0


def scores_scaled(model, monkeypatch):
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.scale = 6**-0.5


def output_not_scaled(model, monkeypatch):
    model.scale = 1.0


def one_way_buckets_in_the_encoder(model, monkeypatch):
    model.encoder.position_bias.bidirectional = False


def two_way_buckets_in_the_decoder(model, monkeypatch):
    model.decoder.position_bias.bidirectional = True


def default_max_distance(model, monkeypatch):
    for stack in _stacks(model):
        stack.position_bias.max_distance = 128


def logits_bias_forgotten(model, monkeypatch):
    model.logits_bias = None


def gate_and_up_swapped(model, monkeypatch):
    for block in _blocks(model):
        _swap(block.mlp, "gate_proj", "up_proj")


def memory_padding_forgotten(model, monkeypatch):
    real = cross.CrossAttention.forward
    monkeypatch.setattr(
        cross.CrossAttention, "forward", lambda self, x, memory, mask=None, cache=None: real(self, x, memory, None)
    )


ENCODER_BUGS = [
    ("bert", norms_swapped), ("bert", tanh_gelu), ("bert", layer_norm_eps), ("bert", causal_encoder),
    ("bert", embedding_norm_forgotten), ("bert", segments_forgotten), ("roberta", offset_forgotten),
    ("bert classifier", causal_encoder), ("roberta tagger", norms_swapped),
]  # fmt: skip
SEQ2SEQ_BUGS = [
    ("t5", norms_swapped), ("t5", cross_norm_swapped), ("t5", cross_and_self_swapped), ("t5", scores_scaled),
    ("t5", output_not_scaled), ("t5", one_way_buckets_in_the_encoder), ("t5", two_way_buckets_in_the_decoder),
    ("t5", default_max_distance), ("t5", rms_eps), ("t5", memory_padding_forgotten), ("t5 v1.1", exact_gelu),
    ("t5 v1.1", gate_and_up_swapped), ("bart", tanh_gelu), ("bart", offset_forgotten),
    ("bart", embedding_norm_forgotten), ("bart", logits_bias_forgotten), ("bart", cross_norm_swapped),
    ("bart scaled relu", embedding_scale_forgotten),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name,bug", ENCODER_BUGS, ids=[f"{name}: {bug.__name__}" for name, bug in ENCODER_BUGS])
def test_encoder_bug_is_seen(name, bug, tmp_path, monkeypatch):
    def run(theirs, ours):
        ids = ids_for(theirs)
        return output(theirs, ids), ours(ids)

    assert _largest_error(name, bug, run, tmp_path, monkeypatch) > 2 * LIMIT


@torch.no_grad()
@pytest.mark.parametrize("name,bug", SEQ2SEQ_BUGS, ids=[f"{name}: {bug.__name__}" for name, bug in SEQ2SEQ_BUGS])
def test_seq2seq_bug_is_seen(name, bug, tmp_path, monkeypatch):
    def run(theirs, ours):
        ids, answer = texts()
        mask = padding((3, 40), "right", (0, 3, 9))
        return theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=answer).logits, ours(ids, answer, mask)

    assert _largest_error(name, bug, run, tmp_path, monkeypatch) > 2 * LIMIT


def _largest_error(name, bug, run, tmp_path, monkeypatch):
    errors = []
    for noise in (0.1, 0.0):  # either kind of model may be the one that shows it
        theirs = make_theirs(name, noise)
        theirs.save_pretrained(tmp_path / str(noise))
        ours, _ = llmkit.from_pretrained(tmp_path / str(noise))
        assert relative_error(*run(theirs, ours)) < LIMIT
        with monkeypatch.context() as patch:
            bug(ours, patch)
            errors.append(relative_error(*run(theirs, ours)))
    return max(errors)
