"""Would the parity tests notice? Bugs that people really make, put into a loaded model on purpose."""

import dataclasses

import pytest
import torch
from torch import nn

import llmkit
from llmkit.checkpoints import tables
from llmkit.layers import attention, blocks, masks, moe, rope
from llmkit.layers.norms import RMSNorm

pytest.importorskip("transformers")
from parity import ids_for, make_theirs, relative_error  # noqa: E402
from test_parity import LIMIT  # noqa: E402


def _every(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def _swap(block, a, b):
    first, second = getattr(block, a), getattr(block, b)
    setattr(block, a, second), setattr(block, b, first)


def swapped_norms(model, monkeypatch):
    for block in model.transformer.blocks:
        _swap(block, "attn_norm", "mlp_norm")


def exact_gelu(model, monkeypatch):
    for block in model.transformer.blocks:
        block.mlp.activation = nn.functional.gelu


def layer_norm_eps(model, monkeypatch):
    for norm in _every(model, nn.LayerNorm):
        norm.eps = 1e-12


def rms_eps(model, monkeypatch):
    for norm in _every(model, RMSNorm):
        norm.eps = 1e-5


def other_theta(model, monkeypatch):
    model.transformer.rope.frequencies = rope.rope_frequencies(8, 5e5)


def no_scaling(model, monkeypatch):
    model.transformer.rope.frequencies = rope.rope_frequencies(8, model.config.rope_theta)


def no_attention_factor(model, monkeypatch):
    model.transformer.rope.attention_factor = 1.0


def turned_backwards(model, monkeypatch):
    real = rope.rotate
    monkeypatch.setattr(attention, "rotate", lambda x, cos, sin: real(x, cos, -sin))


def gate_and_up_swapped(model, monkeypatch):
    for block in model.transformer.blocks:
        _swap(block.mlp, "gate_proj", "up_proj")


def experts_gate_and_up_swapped(model, monkeypatch):
    for block in model.transformer.blocks:
        for expert in block.mlp.experts:
            _swap(expert, "gate_proj", "up_proj")


def not_renormalised(model, monkeypatch):
    def route(logits, top_k):
        return logits.softmax(-1).topk(top_k, dim=-1)

    monkeypatch.setattr(moe, "route", route)


def window_one_too_wide(model, monkeypatch):
    model.transformer.window += 1


def one_branch_after_the_other(model, monkeypatch):
    def forward(self, x, mask=None, rotary=None, cache=None):
        x = x + self.attn(self.norm(x), mask, rotary, cache)
        return x + self.mlp(self.norm(x))

    monkeypatch.setattr(blocks.ParallelBlock, "forward", forward)


def heads_interleaved(model, monkeypatch):
    """Query head h reads key-value head h mod KV instead of h // group."""
    monkeypatch.setattr(
        attention,
        "fused_attention",
        lambda q, k, v, mask, scale, dropout: attention.attention(
            q, *(x.repeat(1, q.size(1) // x.size(1), 1, 1) for x in (k, v)), mask, scale
        ),
    )


def mask_off_by_one(model, monkeypatch):
    monkeypatch.setattr(
        attention,
        "fused_attention",
        lambda q, k, v, mask, scale, dropout: attention.attention(
            q, attention.repeat_kv(k, q.size(1)), attention.repeat_kv(v, q.size(1)),
            masks.causal_mask(q.size(-2), k.size(-2)).logical_or(torch.eye(q.size(-2)).roll(1, 1).bool()), scale,
        ),
    )  # fmt: skip


BUGS = [
    ("gpt2", swapped_norms), ("gpt2", exact_gelu), ("gpt2", layer_norm_eps), ("gpt2", mask_off_by_one),
    ("llama", rms_eps), ("llama", other_theta), ("llama", turned_backwards), ("llama", gate_and_up_swapped),
    ("llama gqa llama3", no_scaling), ("llama gqa llama3", heads_interleaved),
    ("llama mqa yarn tied", no_attention_factor), ("llama mqa yarn tied", no_scaling),
    ("palm", one_branch_after_the_other), ("palm", layer_norm_eps), ("palm", gate_and_up_swapped),
    ("mistral window", window_one_too_wide), ("mixtral", experts_gate_and_up_swapped), ("mixtral", not_renormalised),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name,bug", BUGS, ids=[f"{name}: {bug.__name__}" for name, bug in BUGS])
def test_bug_is_seen(name, bug, tmp_path, monkeypatch):
    errors = []
    for noise in (0.1, 0.0):  # either kind of model may be the one that shows it
        theirs = make_theirs(name, noise)
        theirs.save_pretrained(tmp_path / str(noise))
        ours, _ = llmkit.from_pretrained(tmp_path / str(noise))
        ids = ids_for(theirs)
        expected = theirs(ids).logits
        assert relative_error(expected, ours(ids)) < LIMIT
        with monkeypatch.context() as patch:
            bug(ours, patch)
            errors.append(relative_error(expected, ours(ids)))
    assert max(errors) > 2 * LIMIT, errors


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "palm"])
def test_weights_read_the_wrong_way_are_seen(name, tmp_path, monkeypatch):
    theirs = make_theirs(name)
    theirs.save_pretrained(tmp_path)
    wrong = tables.Transpose if name == "gpt2" else tables.PairsToHalves
    monkeypatch.setattr(wrong, "load", lambda self, stored: stored)
    if name == "gpt2":  # square matrices only: the others are refused by their shape
        theirs.config.n_inner = 32
        theirs = type(theirs)(theirs.config).eval()
        theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    assert dataclasses.is_dataclass(ours.config)
    ids = ids_for(theirs)
    assert relative_error(theirs(ids).logits, ours(ids)) > 1e-3
