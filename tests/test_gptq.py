"""Rounding in Q4_0's blocks: what GPTQ does for the product, and that a file keeps what it chose."""

import copy

import pytest
import torch

from llmkit.checkpoints.gguf import load_gguf, save_gguf
from llmkit.checkpoints.gptq import (
    block_linears,
    gptq,
    hessians,
    nearest,
    output_error,
    rescale_channels,
    weights_of,
)  # fmt: skip
from llmkit.checkpoints.quantization import dequantize, quantize
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.mixtral import MixtralConfig, mixtral


def mixed_inputs(n, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    return torch.randn(n, columns, generator=generator) @ mixing


def weights(rows=24, columns=96, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def small(config=LlamaConfig, build=llama, **changes):
    torch.manual_seed(0)
    return build(config(50, 32, 2, 2, n_kv_heads=1, d_ff=64, **changes)).eval()


def test_nearest_with_four_bits_is_q4_0():
    for seed in range(20):
        matrix = weights(seed=seed) * torch.logspace(-6, 3, 24)[:, None]
        matrix[3, :32] = 0
        matrix[4, :32] = torch.arange(32) / 2 - 8
        assert torch.equal(nearest(matrix), dequantize(quantize(matrix, "Q4_0"), "Q4_0"))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_loses_less_of_the_product_on_inputs_it_has_not_seen(bits):
    matrix = weights()
    seen, unseen = (x.T @ x for x in mixed_inputs(4000, 96).chunk(2))
    errors = {name: output_error(matrix, rounded, unseen) for name, rounded in
              (("nearest", nearest(matrix, bits)), ("gptq", gptq(matrix, seen, bits)))}  # fmt: skip
    assert errors["gptq"] < 0.9 * errors["nearest"]
    far = [float((rounded - matrix).norm()) for rounded in (nearest(matrix, bits), gptq(matrix, seen, bits))]
    assert far[0] < far[1], "the weights themselves are farther off: it is the product that is better"


def test_without_anything_to_make_up_with_it_is_nearest():
    matrix = weights()
    assert torch.equal(gptq(matrix, 5 * torch.eye(96)), nearest(matrix))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_it_again_changes_nothing(bits):
    for seed in range(5):
        x = mixed_inputs(50, 96, seed)
        once = gptq(weights(seed=seed), x.T @ x, bits)
        assert torch.equal(nearest(once, bits), once)
        assert bits != 4 or torch.equal(dequantize(quantize(once, "Q4_0"), "Q4_0"), once)


def test_the_error_needs_no_inputs_only_their_products():
    matrix, x = weights(), mixed_inputs(300, 96).double()
    rounded = nearest(matrix, 3)
    direct = (x @ (matrix - rounded).double().T).norm() / (x @ matrix.double().T).norm()
    assert output_error(matrix, rounded, x.T @ x) == pytest.approx(float(direct), rel=1e-9)
    assert output_error(matrix, matrix, x.T @ x) == 0


def test_hessians_are_those_of_the_inputs_and_leave_no_hooks():
    model = small()
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    kept = []
    handle = model.transformer.blocks[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        model(ids), model(ids[:1])
    handle.remove()
    x = torch.cat([one.flatten(0, 1) for one in kept]).double()
    found = hessians(model, [ids, ids[:1]])
    assert len(found) == 14 and all(name.startswith("transformer.blocks.") for name in found)
    assert torch.allclose(found["transformer.blocks.1.mlp.down_proj"], x.T @ x)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_experts_see_their_own_tokens_and_the_router_is_left_alone():
    model = small(MixtralConfig, mixtral, n_experts=3, top_k=1)
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    kept = []
    handle = model.transformer.blocks[0].mlp.router.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    found = hessians(model, [ids])
    handle.remove()
    assert not any("router" in name for name in found)
    ups, gates = (
        [found[f"transformer.blocks.0.mlp.experts.{e}.{part}_proj"] for e in range(3)] for part in ("up", "gate")
    )
    assert all(map(torch.equal, ups, gates))
    x = kept[0].double()
    assert torch.allclose(sum(ups), x.T @ x), "with top_k 1 each token goes to one expert"
    assert not torch.allclose(ups[0], x.T @ x)


def test_weights_of_puts_the_own_ones_back_even_after_an_error():
    model = small()
    before = copy.deepcopy(model.state_dict())
    rounded = {name: nearest(linear.weight, 2) for name, linear in block_linears(model).items()}
    with pytest.raises(RuntimeError), weights_of(model, rounded):
        assert torch.equal(model.transformer.blocks[0].attn.q_proj.weight, rounded["transformer.blocks.0.attn.q_proj"])
        raise RuntimeError
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_rescaled_channels_compute_the_same():
    model = small()
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(ids)
        block = model.transformer.blocks[0]
        rescale_channels(block.mlp_norm, (block.mlp.gate_proj, block.mlp.up_proj), torch.logspace(-1, 1, 32))
        assert torch.allclose(model(ids), before, atol=1e-5)
    assert block.mlp_norm.weight[0].item() == pytest.approx(0.1)


def test_rescaled_channels_compute_the_same_where_the_norm_has_a_bias():
    torch.manual_seed(0)
    model = gpt2(GPT2Config(50, 16, 32, 2, 2)).eval()
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for block in model.transformer.blocks:
            block.attn_norm.bias.normal_(), block.mlp_norm.bias.normal_()
        before = model(ids)
        for block in model.transformer.blocks:
            attn = block.attn
            for norm, behind in (
                (block.attn_norm, (attn.q_proj, attn.k_proj, attn.v_proj)),
                (block.mlp_norm, (block.mlp.up_proj,)),
            ):
                rescale_channels(norm, behind, torch.logspace(-1, 1, 32))
        assert torch.allclose(model(ids), before, atol=1e-5)
    assert not torch.allclose(block.attn_norm.weight, torch.ones(32))


def test_a_gguf_file_keeps_what_gptq_chose(tmp_path):
    """q and k have their rows in another order there; blocks lie along rows, so that does them no harm."""
    model = small()
    ids = torch.randint(0, 50, (8, 40), generator=torch.Generator().manual_seed(1))
    H = hessians(model, [ids])
    rounded = {name: gptq(linear.weight, H[name]) for name, linear in block_linears(model).items()}
    with weights_of(model, rounded):
        save_gguf(model, tmp_path / "m.gguf", kind="Q4_0")
    again, _ = load_gguf(tmp_path / "m.gguf")
    assert all(torch.equal(linear.weight, rounded[name]) for name, linear in block_linears(again).items())
    assert not all(torch.equal(nearest(linear.weight), rounded[n]) for n, linear in block_linears(model).items())


def test_what_cannot_be_rounded_is_named():
    with pytest.raises(ValueError, match=r"whole blocks of 32 is needed, got shape \(2, 40\)"):
        nearest(torch.zeros(2, 40))
    with pytest.raises(ValueError, match="bits must be from 2 to 8, got 1"):
        gptq(torch.zeros(2, 32), torch.eye(32), bits=1)
    with pytest.raises(ValueError, match=r"must be \(32, 32\), got \(64, 64\)"):
        gptq(torch.zeros(2, 32), torch.eye(64))
    for hessian in (torch.zeros(32, 32), torch.full((32, 32), float("nan"))):
        with pytest.raises(ValueError, match="has no inverse.* saw no token, use `nearest`"):
            gptq(torch.ones(2, 32), hessian)
    for round_it in (nearest, lambda weight: gptq(weight, torch.eye(32))):
        for bad in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="weights that are NaN or infinite"):
                round_it(torch.tensor([[1.0, bad] + [0.0] * 30]))
        assert round_it(torch.full((2, 32), 8 * 65504.0)).isfinite().all()
        with pytest.raises(ValueError, match=r"scales up to 1.25e\+05 are too large for torch.float16"):
            round_it(torch.full((2, 32), 1e6))


def test_hessians_are_not_taken_with_dropout():
    torch.manual_seed(0)
    model, ids = gpt2(GPT2Config(50, 16, 32, 1, 2, dropout=0.1)), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="drops out at random"):
        hessians(model, [ids])
    assert hessians(model.eval(), [ids])


def test_a_matrix_of_another_shape_does_not_stand_in():
    model = small()
    before = copy.deepcopy(model.state_dict())
    q, k = (f"transformer.blocks.0.attn.{part}_proj" for part in "qk")
    rounded = {q: torch.zeros(32, 32), k: torch.zeros(1, 32)}  # which copy_ would spread over all rows
    with (
        pytest.raises(ValueError, match=r"k_proj has the shape \(16, 32\), its matrix \(1, 32\)"),
        weights_of(model, rounded),
    ):
        pass
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
