"""Int8 weights for decoding: only the weights are rounded, logits keep their digits, models still say the same."""

import copy

import pytest
import torch
from gguf_peer import BYTES, dense, perturbed, sparse

from llmkit.checkpoints.weights import columns_first
from llmkit.generation.generate import generate
from llmkit.layers import int8
from llmkit.layers.int8 import FEW, Int8Head, Int8Linear, exact_levels, rounded_rows, two_rows, with_int8_weights
from llmkit.layers.moe import SoftmaxRouter
from llmkit.models.gpt2 import GPT2Config, gpt2


def linear(n_in=96, n_out=70, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(n_in, n_out)


def rounded(layer):
    numbers, scale = rounded_rows(layer.weight.detach())
    return lambda x: x @ (numbers * scale[:, None]).t() + layer.bias


def test_a_row_has_the_best_scale():
    weight = linear().weight.detach() * torch.logspace(-4, 2, 70)[:, None]
    weight[3] = 0
    numbers, scale = rounded_rows(weight)
    assert numbers.dtype == torch.int8 and torch.equal(scale, scale.bfloat16().float())
    assert set(numbers.abs().amax(-1).tolist()) <= {0, 126, 127} and (numbers[3] == 0).all()
    # half a step, and where the scale was rounded down, what the largest loses by being cut to 127
    assert ((numbers * scale[:, None] - weight).abs() <= scale[:, None] * 0.76).all()


@pytest.mark.parametrize("levels", [63, 127])
def test_two_rows_keep_most_bits(levels):
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 300.0  # an outlier, for which 8 bits alone leave the others 0 or 1
    rows, scale = two_rows(x, levels)
    large, small = rows.chunk(2)
    assert rows.shape == (10, 64) and torch.equal(rows, rows.round()) and rows.abs().max() == levels
    assert ((scale * (large + small / (2 * levels))) - x).abs().max() <= 300 / levels / (2 * levels) * 0.51


@pytest.mark.parametrize("rows", [1, FEW, FEW + 1])
def test_only_the_weights_are_rounded(rows):
    layer = linear()
    x = torch.randn(1, rows, 96, generator=torch.Generator().manual_seed(1))
    x[..., 5] = 100.0
    out, expected = Int8Linear(layer)(x), rounded(layer)(x)
    assert out.shape == (1, rows, 70) and not out.requires_grad
    error = (out - expected).abs().max()
    assert error < (2e-2 if rows <= FEW else 1e-5) * expected.abs().max()  # bfloat16, or nothing at all
    assert Int8Linear(layer)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("packed", [True, False])
def test_logits_keep_their_digits(monkeypatch, packed):
    if packed and not exact_levels():
        pytest.skip("this torch or this CPU has no exact packed product")
    if not packed:
        monkeypatch.setattr(int8, "exact_levels", lambda: 0)
    layer = linear()
    x = torch.randn(2, 3, 96, generator=torch.Generator().manual_seed(1))
    x[..., 5] = 100.0
    out = Int8Head(layer)(x)
    assert (out - rounded(layer)(x)).abs().max() < 8e-3 and out.shape == (2, 3, 70)
    assert (Int8Linear(layer)(x) - rounded(layer)(x)).abs().max() > 8e-3, "else the head could be like the others"


@pytest.mark.parametrize("levels", [63, 127])
def test_a_cpu_without_vnni_gets_smaller_numbers(monkeypatch, levels):
    monkeypatch.setattr(int8, "exact_levels", lambda: levels)
    monkeypatch.setattr(int8, "_pack", lambda numbers: numbers)
    monkeypatch.setattr(int8, "_multiply_packed", lambda rows, numbers, levels: rows @ numbers.float().t())
    x, layer = torch.randn(1, 1, 96, generator=torch.Generator().manual_seed(1)), linear()
    assert (Int8Head(layer)(x) - rounded(layer)(x)).abs().max() < 2e-4


def test_a_torch_without_the_narrow_product_is_served(monkeypatch):
    layer, x = linear(), torch.randn(1, 1, 96, generator=torch.Generator().manual_seed(1))
    narrow = Int8Linear(layer)(x)
    monkeypatch.delattr(torch, "_weight_int8pack_mm")
    wide = Int8Linear(layer)(x)
    assert torch.allclose(wide, rounded(layer)(x), atol=1e-5) and not torch.equal(wide, narrow)


def test_columns_first_weights():
    layer = linear()
    x, before = torch.randn(1, 1, 96), Int8Linear(layer)(torch.ones(1, 96))
    layer.weight.data = columns_first(layer.weight.data)
    assert torch.equal(Int8Linear(layer)(torch.ones(1, 96)), before) and Int8Head(layer)(x).shape == (1, 1, 70)


def test_a_whole_model_says_nearly_the_same():
    for model in (dense(BYTES, tie=True), sparse(BYTES), perturbed(gpt2(GPT2Config(300, 64, 64, 2, 4)), 0.05)):
        for length in (12, 4):  # 24 rows at once, and 8
            ids = torch.arange(2 * length).view(2, length)
            with torch.no_grad():
                before = model(ids)
                narrow = with_int8_weights(copy.deepcopy(model))
                apart = (narrow(ids) - before).norm() / before.norm()
            assert 0 < apart < 0.08
        assert torch.equal(narrow.transformer.embed.tokens.weight, model.transformer.embed.tokens.weight)
        assert generate(narrow, ids, 4).shape == (2, 8)
        assert not any(type(module) is torch.nn.Linear for module in narrow.modules())
        assert [name for name, module in narrow.named_modules() if isinstance(module, Int8Head)] == ["lm_head"]
    assert sum(isinstance(module, SoftmaxRouter) for module in with_int8_weights(sparse(BYTES)).modules()) == 2


def test_a_model_without_matrices_is_named():
    with pytest.raises(ValueError, match="no Linear to replace"):
        with_int8_weights(torch.nn.LayerNorm(4))
