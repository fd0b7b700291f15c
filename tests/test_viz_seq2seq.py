"""Cross-attention recorded from a model, and corrupted texts drawn as boxes."""

import matplotlib.pyplot as plt
import pytest
import torch

from llmkit.layers.attention import attention_weights, split_heads
from llmkit.models.bart import BartConfig, bart
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.t5 import T5Config, t5
from llmkit.viz.attention import cross_attention_maps
from llmkit.viz.corruption import draw_corruptions


@pytest.mark.parametrize("build", [
    lambda: t5(T5Config(40, 32, 2, n_heads=4, head_dim=8, d_ff=32)),
    lambda: bart(BartConfig(40, 32, 2, n_heads=4, d_ff=32, max_len=20)),
])  # fmt: skip
def test_cross_attention_is_recorded_and_nothing_else(build):
    torch.manual_seed(0)
    model = build().eval()
    ids, answer = torch.randint(3, 40, (2, 9)), torch.randint(3, 40, (2, 5))
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    before = model(ids, answer, mask)
    maps = cross_attention_maps(model, ids, answer, mask)
    assert maps.shape == (2, 2, 4, 5, 9) and torch.allclose(maps.sum(-1), torch.ones(2, 2, 4, 5), atol=1e-5)
    assert not maps[:, 1, :, :, 6:].any()  # padding
    assert torch.equal(model(ids, answer, mask), before)  # the listeners are gone
    layer, seen = model.decoder.blocks[0].cross_attn, []
    hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    model(ids[:1], answer[:1])
    hook.remove()
    x, memory = seen[0][:2]
    q, k = split_heads(layer.q_proj(x), 4), split_heads(layer.k_proj(memory), 4)
    assert torch.allclose(maps[0, :1], attention_weights(q, k, None, layer.scale), atol=1e-5)


def test_a_model_without_cross_attention_is_named():
    model = gpt2(GPT2Config(vocab_size=40, max_len=8, d_model=32, n_layers=1, n_heads=2))
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="CausalLM has no cross-attention"):
        cross_attention_maps(model, ids, ids)


def test_red_lines_stand_where_neighbours_were_none():
    def lines(row):
        _, axis = plt.subplots()
        draw_corruptions(axis, list("abcd"), {"row": row})
        found = len(axis.lines)
        plt.close("all")
        return found

    assert lines([0, 1, 2, 3]) == 0
    assert lines([0, 2, 3]) == 1 and lines([2, 3, 0, 1]) == 3 and lines([0, 1]) == 1
    assert lines([0, "_", 3]) == 0 and lines(["_"]) == 0
    with pytest.raises(ValueError, match="number 7"):
        lines([0, 7])
