"""The stack: every way to give it positions, with every cache, padding, packed texts and bfloat16."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PostNormBlock, PreNormBlock
from llmkit.layers.cache import growing_cache, ring_cache, static_cache
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import MLP
from llmkit.layers.positions import Alibi, RelativePositionBias, Sinusoidal
from llmkit.layers.rope import RotaryEmbedding
from llmkit.layers.transformer import Embedding, Transformer

C, H, V, T = 16, 4, 30, 9
IDS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, T, dtype=torch.bool)
MASK[1, :4] = False

SCHEMES = {
    "none": {},
    "learned": {"positions": lambda: nn.Embedding(T, C)},
    "sinusoidal": {"positions": lambda: Sinusoidal(C)},
    "rope": {"rope": lambda: RotaryEmbedding(C // H)},
    "alibi": {"position_bias": lambda: Alibi(H)},
    "t5": {"position_bias": lambda: RelativePositionBias(H, bidirectional=False)},
    "window": {"rope": lambda: RotaryEmbedding(C // H), "window": lambda: 3},
    "window, first tokens": {"rope": lambda: RotaryEmbedding(C // H), "window": lambda: 3, "sinks": lambda: 1},
    "alibi, window": {"position_bias": lambda: Alibi(H), "window": lambda: 3},
    "learned sinks": {"rope": lambda: RotaryEmbedding(C // H), "learned_sinks": lambda: True},
    "learned sinks, window": {
        "rope": lambda: RotaryEmbedding(C // H), "learned_sinks": lambda: True, "window": lambda: 3
    },
    "learned sinks, alibi": {"position_bias": lambda: Alibi(H), "learned_sinks": lambda: True},
}  # fmt: skip


def build(positions=None, learned_sinks=False, **options):
    norm = partial(nn.LayerNorm, C)
    blocks = [PreNormBlock(MultiHeadAttention(C, H, sinks=learned_sinks), MLP(C, 24), norm) for _ in range(2)]
    return CausalLM(Transformer(Embedding(V, C, positions), blocks, norm(), **options), None, tie=False)


@pytest.fixture(params=list(SCHEMES))
def model(request):
    torch.manual_seed(0)
    model = build(**{name: make() for name, make in SCHEMES[request.param].items()}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(model):
    assert same(model(IDS, MASK)[1, 4:], model(IDS[1:, 4:])[0])
    assert same(model(IDS, MASK.flip(1))[1, :5], model(IDS[1:, :5])[0])


@torch.no_grad()
def test_packed_texts_do_not_see_each_other(model):
    packed = model(IDS[:1], documents=torch.tensor([[0] * 4 + [1] * 5]))
    assert same(packed[:, :4], model(IDS[:1, :4])) and same(packed[:, 4:], model(IDS[:1, 4:]))


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "padded"])
@pytest.mark.parametrize("kind", ["growing", "static", "its own"])
def test_cached_steps_equal_one_pass(model, kind, mask):
    cache = {"growing": lambda: growing_cache(2), "static": lambda: static_cache(2, T), "its own": model.new_cache}
    cache = cache[kind]()
    ends = [3, 4, 5, 7, 8, 9]  # one at a time and several at once
    steps = [
        model(IDS[:, a:b], None if mask is None else mask[:, :b], cache)
        for a, b in zip([0, *ends], ends, strict=False)
    ]  # fmt: skip
    real = MASK if mask is not None else torch.ones_like(MASK)
    assert same(torch.cat(steps, 1)[real], model(IDS, mask)[real])


@torch.no_grad()
def test_bfloat16(model):
    exact, half = model(IDS, MASK), copy.deepcopy(model).bfloat16()(IDS, MASK)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact)[MASK].abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (4, 0), (3, 1)])
def test_a_ring_cache_that_does_not_fit_is_refused(window, sinks):
    """It would forget what the model may look at, or give it in an order that the mask does not know."""
    with pytest.raises(ValueError, match=f"ring cache of 3 tokens .* window {window} and {sinks} sinks"):
        build(window=window, sinks=sinks)(IDS, cache=ring_cache(2, 3))


def test_post_norm_block_is_torchs():
    theirs = nn.TransformerEncoderLayer(C, H, 24, dropout=0.0, batch_first=True)
    ours = PostNormBlock(MultiHeadAttention(C, H, bias=True), MLP(C, 24, torch.relu), partial(nn.LayerNorm, C))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj"),
            theirs.self_attn.in_proj_weight.chunk(3),
            theirs.self_attn.in_proj_bias.chunk(3),
            strict=True,
        ):
            getattr(ours.attn, name).weight.copy_(weight)
            getattr(ours.attn, name).bias.copy_(bias)
    ours.attn.o_proj.load_state_dict(theirs.self_attn.out_proj.state_dict())
    for mine, name in ((ours.attn_norm, "norm1"), (ours.mlp_norm, "norm2")):
        mine.load_state_dict(getattr(theirs, name).state_dict())
    for mine, name in ((ours.mlp.up_proj, "linear1"), (ours.mlp.down_proj, "linear2")):
        mine.load_state_dict(getattr(theirs, name).state_dict())
    x = torch.randn(2, T, C)
    assert same(ours(x), theirs(x))


def test_a_window_holds_the_token_itself():
    with pytest.raises(ValueError, match="window must be at least 1"):
        Transformer(Embedding(8, 4), [], window=0)
