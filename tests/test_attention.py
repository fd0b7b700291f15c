"""Attention against torch's and transformers' own; every part with the sizes and masks that hide no slip."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmkit.layers.attention import (
    MultiHeadAttention,
    attention,
    attention_weights,
    fused_attention,
    merge_heads,
    repeat_kv,
    split_heads,
)
from llmkit.layers.flash import blockwise_attention
from llmkit.layers.masks import CAUSAL, causal_mask, padding_mask, sliding_window_mask
from llmkit.layers.norms import RMSNorm
from llmkit.layers.rope import RotaryEmbedding
from llmkit.viz.attention import attention_maps, draw_attention, draw_heads, record_attention

B, H, T, S, D = 2, 3, 5, 7, 8
MASKS = {
    "none": None,
    "causal": causal_mask(T, S),
    "CAUSAL": CAUSAL,
    "window": sliding_window_mask(T, S, window=3, sinks=1),
    "padding": padding_mask(torch.arange(S) < torch.tensor([[7], [4]])),
    "bias": torch.randn(1, H, T, S, generator=torch.Generator().manual_seed(3)),
    "bias and -inf": torch.zeros(T, S).masked_fill(~causal_mask(T, S), -torch.inf),
}


def tensors(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_equals_torchs_attention_and_its_gradients(mask):
    q, k, v = tensors((B, H, T, D), (B, H, S, D), (B, H, S, D))
    theirs = causal_mask(T, S) if mask == "CAUSAL" else MASKS[mask]
    expected = F.scaled_dot_product_attention(q, k, v, theirs)
    got = attention(q, k, v, MASKS[mask])
    assert torch.allclose(got, expected, atol=1e-6)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (got, expected)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_fused_attention_shares_heads_like_repeat_kv():
    q, k, v = tensors((B, 6, T, D), (B, 2, T, D), (B, 2, T, D))
    expected = attention(q, repeat_kv(k, 6), repeat_kv(v, 6), CAUSAL)
    assert torch.allclose(fused_attention(q, k, v, CAUSAL), expected, atol=1e-6)
    torch_s = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.allclose(expected, torch_s, atol=1e-6)


def test_the_triangle_of_the_fused_kernel_ends_at_the_last_key():
    """torch's is_causal begins at the first one, which is another triangle when there are more keys than queries."""
    q, k, v = tensors((B, H, T, D), (B, H, S, D), (B, H, S, D))
    assert torch.allclose(fused_attention(q, k, v, CAUSAL), attention(q, k, v, CAUSAL), atol=1e-6)


def test_a_row_that_sees_nothing_is_zero_and_so_is_its_gradient():
    q, k, v = tensors((1, 1, 2, 4), (1, 1, 3, 4), (1, 1, 3, 4))
    mask = torch.tensor([[True, True, False], [False, False, False]])
    for form in (mask, torch.zeros(2, 3).masked_fill(~mask, -torch.inf)):
        out = attention(q, k, v, form)
        assert torch.equal(out[0, 0, 1], torch.zeros(4))
        (gradient,) = torch.autograd.grad(out.sum(), q)
        assert torch.isfinite(gradient).all() and torch.equal(gradient[0, 0, 1], torch.zeros(4))


def test_bfloat16_goes_through_a_float32_softmax():
    q, k = tensors((B, H, T, 64), (B, H, 200, 64), dtype=torch.bfloat16)
    weights = attention_weights(q, k)
    exact = attention_weights(q.float(), k.float())
    assert weights.dtype == torch.bfloat16
    assert (weights.float() - exact).abs().max() < 0.02
    assert (weights.float().sum(-1) - 1).abs().max() < 0.02


def test_a_future_token_changes_nothing_before_it():
    attn = MultiHeadAttention(12, n_heads=3, n_kv_heads=1)
    (x,) = tensors((1, 6, 12))
    other = x.detach().clone()
    other[:, 4] += 1
    changed = (attn(x, CAUSAL) - attn(other, CAUSAL)).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 2


def test_split_and_merge_are_inverse():
    (x,) = tensors((B, T, 12))
    assert torch.equal(merge_heads(split_heads(x, 3)), x)
    assert torch.equal(split_heads(x, 3)[:, 1], x[..., 4:8])


@pytest.mark.parametrize("causal", [False, True])
def test_equals_torchs_multihead_layer(causal):
    ours, theirs = MultiHeadAttention(12, 3, bias=True), nn.MultiheadAttention(12, 3, batch_first=True)
    projections = [ours.q_proj, ours.k_proj, ours.v_proj]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        theirs.out_proj.load_state_dict(ours.o_proj.state_dict())
    (x,) = tensors((B, T, 12))
    expected, maps = theirs(x, x, x, attn_mask=~causal_mask(T, T) if causal else None, average_attn_weights=False)
    assert torch.allclose(ours(x, CAUSAL if causal else None), expected, atol=1e-6)
    with record_attention(ours) as recorded:
        ours(2 * x, None)
        with record_attention(ours) as inner:
            ours(3 * x, None)
        assert len(inner) == 1
        recording = ours(x, CAUSAL if causal else None)
    assert len(recorded) == 1, "only the last forward pass is kept"
    assert torch.allclose(recording, expected, atol=1e-6)
    assert torch.allclose(recorded[0], maps, atol=1e-6)
    assert ours.recorder is None, "nobody listens after the `with`"


def test_sinks_equal_gpt_oss():
    """The reference appends each head's sink to the scores, takes the softmax, and drops the column."""
    modeling = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    ours = MultiHeadAttention(24, n_heads=6, n_kv_heads=2, sinks=True)
    nn.init.normal_(ours.sinks, std=2.0)
    (x,) = tensors((B, T, 24))
    q, k, v = split_heads(ours.q_proj(x), 6), split_heads(ours.k_proj(x), 2), split_heads(ours.v_proj(x), 2)
    module = nn.Module()
    module.sinks, module.num_key_value_groups, module.training = ours.sinks, 3, False
    bias = torch.zeros(1, 1, T, T).masked_fill(~causal_mask(T, T), -torch.inf)
    expected, _ = modeling.eager_attention_forward(module, q, k, v, bias, scaling=4**-0.5)
    for mask in (CAUSAL, causal_mask(T, T), bias):
        assert torch.allclose(ours(x, mask), ours.o_proj(expected.flatten(2)), atol=1e-6)
    without = MultiHeadAttention(24, n_heads=6, n_kv_heads=2)
    without.load_state_dict(ours.state_dict(), strict=False)
    assert not torch.allclose(without(x, CAUSAL), ours(x, CAUSAL), atol=1e-3), "the sinks do nothing"


def test_qk_norm_equals_qwen3():
    modeling = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    from transformers import Qwen3Config

    config = Qwen3Config(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-6,
                         num_hidden_layers=1, attn_implementation="eager")  # fmt: skip
    theirs = modeling.Qwen3Attention(config, layer_idx=0)
    ours = MultiHeadAttention(32, 4, n_kv_heads=2, head_dim=8, qk_norm=lambda width: RMSNorm(width, 1e-6))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.5)
    ours.load_state_dict(theirs.state_dict())
    (x,) = tensors((B, T, 32))
    cos, sin = modeling.Qwen3RotaryEmbedding(config)(x, torch.arange(T)[None])
    bias = torch.zeros(1, 1, T, T).masked_fill(~causal_mask(T, T), -torch.inf)
    expected, _ = theirs(x, position_embeddings=(cos, sin), attention_mask=bias)
    rotary = RotaryEmbedding(8, config.rope_parameters["rope_theta"])(torch.arange(T), x.dtype)
    assert torch.allclose(ours(x, CAUSAL, rotary), expected, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_blocks_equal_the_whole(block, causal):
    q, k, v = tensors((B, H, T, D), (B, H, S, D), (B, H, S, D))
    mask = CAUSAL if causal else None
    assert torch.allclose(blockwise_attention(q, k, v, block, causal), attention(q, k, v, mask), atol=1e-6)
    large = 300 * q
    assert torch.allclose(blockwise_attention(large, k, v, block, causal), attention(large, k, v, mask), atol=1e-5)


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="d_model = 10 cannot be divided among 3 heads"):
        MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="4 query heads cannot share 3"):
        MultiHeadAttention(8, 4, n_kv_heads=3)


def test_maps_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="Linear has no attention layer"), record_attention(nn.Linear(2, 2)):
        pass
    with pytest.raises(ValueError, match="one text at a time, got a batch of 2"):
        attention_maps(nn.Linear(2, 2), torch.zeros(2, 3, dtype=torch.long))


def test_maps_are_drawn_with_words_at_the_edges():
    import matplotlib.pyplot as plt

    maps = torch.rand(2, 3, 4, 4)
    fig, axes = plt.subplots(2, 3)
    image = draw_heads(axes, maps, [" a", " b", " c", " d"])
    assert np.array_equal(image.get_array(), maps[1, 2]), "the last image is the last layer's last head"
    assert axes[1, 2].get_title() == "layer 1, head 2"
    assert [text.get_text() for text in axes[1, 0].get_yticklabels()] == ["a", "b", "c", "d"]
    assert not axes[0, 1].get_xticks().size and not axes[1, 1].get_yticks().size
    draw_attention(axes[0, 0], torch.rand(2, 3), "ab", keys="xyz")
    with pytest.raises(ValueError, match=r"weights of shape \(2, 3\) for 2 queries and 2 keys"):
        draw_attention(axes[0, 0], torch.rand(2, 3), "ab")
    plt.close(fig)
