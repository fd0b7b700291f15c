"""Int8 weights for decoding: products exact, activations kept, and whole models that still say the same."""

import pytest
import torch
from gguf_peer import BYTES, dense, perturbed, sparse

from llmkit.generation.generate import generate
from llmkit.layers import int8
from llmkit.layers.int8 import Int8Linear, rounded_rows, two_rows, with_int8_weights
from llmkit.layers.moe import SoftmaxRouter
from llmkit.models.gpt2 import GPT2Config, gpt2


def linear(n_in=96, n_out=70, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(n_in, n_out)


def test_a_row_has_the_best_scale():
    weight = linear().weight.detach() * torch.logspace(-4, 2, 70)[:, None]
    weight[3] = 0
    numbers, scale = rounded_rows(weight)
    assert numbers.dtype == torch.int8 and numbers.abs().amax(-1).unique().tolist() == [0, 127]
    assert ((numbers * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()


def test_two_rows_keep_15_bits():
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 300.0  # an outlier, for which 8 bits alone leave the others 0 or 1
    rows, scale = two_rows(x)
    large, small = rows.float().chunk(2)
    assert rows.dtype == torch.int8 and rows.shape == (10, 64)
    assert ((scale * (large + small / 254)) - x).abs().max() <= 300 / 127 / 254 * 0.51


@pytest.mark.parametrize("packed", [True, False])
def test_only_the_weights_are_rounded(monkeypatch, packed):
    if packed and not int8.packing_is_exact():
        pytest.skip("this torch or this CPU has no exact packed product")
    monkeypatch.setattr(int8, "packing_is_exact", lambda: packed)
    layer = linear()
    numbers, scale = rounded_rows(layer.weight.detach())
    x = torch.randn(2, 3, 96, generator=torch.Generator().manual_seed(1))
    x[..., 5] = 100.0
    expected = x @ (numbers * scale[:, None]).t() + layer.bias
    out = Int8Linear(layer)(x)
    assert out.shape == (2, 3, 70) and not out.requires_grad
    assert (out - expected).abs().max() < 2e-3
    assert Int8Linear(layer)(x[:1, :1].bfloat16()).dtype == torch.bfloat16


def test_both_ways_of_multiplying_are_equal(monkeypatch):
    if not int8.packing_is_exact():
        pytest.skip("this torch or this CPU has no exact packed product")
    x, layer = torch.randn(1, 1, 96), linear()
    packed = Int8Linear(layer)(x)
    monkeypatch.setattr(int8, "packing_is_exact", lambda: False)
    assert torch.equal(Int8Linear(layer)(x), packed)


def test_a_whole_model_says_nearly_the_same():
    for model in (dense(BYTES, tie=True), sparse(BYTES), perturbed(gpt2(GPT2Config(300, 64, 64, 2, 4)), 0.05)):
        ids = torch.arange(24).view(2, 12)
        with torch.no_grad():
            before = model(ids)
            embedding = model.transformer.embed.tokens.weight.clone()
            with_int8_weights(model)
            apart = (model(ids) - before).norm() / before.norm()
        assert 0 < apart < 0.08
        assert torch.equal(model.transformer.embed.tokens.weight, embedding)
        assert generate(model, ids, 4).shape == (2, 16)
        assert not any(type(module) is torch.nn.Linear for module in model.modules())
    assert sum(isinstance(module, SoftmaxRouter) for module in with_int8_weights(sparse(BYTES)).modules()) == 2


def test_a_model_without_matrices_is_named():
    with pytest.raises(ValueError, match="no Linear to replace"):
        with_int8_weights(torch.nn.LayerNorm(4))
