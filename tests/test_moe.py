"""Mixture of experts against transformers (Mixtral, DeepSeek-V3) and against brute force."""

import itertools

import pytest
import torch
from torch import nn

from llmkit.layers.balance import (
    balance_loss,
    balancing_step,
    dead_experts,
    expert_load,
    load_balancing_loss,
    router_z_loss,
    within_capacity,
)
from llmkit.layers.mlp import GatedMLP
from llmkit.layers.moe import MoE, SigmoidRouter, SoftmaxRouter, dispatch_grouped, dispatch_loop, record_routing, route
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.mixtral import MixtralConfig, active_params, mixtral

C, FF = 8, 12


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def experts(n, seed=0):
    torch.manual_seed(seed)
    return nn.ModuleList([GatedMLP(C, FF) for _ in range(n)])


# --- routing ---


def test_softmax_then_top_k_is_top_k_then_softmax():
    logits = 3 * normal(50, 8)
    for top_k in (1, 2, 5, 8):
        weights, chosen = route(logits, top_k)
        best = logits.topk(top_k)
        assert torch.equal(chosen, best.indices)
        assert torch.allclose(weights, best.values.softmax(-1), atol=1e-6)


def test_weights_are_float32_and_sum_to_one():
    weights, _ = route(normal(20, 6).bfloat16(), 2)
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.sum(-1), torch.ones(20), atol=1e-6)


def test_too_many_experts_are_refused():
    with pytest.raises(ValueError, match="3 of 2"):
        SoftmaxRouter(C, 2, 3)
    with pytest.raises(ValueError, match="5 of 4"):
        SigmoidRouter(C, 8, 5, n_groups=4, top_groups=2)


# --- dispatch ---


@pytest.mark.parametrize("n_tokens", [1, 2, 17])
@pytest.mark.parametrize("unused", [None, 0, 2, 4])
def test_grouped_is_the_loop(n_tokens, unused):
    """Values and gradients, for one token too, and when an expert (the first, the last) gets nothing."""
    logits = normal(n_tokens, 5, seed=1)
    if unused is not None:
        logits[:, unused] = -100
    weights, chosen = route(logits, 2)
    assert unused is None or not (chosen == unused).any()
    results = []
    for dispatch in (dispatch_loop, dispatch_grouped):
        modules = experts(5)
        x, w = normal(n_tokens, C).requires_grad_(), weights.clone().requires_grad_()
        out = dispatch(x, w, chosen, modules)
        (out * normal(*out.shape, seed=2)).sum().backward()
        results.append([out, x.grad, w.grad, *(p.grad for p in modules.parameters())])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-6)


def test_dispatch_by_definition():
    """Each token by itself: the weighted sum of what its experts say."""
    x, modules = normal(9, C), experts(4)
    weights, chosen = route(normal(9, 4, seed=3), 3)
    expected = torch.stack(
        [sum(w * modules[e](x[t]) for w, e in zip(weights[t], chosen[t], strict=True)) for t in range(9)]
    )
    assert torch.allclose(dispatch_grouped(x, weights, chosen, modules), expected, atol=1e-6)


@pytest.mark.parametrize("dispatch", [dispatch_loop, dispatch_grouped])
def test_dispatch_in_bfloat16(dispatch):
    weights, chosen = route(normal(9, 4), 2)
    out = dispatch(normal(9, C).bfloat16(), weights, chosen, experts(4).bfloat16())
    assert out.dtype == torch.bfloat16


# --- transformers ---


def test_block_is_mixtrals():
    transformers = pytest.importorskip("transformers")
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = transformers.MixtralConfig(hidden_size=C, intermediate_size=FF, num_local_experts=5, num_experts_per_tok=2)
    theirs = MixtralSparseMoeBlock(config)
    ours = MoE(SoftmaxRouter(C, 5, 2), experts(5))
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
    copy_experts(ours, theirs)
    x = normal(3, 7, C)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def copy_experts(ours: MoE, theirs: nn.Module) -> None:
    with torch.no_grad():
        for e, expert in enumerate(ours.experts):
            gate_up = torch.cat([expert.gate_proj.weight, expert.up_proj.weight])
            theirs.experts.gate_up_proj[e] = gate_up
            theirs.experts.down_proj[e] = expert.down_proj.weight


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_loss_is_transformers_when_pooled(masked, top_k):
    pytest.importorskip("transformers")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    layers = tuple((2 * normal(4 * 6, 5, seed=seed)).requires_grad_() for seed in range(3))
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[0, :4], mask[2, 5:] = 0, 0
    mask = mask if masked else None
    expected = load_balancing_loss_func(layers, 5, top_k, mask)
    got = load_balancing_loss(layers, top_k, mask, per_layer=False)
    assert torch.allclose(got, expected, atol=1e-6)
    for a, b in zip(torch.autograd.grad(expected, layers), torch.autograd.grad(got, layers), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize(("n_groups", "top_groups"), [(1, 1), (2, 1), (4, 2), (4, 4)])
def test_sigmoid_router_and_shared_expert_are_deepseek_v3s(n_groups, top_groups):
    transformers = pytest.importorskip("transformers")
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = transformers.DeepseekV3Config(
        hidden_size=C, moe_intermediate_size=FF, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=2,
        n_group=n_groups, topk_group=top_groups, routed_scaling_factor=2.5, norm_topk_prob=True,
    )  # fmt: skip
    theirs = DeepseekV3MoE(config)
    router = SigmoidRouter(C, 8, 2, n_groups, top_groups, weight_scale=2.5)
    ours = MoE(router, experts(8), shared=GatedMLP(C, 2 * FF))
    with torch.no_grad():
        theirs.gate.weight.copy_(router.weight)
        router.load_bias.copy_(0.3 * normal(8, seed=4))
        theirs.gate.e_score_correction_bias.copy_(router.load_bias)
        for name in ("gate_proj", "up_proj", "down_proj"):
            getattr(theirs.shared_experts, name).weight.copy_(getattr(ours.shared, name).weight)
    copy_experts(ours, theirs)
    x = normal(3, 40, C)
    weights, chosen, logits = router(x.flatten(0, 1))
    their_logits, their_weights, their_chosen = theirs.gate(x)
    assert torch.allclose(logits, their_logits, atol=1e-6)
    by_expert = torch.zeros(120, 8)
    assert torch.allclose(
        by_expert.scatter(1, chosen, weights), by_expert.scatter(1, their_chosen, their_weights), atol=1e-6
    )
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


# --- balance ---


def even_logits(n_experts=6, top_k=2):
    """Every set of top_k experts is chosen by one token."""
    rows = list(itertools.combinations(range(n_experts), top_k))
    return torch.stack([torch.zeros(n_experts).index_fill(0, torch.tensor(row), 5.0) for row in rows])


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_balanced_value_is_top_k(top_k):
    assert balance_loss(even_logits(6, top_k), top_k).item() == pytest.approx(top_k, abs=1e-5)


def test_value_of_a_collapse_is_the_number_of_experts():
    logits = torch.zeros(20, 6)
    logits[:, :2] = 50.0
    assert balance_loss(logits, 2).item() == pytest.approx(6, abs=1e-4)


def skewed(first: bool) -> torch.Tensor:
    row = torch.tensor([0.45, 0.45, 0.05, 0.05])
    return (row if first else row.flip(0)).log().repeat(10, 1)


def test_pooling_hides_opposite_skews():
    layers = [skewed(True), skewed(False)]
    assert load_balancing_loss(layers, 2).item() == pytest.approx(3.6, abs=1e-5)
    assert load_balancing_loss(layers, 2, per_layer=False).item() == pytest.approx(2.0, abs=1e-5)


def test_padding_is_not_counted():
    layers = [normal(12, 5, seed=seed) for seed in range(2)]
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    real = mask.flatten().bool()
    changed = [torch.where(real[:, None], layer, 100 * normal(12, 5, seed=9)) for layer in layers]
    for per_layer in (True, False):
        expected = load_balancing_loss([layer[real] for layer in layers], 2, per_layer=per_layer)
        assert torch.allclose(load_balancing_loss(layers, 2, mask, per_layer), expected)
        assert torch.allclose(load_balancing_loss(changed, 2, mask, per_layer), expected)


def test_z_loss_by_definition():
    layers = [normal(7, 5), 3 * normal(7, 5, seed=1)]
    expected = sum(layer.exp().sum(-1).log().square().mean() for layer in layers) / 2
    assert torch.allclose(router_z_loss(layers), expected, atol=1e-6)


def test_no_gradient_into_the_load_bias():
    router = SigmoidRouter(C, 6, 2)
    weights, chosen, _ = router(normal(9, C))
    weights.sum().backward()
    assert not router.load_bias.requires_grad
    assert router.load_bias.grad is None
    assert "load_bias" not in dict(router.named_parameters())
    assert "load_bias" in router.state_dict()


def test_the_bias_moves_choices_and_not_weights():
    router, x = SigmoidRouter(C, 6, 6), normal(9, C)  # all six are chosen, so only the order can change
    before, chosen, _ = router(x)
    router.load_bias[2] = 10.0
    after, chosen_after, _ = router(x)
    assert (chosen_after[:, 0] == 2).all()
    by_expert = torch.zeros(9, 6)
    assert torch.allclose(by_expert.scatter(1, chosen, before), by_expert.scatter(1, chosen_after, after))


def test_updates_even_out_the_load():
    torch.manual_seed(0)
    router, x = SigmoidRouter(C, 6, 2), normal(400, C) + 1.5
    before = expert_load(router(x)[1], 6)
    for _ in range(300):
        router.update_bias(router(x)[1], 0.01)
    after = expert_load(router(x)[1], 6)
    assert before.max() > 0.3
    assert after.max() < 0.2
    assert dead_experts(before)
    assert not dead_experts(after)


def test_balancing_step_of_shares_and_counts():
    counts = torch.tensor([8.0, 1.0, 3.0, 4.0])
    assert balancing_step(counts, 0.5).tolist() == [-0.5, 0.5, 0.5, 0.0]
    assert torch.equal(balancing_step(counts, 0.5), balancing_step(counts / counts.sum(), 0.5))


# --- statistics ---


def test_load_by_counting_and_with_a_mask():
    chosen = torch.tensor([[0, 2], [2, 3], [1, 2], [4, 0]])
    mask = torch.tensor([[1, 1], [0, 1]])
    assert torch.allclose(expert_load(chosen, 6), torch.tensor([2, 1, 3, 1, 1, 0]) / 8)
    assert torch.allclose(expert_load(chosen, 6, mask), torch.tensor([2, 0, 2, 1, 1, 0]) / 6)


@pytest.mark.parametrize("seed", range(20))
def test_capacity_by_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    n, e, k = (int(torch.randint(low, high, (1,), generator=generator)) for low, high in ((1, 12), (3, 7), (1, 4)))
    _, chosen = route(torch.randn(n, e, generator=generator), k)
    capacity = int(torch.randint(0, 6, (1,), generator=generator))
    room, expected = [capacity] * e, torch.zeros(n, k, dtype=torch.bool)
    for slot in range(k):
        for token in range(n):
            if room[chosen[token, slot]]:
                room[chosen[token, slot]] -= 1
                expected[token, slot] = True
    assert torch.equal(within_capacity(chosen, e, capacity), expected)


def tiny():
    return mixtral(
        MixtralConfig(vocab_size=30, d_model=C, n_layers=3, n_heads=2, n_kv_heads=2, d_ff=FF, max_len=16, n_experts=4)
    )


def test_recording_and_restoring():
    model = tiny()
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    ids = torch.randint(30, (2, 5))
    with record_routing(model) as routes:
        out = model(ids)
        assert [tuple(logits.shape) for logits in routes.logits] == [(10, 4)] * 3
        assert [tuple(chosen.shape) for chosen in routes.chosen] == [(10, 2)] * 3
        load_balancing_loss(routes.logits, 2).backward()
        assert all(layer.router.weight.grad is not None for layer in layers)
        routes.clear()
        assert routes.logits == routes.chosen == []
        model(ids)
        assert len(routes.logits) == 3
    assert all(layer.recorder is None for layer in layers)
    model(ids)
    assert len(routes.logits) == 3
    assert torch.equal(out, model(ids))
    with pytest.raises(RuntimeError, match="stop"), record_routing(model):
        raise RuntimeError("stop")
    assert all(layer.recorder is None for layer in layers)


def test_recording_needs_a_moe_layer():
    with pytest.raises(ValueError, match="no MoE layer"):
        record_routing(llama(LlamaConfig(vocab_size=9, d_model=C, n_layers=1, n_heads=2, d_ff=FF)))


def test_active_params_by_counting():
    model = tiny()
    model(torch.tensor([[3]])).sum().backward()  # one token: idle experts get no gradient
    touched = sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert active_params(model) == touched
