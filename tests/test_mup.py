"""muP: its rules by hand, coordinates that do not depend on the width, and AdamW with a rate for each group."""

import copy
import math

import pytest
import torch
from torch import nn

from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.losses import next_token_loss
from llmkit.training.mup import coordinate_check, fold, mup
from llmkit.training.optim import AdamW, decay_groups

IDS = torch.randint(61, (8, 24), generator=torch.Generator().manual_seed(0))
BASE, WIDTHS = 32, (32, 64, 128)


def build(kind, width, seed=0, **options):
    torch.manual_seed(seed)
    if kind == "gpt2":
        return gpt2(GPT2Config(61, 32, width, n_layers=2, n_heads=4))
    return llama(LlamaConfig(61, width, 2, 4, d_ff=3 * width, tie=kind == "tied", **options))


def base(kind, **options):
    with torch.device("meta"):
        return build(kind, BASE, **options)


def test_lr_scale_equals_torch_with_a_rate_for_each_group():
    ours, theirs = (build("gpt2", 32) for _ in range(2))
    scales = (0.25, 2.0)
    groups = [{**g, "lr_scale": scale} for g, scale in zip(decay_groups(ours, 0.3), scales, strict=True)]
    optimizer = AdamW(groups, lr=1e-2, eps=1e-6)
    peers = [{**g, "lr": 1e-2 * scale} for g, scale in zip(decay_groups(theirs, 0.3), scales, strict=True)]
    peer = torch.optim.AdamW(peers, betas=(0.9, 0.95), eps=1e-6)
    for step in range(8):
        optimizer.lr = 1e-2 / (step + 1)
        for group, scale in zip(peer.param_groups, scales, strict=True):
            group["lr"] = optimizer.lr * scale
        for model, o in ((ours, optimizer), (theirs, peer)):
            o.zero_grad()
            next_token_loss(model(IDS), IDS).backward()
            o.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


@pytest.mark.parametrize("kind", ["gpt2", "tied", "untied"])
def test_rules_by_hand_at_four_times_the_width(kind):
    ordinary, model = build(kind, 4 * BASE), build(kind, 4 * BASE)
    groups = mup(model, base(kind), weight_decay=0.1)
    rate = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    for (name, p), before in zip(model.named_parameters(), ordinary.parameters(), strict=True):
        hidden = ".blocks." in name and p.dim() == 2
        assert rate[id(p)] == (1 / 4 if hidden else 1), name
        assert torch.allclose(p, before / 2 if hidden else before), name  # 1 / sqrt(4)
        assert decay[id(p)] == (0.1 if p.dim() == 2 else 0), name
    for block in model.transformer.blocks:
        assert block.attn.scale == pytest.approx(math.sqrt(BASE / 4) / BASE)  # as at the base, times D_base / D
    x = torch.randn(2, 3, 4 * BASE)
    assert torch.allclose(model.lm_head(x), x @ model.lm_head.weight.T / 4, atol=1e-6)


def test_each_matrix_goes_by_its_own_fan_in():
    model = llama(LlamaConfig(61, 2 * BASE, 1, 4, d_ff=5 * BASE))
    with torch.device("meta"):
        narrow = llama(LlamaConfig(61, BASE, 1, 4, d_ff=BASE))
    rate = {id(p): group["lr_scale"] for group in mup(model, narrow) for p in group["params"]}
    block = model.transformer.blocks[0]
    assert rate[id(block.mlp.up_proj.weight)] == 1 / 2 and rate[id(block.mlp.down_proj.weight)] == 1 / 5


@pytest.mark.parametrize("kind", ["gpt2", "untied"])
def test_at_the_base_nothing_changes(kind):
    ordinary, model = build(kind, BASE), build(kind, BASE)
    assert {group["lr_scale"] for group in mup(model, base(kind))} == {1.0}
    assert torch.equal(ordinary(IDS), model(IDS))


@pytest.mark.parametrize("kind", ["gpt2", "tied", "untied"])
def test_coordinates_do_not_depend_on_the_width_under_mup_alone(kind):
    slopes = {}
    for name in ("sp", "mup"):
        models = {}
        for width in WIDTHS:
            model = build(kind, width)
            models[width] = (model, mup(model, base(kind)) if name == "mup" else decay_groups(model, 0.0))
        slopes[name] = coordinate_check(models, IDS, lr=3e-3, n_steps=3)
    changed = slopes["mup"].slopes()
    assert max(map(abs, changed.values())) < 0.25, changed
    ordinary = slopes["sp"].slopes()
    assert all(slope > 0.6 for layer, slope in ordinary.items() if layer != "embedding"), ordinary
    # At the start the builders' one std makes sums over C terms that grow; a random output grows as their root.
    at_start = slopes["sp"].slopes("sizes", 0)
    assert at_start["attention 0"] == pytest.approx(1.0, abs=0.15)  # two matrices one after the other
    if kind == "untied":  # a tied output knows its own token
        assert at_start["logits"] == pytest.approx(0.5, abs=0.15)
    blocks = {layer: slope for layer, slope in slopes["mup"].slopes("sizes", 0).items() if layer != "logits"}
    assert max(map(abs, blocks.values())) < 0.1, blocks
    assert float(slopes["sp"].moves[:, 0].abs().max()) == 0


def test_coordinates_leave_no_hooks_and_measure_what_is_written():
    models = {width: (build("untied", width), []) for width in (32, 64)}
    found = coordinate_check(models, IDS, lr=1e-2, n_steps=1)
    for i, (model, _) in enumerate(models.values()):
        assert found.sizes[-1, 0, i].item() == pytest.approx(
            float(model(IDS).detach().square().mean().sqrt()), rel=1e-5
        )
        assert not any(module._forward_hooks for module in model.modules())
    assert found.layers == ["embedding", "attention 0", "mlp 0", "attention 1", "mlp 1", "logits"]
    with pytest.raises(ValueError, match="two widths"):
        coordinate_check({32: models[32]}, IDS, lr=1e-2)


@pytest.mark.parametrize("kind", ["gpt2", "tied", "untied"])
def test_fold_gives_an_ordinary_model_with_the_same_logits(kind):
    model = build(kind, 4 * BASE)
    optimizer = AdamW(mup(model, base(kind)), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        next_token_loss(model(IDS), IDS).backward()
        optimizer.step()
    logits = model(IDS)
    weights_alone = build(kind, 4 * BASE)
    weights_alone.load_state_dict(model.state_dict())
    assert not torch.allclose(weights_alone(IDS), logits, atol=1e-2)
    fold(model)
    assert torch.allclose(model(IDS), logits, atol=1e-5)
    weights_alone.load_state_dict(model.state_dict())
    assert torch.allclose(weights_alone(IDS), logits, atol=1e-5)
    with pytest.raises(ValueError, match="nothing to fold"):
        fold(model)


def test_mup_refuses_what_does_not_fit():
    model = build("gpt2", 64)
    with pytest.raises(ValueError, match="same family"):
        mup(model, base("tied"))
    mup(model, base("gpt2"))
    with pytest.raises(ValueError, match="already"):
        mup(model, base("gpt2"))
    with torch.device("meta"):
        narrow = llama(LlamaConfig(61, 32, 1, 4, d_ff=96), qk_norm=True)
    normed = llama(LlamaConfig(61, 64, 1, 4, d_ff=192), qk_norm=True)
    mup(normed, narrow)
    with pytest.raises(ValueError, match="norm on the queries"):
        fold(normed)


def test_a_copied_model_keeps_its_multiplier():
    model = build("untied", 64)
    mup(model, base("untied"))
    assert isinstance(model.lm_head, nn.Linear)
    assert torch.equal(copy.deepcopy(model)(IDS), model(IDS))
