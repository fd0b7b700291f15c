"""Positions against transformers' own, and the properties that make them positions."""

import math

import pytest
import torch

from llmkit.layers.positions import Alibi, RelativePositionBias, alibi_slopes, relative_bucket, sinusoidal
from llmkit.layers.rope import (
    RotaryEmbedding,
    halves_to_pairs,
    ntk_scaling,
    pairs_to_halves,
    rope_frequencies,
    rotate,
    scaled_frequencies,
)
from llmkit.models.llama import LlamaConfig, llama

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama 3.1": LLAMA3,
    "llama 3.2": LLAMA3 | {"factor": 32.0},
    "llama3, other borders": LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 16.0},
    "yarn": YARN,
    "yarn, short context": YARN | {"original_max_position_embeddings": 64, "factor": 8.0},
    "yarn, other borders": YARN | {"beta_fast": 20.0, "beta_slow": 2.0},
    "yarn, borders not rounded": YARN | {"truncate": False},
    "yarn, its attention factor given": YARN | {"attention_factor": 1.25},
    "yarn, deepseek's": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5},
}


def config_with(rope: dict, head_dim: int, theta: float, max_len: int = 32768):
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=head_dim,
        max_position_embeddings=max_len,
        rope_parameters={**rope, "rope_theta": theta},
    )


def rope_functions():
    return pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS


@pytest.mark.parametrize(("head_dim", "theta"), [(128, 10000.0), (64, 500000.0), (6, 100.0)])
def test_frequencies_without_scaling(head_dim, theta):
    module = pytest.importorskip("transformers.models.llama.modeling_llama")
    theirs, factor = module.LlamaRotaryEmbedding.compute_default_rope_parameters(
        config_with({"rope_type": "default"}, head_dim, theta)
    )
    assert factor == 1.0
    torch.testing.assert_close(rope_frequencies(head_dim, theta), theirs, rtol=1e-6, atol=0)
    assert scaled_frequencies(head_dim, theta, None)[1] == 1.0


@pytest.mark.parametrize(("head_dim", "theta"), [(128, 10000.0), (64, 500000.0), (16, 10000.0)])
@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_frequencies(name, head_dim, theta):
    scaling = SCALINGS[name]
    theirs, factor = rope_functions()[scaling["rope_type"]](config_with(scaling, head_dim, theta), "cpu")
    ours, ours_factor = scaled_frequencies(head_dim, theta, scaling)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0)
    assert ours_factor == pytest.approx(factor, rel=1e-12)
    turned = RotaryEmbedding(head_dim, theta, scaling)
    cos, sin = turned(torch.arange(3))
    torch.testing.assert_close(cos.square() + sin.square(), torch.full_like(cos, factor**2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("length", [4096, 10000, 32768])
def test_ntk_is_dynamic_scaling_at_a_fixed_length(length):
    max_len, factor = 4096, 3.0
    config = config_with({"rope_type": "dynamic", "factor": factor}, 64, 10000.0, max_len)
    theirs, _ = rope_functions()["dynamic"](config, "cpu", seq_len=length)
    stretch = factor * length / max_len - (factor - 1)
    ours = ntk_scaling(rope_frequencies(64), stretch)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0)
    torch.testing.assert_close(ours, scaled_frequencies(64, 1e4, {"rope_type": "ntk", "factor": stretch})[0])
    assert ours[0] == 1.0 and ours[-1] == pytest.approx(rope_frequencies(64)[-1].item() / stretch, rel=1e-5)


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="longrope"):
        scaled_frequencies(8, 1e4, {"rope_type": "longrope", "factor": 2.0})


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (16, 64), (64, 1000), (20, 50)])
def test_t5_buckets(bidirectional, n_buckets, max_distance):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    distance = torch.arange(-3000, 3001)
    theirs = t5._relative_position_bucket(distance, bidirectional, n_buckets, max_distance)
    assert torch.equal(relative_bucket(distance, bidirectional, n_buckets, max_distance), theirs)
    assert theirs.max() == n_buckets - 1, "the test must reach the last bucket"


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_bias(bidirectional):
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = transformers.T5Config(d_model=24, num_heads=3, d_kv=8, is_decoder=not bidirectional)
    theirs = module.T5Attention(config, has_relative_attention_bias=True)
    ours = RelativePositionBias(3, bidirectional)
    with torch.no_grad():
        ours.weight.copy_(torch.randn(32, 3, generator=torch.Generator().manual_seed(0)))
        theirs.relative_attention_bias.weight.copy_(ours.weight)
        expected = theirs.compute_bias(150, 200)
        got = ours(torch.arange(150), torch.arange(200))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 6, 8, 12, 16, 20, 40])
def test_alibi_is_blooms(n_heads):
    """BLOOM adds slope * key position; ours adds -slope * distance: the same after softmax in a causal row."""
    module = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    T = 9
    theirs = module.build_alibi_tensor(torch.ones(1, T, dtype=torch.long), n_heads, torch.float32)
    torch.testing.assert_close(alibi_slopes(n_heads), theirs[:, 0, 1], rtol=1e-6, atol=0)
    generator = torch.Generator().manual_seed(n_heads)
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    scores = torch.randn(1, n_heads, T, T, generator=generator).masked_fill(hidden, -torch.inf)
    places = torch.arange(T)
    ours = (scores + Alibi(n_heads)(places, places)).softmax(-1)
    torch.testing.assert_close(ours, (scores + theirs).softmax(-1), rtol=1e-5, atol=1e-7)


def test_a_shift_turns_the_sinusoids():
    """PE(p + k) = R(k) PE(p), with one R for all p."""
    p, k, C = torch.arange(200), 17, 32
    angles = k * rope_frequencies(C)
    pairs = torch.view_as_complex(sinusoidal(p, C).view(200, C // 2, 2).flip(-1).contiguous())  # cos + i sin
    shifted = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flip(-1).flatten(-2)
    torch.testing.assert_close(shifted, sinusoidal(p + k, C), rtol=0, atol=5e-5)


@pytest.mark.parametrize("scaling", [None, *SCALINGS.values()], ids=str)
def test_rope_depends_on_the_distance_only(scaling):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 3, 1, 64, generator=generator, dtype=torch.float64)
    rope = RotaryEmbedding(64, scaling=scaling)

    def score(m: int, n: int) -> torch.Tensor:
        (cos_m, sin_m), (cos_n, sin_n) = (rope(torch.tensor([p]), torch.float64) for p in (m, n))
        return (rotate(q, cos_m, sin_m) * rotate(k, cos_n, sin_n)).sum(-1)

    for distance in (0, 1, 30):
        expected = score(distance, 0)
        for n in (1, 50, 1000):
            torch.testing.assert_close(score(n + distance, n), expected, rtol=0, atol=2e-3)
    assert (score(30, 0) - score(0, 0)).abs().min() > 0.1, "the distance must matter"


def test_rotation_keeps_lengths_and_does_nothing_at_0():
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    rope = RotaryEmbedding(8)
    torch.testing.assert_close(rotate(x, *rope(torch.arange(5))).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotate(x, *rope(torch.zeros(5))), x)


def test_neighbours_are_halves_after_the_permutation():
    """Scores of the complex form (neighbours paired) with old weights = our scores with permuted weights."""
    H, D, C, T = 3, 8, 10, 6
    generator = torch.Generator().manual_seed(0)
    wq, wk = torch.randn(2, H * D, C, generator=generator, dtype=torch.float64)
    x = torch.randn(T, C, generator=generator, dtype=torch.float64)
    cos, sin = RotaryEmbedding(D)(torch.arange(T), torch.float64)

    def heads(weight):
        return (x @ weight.T).view(T, H, D).transpose(0, 1)[None]

    def rotate_neighbours(y):
        return torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)).flatten(-2)

    theirs = rotate_neighbours(heads(wq)) @ rotate_neighbours(heads(wk)).mT
    q, k = (rotate(heads(pairs_to_halves(w, H)), cos, sin) for w in (wq, wk))
    torch.testing.assert_close(q @ k.mT, theirs)
    unpermuted = rotate(heads(wq), cos, sin) @ rotate(heads(wk), cos, sin).mT
    assert (unpermuted - theirs).abs().max() > 0.1
    assert torch.equal(halves_to_pairs(pairs_to_halves(wq, H), H), wq)


def test_bfloat16_models_keep_exact_frequencies():
    config = LlamaConfig(50, 32, 2, 2, d_ff=48)
    model = llama(config).bfloat16()
    rope = model.transformer.rope
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert rope.frequencies.dtype == torch.float32
    assert torch.equal(rope.frequencies, rope_frequencies(16))
    cos, _ = rope(torch.tensor([10_000]), torch.bfloat16)
    exact = (10_000 * rope_frequencies(16)).cos()
    assert cos.dtype == torch.bfloat16
    torch.testing.assert_close(cos[0].float(), exact, rtol=0, atol=math.ldexp(1, -8))
    assert model.double().transformer.rope.frequencies.dtype == torch.float32
