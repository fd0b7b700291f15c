"""Every family against transformers, through the file: logits, gradients, padding, bf16, caches, saving."""

import pytest
import torch
from torch.nn import functional as F

import llmkit
from llmkit.checkpoints.weights import stored_weights
from llmkit.layers.cache import growing_cache, ring_cache, static_cache
from llmkit.models import FAMILIES

pytest.importorskip("transformers")
from parity import ENCODERS, MODELS, SEQ2SEQ, ids_for, make_theirs, relative_error, transformers  # noqa: E402

LIMIT = 1e-5  # relative, float32: wrong eps or the wrong GELU is above it, rounding is below 2e-6


@pytest.fixture(params=list(MODELS))
def pair(request, tmp_path):
    theirs = make_theirs(request.param)
    theirs.save_pretrained(tmp_path)
    ours, tokenizer = llmkit.from_pretrained(tmp_path)
    assert tokenizer is None
    return theirs, ours


def test_every_family_has_a_row():
    rows = {**MODELS, **ENCODERS, **SEQ2SEQ}
    assert {name.split()[0].replace("palm", "cohere") for name in rows} == set(FAMILIES)


@torch.no_grad()
def test_logits(pair):
    theirs, ours = pair
    ids = ids_for(theirs)
    assert relative_error(theirs(ids).logits, ours(ids)) < LIMIT
    assert (
        torch.equal(ours(ids, last_only=True)[:, 0], ours(ids)[:, -1])
        or relative_error(ours(ids)[:, -1], ours(ids, last_only=True)[:, 0]) < 1e-6
    )


@torch.no_grad()
@pytest.mark.parametrize("name", list(MODELS))
def test_logits_without_noise(name, tmp_path):
    """Small activations show an eps that large ones hide."""
    theirs = make_theirs(name, noise=0.0)
    theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    ids = ids_for(theirs)
    assert relative_error(theirs(ids).logits, ours(ids)) < LIMIT


def test_gradients(pair):
    theirs, ours = pair
    ids = ids_for(theirs, (2, 24))
    F.cross_entropy(theirs(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    F.cross_entropy(ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for parameter in ours.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    got = stored_weights(ours, FAMILIES[theirs.config.model_type].weights(ours.config))
    for name, parameter in theirs.named_parameters():
        assert relative_error(parameter.grad, _under_their_name(name, got)) < 5e-5, name


def _under_their_name(name, tensors):
    """transformers 5 names Mixtral's parts otherwise in memory than on disk, and stacks the experts."""
    name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
    if ".mlp.experts." not in name:
        return tensors[name]
    head, part = name.replace(".mlp.", ".block_sparse_moe.").rsplit(".", 1)
    weight = "{}.{}.{}.weight".format
    if part == "down_proj":
        return torch.stack([tensors[weight(head, e, "w2")] for e in range(5)])
    return torch.stack([torch.cat([tensors[weight(head, e, w)] for w in ("w1", "w3")]) for e in range(5)])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(pair, side):
    theirs, ours = pair
    ids = ids_for(theirs, (3, 20))
    mask = torch.ones_like(ids)
    for row, n in enumerate((0, 5, 13)):
        mask[row, :n] = 0
    if side == "right":
        mask = mask.flip(1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
    got = ours(ids, attention_mask=mask)
    real = mask.bool()
    assert got.isfinite().all()
    assert relative_error(expected[real], got[real]) < LIMIT
    alone = ours(ids[2:][mask[2:].bool()][None])
    assert relative_error(alone[0], got[2][real[2]]) < LIMIT


@torch.no_grad()
def test_bfloat16(pair, tmp_path_factory):
    """In bf16 we are as far from float32 as transformers is, no farther than twice."""
    theirs, ours = pair
    folder = tmp_path_factory.mktemp("bf16")
    theirs.bfloat16().save_pretrained(folder)
    exact = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    half = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ours, _ = llmkit.from_pretrained(folder)
    assert next(ours.parameters()).dtype == torch.bfloat16
    ids = ids_for(theirs)
    expected = exact(ids).logits
    their_error = (half(ids).logits.float() - expected).abs().mean()
    our_error = (ours(ids).float() - expected).abs().mean()
    assert our_error < 1.5 * their_error


@torch.no_grad()
@pytest.mark.parametrize("kind", ["growing", "static"])
def test_cached_decoding(pair, kind):
    theirs, ours = pair
    ids = ids_for(theirs, (2, 24))
    n = len(ours.transformer.blocks)
    cache = growing_cache(n) if kind == "growing" else static_cache(n, 24)
    steps = [ours(ids[:, :10], cache=cache), ours(ids[:, 10:13], cache=cache)]
    steps += [ours(ids[:, t : t + 1], cache=cache) for t in range(13, 24)]
    assert relative_error(ours(ids), torch.cat(steps, 1)) < LIMIT


@torch.no_grad()
def test_cached_decoding_with_left_padding(pair):
    theirs, ours = pair
    ids = ids_for(theirs, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    full, cache = ours(ids, attention_mask=mask), ours.new_cache(16)
    steps = [ours(ids[:, :9], attention_mask=mask[:, :9], cache=cache)]
    steps += [ours(ids[:, t : t + 1], attention_mask=mask[:, : t + 1], cache=cache) for t in range(9, 16)]
    real = mask.bool()
    assert relative_error(full[real], torch.cat(steps, 1)[real]) < LIMIT


@torch.no_grad()
@pytest.mark.parametrize("prefill", [1, 3, 7, 12])
@pytest.mark.parametrize("padded", [False, True])
def test_ring_cache(tmp_path, prefill, padded):
    theirs = make_theirs("mistral window")
    theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    ids, mask = ids_for(theirs, (2, 30)), torch.ones(2, 30, dtype=torch.long)
    if padded:
        mask[1, :5] = 0
    cache = ring_cache(len(ours.transformer.blocks), ours.config.window)
    ends = [prefill, *range(prefill + 1, 20), 23, 24, 30]  # one at a time, then several at once
    steps = [
        ours(ids[:, a:b], attention_mask=mask[:, :b] if padded else None, cache=cache)
        for a, b in zip([0, *ends], ends, strict=False)
    ]
    real = mask.bool()
    assert relative_error(ours(ids, attention_mask=mask if padded else None)[real], torch.cat(steps, 1)[real]) < LIMIT
    assert cache[0].k.size(-2) == ours.config.window


@torch.no_grad()
def test_what_comes_later_changes_nothing(pair):
    theirs, ours = pair
    ids = ids_for(theirs, (2, 12))
    other = ids.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 99
    a, b = ours(ids), ours(other)
    assert torch.equal(a[:, :7], b[:, :7]) or relative_error(a[:, :7], b[:, :7]) < 1e-6
    assert not torch.allclose(a[:, 7:], b[:, 7:])


@torch.no_grad()
def test_packed_documents(pair):
    theirs, ours = pair
    ids = ids_for(theirs, (1, 20))
    documents = torch.tensor([[0] * 8 + [1] * 12])
    packed = ours(ids, documents=documents)
    assert relative_error(ours(ids[:, :8]), packed[:, :8]) < LIMIT
    assert relative_error(ours(ids[:, 8:]), packed[:, 8:]) < LIMIT
    padded = torch.tensor([[True] * 17 + [False] * 3])  # packed and padded: positions still begin anew
    got = ours(ids, attention_mask=padded, documents=documents)
    assert relative_error(ours(ids[:, 8:17]), got[:, 8:17]) < LIMIT


@torch.no_grad()
def test_save_is_read_back_by_transformers(pair, tmp_path_factory):
    theirs, ours = pair
    folder = tmp_path_factory.mktemp("saved")
    llmkit.save_pretrained(ours, folder)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(again) is type(theirs)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = ids_for(theirs)
    assert torch.equal(again.eval()(ids).logits, theirs(ids).logits)
