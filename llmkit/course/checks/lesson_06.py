"""Lesson 06: RMSNorm, SwiGLU, the size of cache and model, QK-norm, z-loss."""

import math
from functools import partial

import torch
from torch.nn import functional as F

from llmkit.course.compare import first_difference
from llmkit.course.exercise import Case, Exercise
from llmkit.layers.norms import rms_norm
from llmkit.models.llama import SIZES, LlamaConfig
from llmkit.models.palm import SIZES as PALM
from llmkit.training.losses import z_loss


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- 6.1 rms_norm ---


def norm_cases() -> list[Case]:
    def make(shape, seed, scale=3.0, offset=0.0, eps=1e-6, dtype=torch.float32):
        x = (_random(*shape, seed=seed) * scale + offset).to(dtype)
        return x, _random(shape[-1], seed=seed + 1, dtype=dtype), eps

    return [
        Case("3 and 4, weight 1, eps 0", lambda: (torch.tensor([[3.0, 4.0]]), torch.ones(2), 0.0)),
        Case("a weight", lambda: make((2, 5), 0)),
        Case("(B, T, C), numbers far from 0", lambda: make((2, 3, 8), 2, offset=7.0)),
        Case("a large eps", lambda: make((2, 3, 8), 4, eps=0.5)),
        Case("small numbers, eps left out: 1e-6", lambda: make((2, 6), 6, scale=1e-3)[:2]),
        Case("all numbers 0", lambda: (torch.zeros(2, 4), torch.ones(4), 1e-6)),
        Case("one vector (C,)", lambda: make((8,), 8)),
        Case("bfloat16 in, bfloat16 out", lambda: make((3, 7, 64), 10, dtype=torch.bfloat16)),
        Case("float16: the squares of 300 do not fit", lambda: make((2, 5, 8), 12, scale=300, dtype=torch.float16)),
    ]


def _inverse_rms(wide, eps):
    return torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def norm_centred(x, weight, eps=1e-6):
    wide = x.float() - x.float().mean(-1, keepdim=True)
    return (wide * _inverse_rms(wide, eps)).type_as(x) * weight


def norm_square_of_the_mean(x, weight, eps=1e-6):
    wide = x.float()
    return (wide * torch.rsqrt(wide.mean(-1, keepdim=True).square() + eps)).type_as(x) * weight


def norm_multiplied_by_the_root(x, weight, eps=1e-6):
    wide = x.float()
    return (wide * torch.sqrt(wide.square().mean(-1, keepdim=True) + eps)).type_as(x) * weight


def norm_divided_in_16_bits(x, weight, eps=1e-6):
    return x * _inverse_rms(x.float(), eps).type_as(x) * weight


def norm_eps_outside(x, weight, eps=1e-6):
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True).sqrt() + eps)).type_as(x) * weight


def norm_without_root(x, weight, eps=1e-6):
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True) + eps)).type_as(x) * weight


def norm_by_length(x, weight, eps=1e-6):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).type_as(x) * weight


def norm_first_axis(x, weight, eps=1e-6):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(0, keepdim=True) + eps)).type_as(x) * weight


def norm_over_everything(x, weight, eps=1e-6):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean() + eps)).type_as(x) * weight


def norm_without_weight(x, weight, eps=1e-6):
    return rms_norm(x, torch.ones_like(weight), eps)


def norm_weight_plus_one(x, weight, eps=1e-6):
    return rms_norm(x, 1 + weight, eps)


def norm_in_16_bits(x, weight, eps=1e-6):
    return x * _inverse_rms(x, eps) * weight


def norm_cast_too_late(x, weight, eps=1e-6):
    wide = x.float()
    return (wide * _inverse_rms(wide, eps) * weight.float()).type_as(x)


def norm_never_cast_back(x, weight, eps=1e-6):
    wide = x.float()
    return wide * _inverse_rms(wide, eps) * weight.float()


# --- 6.2 swiglu ---


def swiglu_cases() -> list[Case]:
    return [
        Case("gate 0, 2, -2, up 1", lambda: (torch.tensor([0.0, 2.0, -2.0]), torch.ones(3))),
        Case("gate 1, up 0, 3, -3", lambda: (torch.ones(3), torch.tensor([0.0, 3.0, -3.0]))),
        Case("a batch (2, 3, 5)", lambda: (_random(2, 3, 5) * 2, _random(2, 3, 5, seed=1) * 2)),
        Case("a gate far out", lambda: (torch.tensor([-60.0, 60.0]), torch.tensor([2.0, -2.0]))),
    ]


def swiglu_swapped(gate, up):
    return F.silu(up) * gate


def swiglu_sigmoid_only(gate, up):
    return torch.sigmoid(gate) * up


def swiglu_gelu(gate, up):
    return F.gelu(gate) * up


def swiglu_relu(gate, up):
    return F.relu(gate) * up


def swiglu_sum(gate, up):
    return F.silu(gate) + up


def swiglu_of_the_product(gate, up):
    return F.silu(gate * up)


def swiglu_no_up(gate, up):
    return F.silu(gate)


def swiglu_two_different(gate, up):
    return gate * torch.sigmoid(up)


def swiglu_both_bent(gate, up):
    return F.silu(gate) * F.silu(up)


# --- 6.3 gated_width ---


def width_cases() -> list[Case]:
    return [
        Case("d_model 48, multiples of 8: 128 fits", lambda: (48, 8)),
        Case("d_model 32, multiples of 8: 85 does not", lambda: (32, 8)),
        Case("LLaMA-7B", lambda: (4096,)),
        *(Case("LLaMA-13B, 33B, 65B", lambda d=d: (d,)) for d in (5120, 6656, 8192)),
        Case("multiples of 64", lambda: (576, 64)),
        Case("a tiny model, multiples of 256", lambda: (24, 256)),
    ]


def _up(width: float, multiple_of: int) -> int:
    return math.ceil(int(width) / multiple_of) * multiple_of


def width_rounded_down(d_model, multiple_of=256):
    return int(8 * d_model / 3) // multiple_of * multiple_of


def width_to_the_nearest(d_model, multiple_of=256):
    return round(8 * d_model / 3 / multiple_of) * multiple_of


def width_not_rounded(d_model, multiple_of=256):
    return int(8 * d_model / 3)


def width_always_one_more(d_model, multiple_of=256):
    return (int(8 * d_model / 3) // multiple_of + 1) * multiple_of


def width_four(d_model, multiple_of=256):
    return _up(4 * d_model, multiple_of)


def width_two_thirds(d_model, multiple_of=256):
    return _up(2 * d_model / 3, multiple_of)


def width_eight_thirds_cut_first(d_model, multiple_of=256):
    return _up(8 // 3 * d_model, multiple_of)


def width_always_256(d_model, multiple_of=256):
    return _up(8 * d_model / 3, 256)


def a_whole_number(expected, got, arguments):
    """The width goes into nn.Linear, which takes an int and nothing else."""
    if isinstance(got, float) and got == expected:
        return f"expected an int, got the float {got}: nn.Linear takes no float (`//` of floats is a float)"
    difference = first_difference(expected, got)
    return str(difference) if difference else None


def width_rounded_first(d_model, multiple_of=256):
    return 8 * _up(d_model / 3, multiple_of)


# --- 6.4 kv_cache_bytes ---


def cache_cases() -> list[Case]:
    tiny = LlamaConfig(n_layers=3, d_model=40, n_heads=5, d_ff=24)
    return [
        Case("one token, all heads their own keys", lambda: (tiny, 1)),
        Case("seven tokens", lambda: (tiny, 7)),
        Case("float32", lambda: (tiny, 7, 4)),
        Case("6 query heads share 2", lambda: (LlamaConfig(n_layers=3, d_model=48, n_heads=6, n_kv_heads=2), 7)),
        Case(
            "heads wider than d_model / n_heads",
            lambda: (LlamaConfig(n_layers=3, d_model=48, n_heads=6, n_kv_heads=2, head_dim=16), 5),
        ),
        Case("LLaMA-7B, 32768 tokens", lambda: (SIZES["llama-7b"], 32768)),
        Case("Llama-3-8B, 32768 tokens", lambda: (SIZES["llama-3-8b"], 32768)),
        Case("PaLM-8B, 32768 tokens", lambda: (PALM["palm-8b"], 32768)),
        Case("no token yet", lambda: (tiny, 0)),
    ]


def _cache(config, tokens, bytes_per_number, n_kv_heads=None, head_dim=None, layers=None, both=2):
    n_kv_heads = n_kv_heads or config.n_kv_heads or config.n_heads
    head_dim = head_dim or config.head_dim or config.d_model // config.n_heads
    return both * (layers or config.n_layers) * tokens * n_kv_heads * head_dim * bytes_per_number


def cache_keys_only(config, tokens, bytes_per_number=2):
    return _cache(config, tokens, bytes_per_number, both=1)


def cache_of_all_heads(config, tokens, bytes_per_number=2):
    return _cache(config, tokens, bytes_per_number, n_kv_heads=config.n_heads)


def cache_of_one_layer(config, tokens, bytes_per_number=2):
    return _cache(config, tokens, bytes_per_number, layers=1)


def cache_in_numbers(config, tokens, bytes_per_number=2):
    return _cache(config, tokens, 1)


def cache_always_16_bits(config, tokens, bytes_per_number=2):
    return _cache(config, tokens, 2)


def cache_in_bits(config, tokens, bytes_per_number=2):
    return _cache(config, tokens, 8 * bytes_per_number)


def cache_head_dim_from_kv_heads(config, tokens, bytes_per_number=2):
    kv = config.n_kv_heads or config.n_heads
    return _cache(config, tokens, bytes_per_number, head_dim=config.head_dim or config.d_model // kv)


def cache_head_dim_not_read(config, tokens, bytes_per_number=2):
    return _cache(config, tokens, bytes_per_number, head_dim=config.d_model // config.n_heads)


def cache_of_d_model(config, tokens, bytes_per_number=2):
    return 2 * config.n_layers * tokens * config.d_model * bytes_per_number


# --- 6.5 count_params (find the bugs) ---


def params_cases() -> list[Case]:
    tiny = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 6, "d_ff": 32}
    return [
        Case("LLaMA-7B: 6,738,415,616", lambda: (SIZES["llama-7b"],)),
        Case("a tiny one", lambda: (LlamaConfig(**tiny),)),
        Case("a tiny one, tied", lambda: (LlamaConfig(**tiny, tie=True),)),
        Case("6 query heads share 2 key-value heads", lambda: (LlamaConfig(**tiny, n_kv_heads=2),)),
        Case("heads of 5 numbers", lambda: (LlamaConfig(**tiny, n_kv_heads=3, head_dim=5),)),
        Case("Llama-3-8B: 8,030,261,248", lambda: (SIZES["llama-3-8b"],)),
        Case("Llama-3.2-1B: 1,235,814,400", lambda: (SIZES["llama-3.2-1b"],)),
        Case("SmolLM2-135M", lambda: (SIZES["smollm2-135m"],)),
    ]


def params_as_in_gpt2(config):
    V, C, L, d_ff = config.vocab_size, config.d_model, config.n_layers, config.d_ff
    attention = 4 * C * C  # q, k, v and the output
    mlp = 2 * C * d_ff
    norms = 2 * C
    return V * C + L * (attention + mlp + norms) + C


def _params(config, kv=None, head_dim=None, matrices=3, tables=None, norms=2, final=1):
    C, H = config.d_model, config.n_heads
    D = head_dim or config.head_dim or C // H
    kv = kv or config.n_kv_heads or H
    block = 2 * C * H * D + 2 * C * kv * D + matrices * C * config.d_ff + norms * C
    return (tables or (1 if config.tie else 2)) * config.vocab_size * C + config.n_layers * block + final * C


def params_two_matrices(config):
    return _params(config, matrices=2)


def params_all_heads(config):
    return _params(config, kv=config.n_heads)


def params_head_dim_not_read(config):
    return _params(config, head_dim=config.d_model // config.n_heads)


def params_attention_of_gpt2(config):
    return _params(config, kv=config.n_heads, head_dim=config.d_model // config.n_heads)


def params_one_table(config):
    return _params(config, tables=1)


def params_two_tables(config):
    return _params(config, tables=2)


def params_tie_reversed(config):
    return _params(config, tables=2 if config.tie else 1)


def params_narrow_queries(config):
    C, H = config.d_model, config.n_heads
    kv, D = config.n_kv_heads or H, config.head_dim or C // H
    return _params(config) - config.n_layers * 2 * C * D * (H - kv)


def params_head_dim_from_kv_heads(config):
    return _params(config, head_dim=config.head_dim or config.d_model // (config.n_kv_heads or config.n_heads))


def params_square_output(config):
    C, H = config.d_model, config.n_heads
    return _params(config) + config.n_layers * C * (C - H * (config.head_dim or C // H))


def params_no_norms(config):
    return _params(config, norms=0, final=0)


def params_no_final_norm(config):
    return _params(config, final=0)


def params_norms_with_bias(config):
    return _params(config, norms=4, final=2)


# two of the three differences left; a second table that is always counted is not mended yet either


def params_only_attention_right(config, tables=1):
    return _params(config, matrices=2, tables=tables)


def params_only_mlp_right(config, tables=1):
    return _params(config, kv=config.n_heads, head_dim=config.d_model // config.n_heads, tables=tables)


def params_only_tables_right(config, tables=None):
    heads = {"kv": config.n_heads, "head_dim": config.d_model // config.n_heads}
    return _params(config, **heads, matrices=2, tables=tables)


# --- 6.6 the largest score under QK-norm, by hand ---


def largest_score() -> float:
    return 64**0.5


# --- 6.7 z_loss ---


def z_cases() -> list[Case]:
    return [
        Case("two equal logits: log Z = ln 2", lambda: (torch.zeros(1, 2),)),
        Case("one position, three tokens", lambda: (torch.tensor([[1.0, 2.0, 4.0]]),)),
        Case("two positions", lambda: (torch.tensor([[0.0, 1.0, 5.0], [-2.0, -1.0, -4.0]]),)),
        Case("logits (B, T, V)", lambda: (_random(2, 3, 5) * 3,)),
        Case("logits that are log-probabilities: 0", lambda: (_random(2, 3, 5, seed=1).log_softmax(-1),)),
        Case("logits of 200: e^200 does not fit", lambda: (_random(2, 3, 5, seed=2) * 5 + 200,)),
        Case("bfloat16 logits", lambda: (_random(2, 4, 7, seed=3, dtype=torch.bfloat16) * 3,)),
    ]


def z_not_squared(logits):
    return logits.float().logsumexp(-1).mean()


def z_of_the_squared_sum(logits):
    return logits.float().logsumexp(-1).mean().square()


def z_sum(logits):
    return logits.float().logsumexp(-1).square().sum()


def z_overflows(logits):
    return logits.float().exp().sum(-1).log().square().mean()


def z_without_log(logits):
    return logits.float().exp().sum(-1).square().mean()


def z_of_the_mean(logits):
    return logits.float().exp().mean(-1).log().square().mean()


def z_of_the_largest(logits):
    return logits.float().amax(-1).square().mean()


def z_wrong_axis(logits):
    return logits.float().logsumexp(0).square().mean()


def z_in_16_bits(logits):
    return logits.logsumexp(-1).square().mean()


def z_converted_late(logits):
    return logits.logsumexp(-1).float().square().mean()


def z_converted_last(logits):
    return logits.logsumexp(-1).square().mean().float()


def z_of_log_probabilities(logits):
    return logits.float().log_softmax(-1).square().mean()


def z_with_factor(logits):
    return 1e-4 * z_loss(logits)


def z_of_all_logits(logits):
    return logits.float().flatten().logsumexp(0).square()


EXERCISES = [
    Exercise(
        number="6.1",
        name="rms_norm",
        reference="llmkit.layers.norms:rms_norm",
        cases=norm_cases,
        hints=(
            "The mean of the squares runs over the last axis, with keepdim=True; eps is added to it, then comes the root.",
            "torch.rsqrt(y) is 1 / sqrt(y). In which dtype is x when you square it, and in which should it be?",
            "Order: x.float(), divide, .type_as(x), and only then * weight.",
        ),
        wrong={
            "the mean was subtracted, as LayerNorm does; RMSNorm leaves it in": norm_centred,
            "eps stands outside the root; it belongs inside, added to the mean square": norm_eps_outside,
            "divided by the mean square itself: take its root": norm_without_root,
            "divided by the length of the vector: its squares were summed, take their mean": norm_by_length,
            "the mean was squared; take the mean of the squares": norm_square_of_the_mean,
            "multiplied by the root; divide by it (torch.rsqrt is 1 / root)": norm_multiplied_by_the_root,
            "the mean runs over the first axis; it must run over the last, inside each vector": norm_first_axis,
            "one mean for the whole tensor; each vector has its own": norm_over_everything,
            "the weight is not used": norm_without_weight,
            "multiplied by 1 + weight (Gemma does that); LLaMA multiplies by the weight": norm_weight_plus_one,
            "the squares were taken in 16 bits; convert x to float32 first": norm_in_16_bits,
            "only the root was computed in float32; divide there too, then convert the result": norm_divided_in_16_bits,
            "16-bit numbers: the weight was multiplied before the result was cast back; LLaMA casts first": (
                norm_cast_too_late
            ),
            "the result has to come back in the dtype of x": norm_never_cast_back,
        },
    ),
    Exercise(
        number="6.2",
        name="swiglu",
        reference="llmkit.layers.mlp:swiglu",
        cases=swiglu_cases,
        gradients=True,
        hints=(
            "silu(x) = x · sigmoid(x). It is applied to one of the two only.",
            "torch.sigmoid(gate) lies between 0 and 1. Three factors are multiplied in all.",
        ),
        wrong={
            "gate and up are swapped: silu bends the gate, up stays as it is": swiglu_swapped,
            "only sigmoid(gate): that is the GLU of 2016. silu is x times sigmoid(x)": swiglu_sigmoid_only,
            "that is GEGLU: GELU bends the gate. Here it is silu": swiglu_gelu,
            "that is ReGLU: ReLU bends the gate. Here it is silu": swiglu_relu,
            "added instead of multiplied": swiglu_sum,
            "silu of the product; it bends the gate alone": swiglu_of_the_product,
            "`up` is not used": swiglu_no_up,
            "gate times sigmoid(up): in silu both factors are the gate, and up is a third one": swiglu_two_different,
            "both were bent; only the gate is": swiglu_both_bent,
        },
    ),
    Exercise(
        number="6.3",
        name="gated_width",
        reference="llmkit.layers.mlp:gated_width",
        cases=width_cases,
        compare=a_whole_number,
        hints=(
            "First 8/3 of d_model, cut to a whole number. Then: how many times does multiple_of have to be taken?",
            "Rounding a division of whole numbers up: (a + b - 1) // b, or -(-a // b).",
        ),
        wrong={
            "rounded down; the model would be smaller than planned. Round up": width_rounded_down,
            "rounded to the nearest multiple; round up": width_to_the_nearest,
            "not rounded to a multiple of `multiple_of`": width_not_rounded,
            "one multiple too many where 8/3 d_model already is one": width_always_one_more,
            "that is 4 d_model, the width of an MLP of two matrices": width_four,
            "2/3 of d_model; it is 2/3 of 4 d_model": width_two_thirds,
            "8 // 3 is 2: multiply d_model by 8 first, then divide by 3": width_eight_thirds_cut_first,
            "rounded up to a multiple of 256 whatever `multiple_of` says": width_always_256,
            "a third was rounded up and then taken 8 times; round at the end": width_rounded_first,
        },
    ),
    Exercise(
        number="6.4",
        name="kv_cache_bytes",
        reference="llmkit.models.sizes:kv_cache_bytes",
        cases=cache_cases,
        hints=(
            "How many numbers does one layer keep for one token? Keys and values, for each key-value head.",
            "`a or b` is b where a is None: config.n_kv_heads or config.n_heads.",
            "The width of a head is that of a query head: d_model / n_heads, unless head_dim says otherwise.",
        ),
        wrong={
            "only keys or only values; both are kept": cache_keys_only,
            "all query heads were counted; only the n_kv_heads key-value heads are kept": cache_of_all_heads,
            "that is one layer; every layer keeps its own keys and values": cache_of_one_layer,
            "those are numbers, not bytes": cache_in_numbers,
            "2 bytes were taken whatever bytes_per_number says": cache_always_16_bits,
            "those are bits; bytes were asked for": cache_in_bits,
            "d_model / n_kv_heads is not the width of a head: grouping makes fewer heads, not wider ones": (
                cache_head_dim_from_kv_heads
            ),
            "config.head_dim was not read; where it is given it decides": cache_head_dim_not_read,
            "d_model numbers a token are right only where every query head has its own keys": cache_of_d_model,
        },
    ),
    Exercise(
        number="6.5",
        name="count_params",
        reference="llmkit.models.llama:count_params",
        cases=params_cases,
        starts_from=params_as_in_gpt2,
        hints=(
            "Go through the docstring sentence by sentence and look for the line that counts what it says.",
            "Four things are different: the shapes of q, k, v and output; the MLP; the output matrix.",
            "q and the output are C × (n_heads · head_dim), k and v are C × (n_kv_heads · head_dim).",
        ),
        wrong={
            "nothing is mended yet: this still counts as if it were GPT-2": params_as_in_gpt2,
            "a gated MLP has three matrices: gate, up, down": params_two_matrices,
            "k and v are as narrow as the n_kv_heads key-value heads": params_all_heads,
            "config.head_dim was not read; where it is given, heads are that wide": params_head_dim_not_read,
            "attention is counted with d_model × d_model matrices; look at n_kv_heads and head_dim": (
                params_attention_of_gpt2
            ),
            "the output matrix was not counted where config.tie is False": params_one_table,
            "the output matrix was counted although config.tie is True": params_two_tables,
            "the norms have parameters too: C each, two a block and one at the end": params_no_norms,
            "the last norm, after all blocks, is missing": params_no_final_norm,
            "these norms have no bias: C numbers each": params_norms_with_bias,
            "config.tie is read the wrong way round: tied means one table": params_tie_reversed,
            "q and the output were counted with n_kv_heads; only k and v are that narrow": params_narrow_queries,
            "a head is d_model / n_heads wide: grouping makes fewer key-value heads, not wider ones": (
                params_head_dim_from_kv_heads
            ),
            "attention's output matrix reads n_heads · head_dim numbers, and that need not be d_model": (
                params_square_output
            ),
            "attention is right; the MLP and the output matrix are not yet": params_only_attention_right,
            "attention is right; the MLP is not yet, and the output matrix is counted although config.tie is True": (
                partial(params_only_attention_right, tables=2)
            ),
            "the MLP is right; attention and the output matrix are not yet": params_only_mlp_right,
            "the MLP is right; attention is not yet, and the output matrix is counted although config.tie is True": (
                partial(params_only_mlp_right, tables=2)
            ),
            "the output matrix is right; attention and the MLP are not yet": params_only_tables_right,
            "the output matrix is counted, but also where config.tie is True; attention and the MLP are not right yet": (
                partial(params_only_tables_right, tables=2)
            ),
        },
    ),
    Exercise(
        number="6.6",
        name="largest_score",
        reference=largest_score,
        tolerance=1e-3,
        hints=(
            "After the norm the mean of a vector's squares is 1. So what is the sum of its D = 64 squares, and its length?",
            "A dot product is at most the product of the two lengths. Then comes the scale.",
        ),
        wrong={
            "that is the dot product q · k; the scale 1/√D comes after it": lambda: 64,
            "these vectors do not have the length 1: the *mean* of their squares is 1": lambda: 1,
            "that would be right for vectors of length 1; the mean of their squares is 1, not the sum": lambda: 0.125,
            "the length of a vector is the root of the sum of its squares": lambda: 512,
        },
    ),
    Exercise(
        number="6.7",
        name="z_loss",
        reference="llmkit.training.losses:z_loss",
        cases=z_cases,
        hints=(
            "logits.logsumexp(-1) is log Z of each position, without ever writing e^logit down.",
            "Square each log Z, then take the mean over all positions. Convert to float32 first.",
        ),
        wrong={
            "log Z is not squared: it could be made ever more negative": z_not_squared,
            "squared after the mean; then a positive and a negative log Z cancel": z_of_the_squared_sum,
            "the sum over positions; take their mean": z_sum,
            "e^logit overflows for large logits; torch.logsumexp takes the largest out first": z_overflows,
            "the logarithm is missing: it is log² Z": z_without_log,
            "Z is a sum over the vocabulary, not a mean": z_of_the_mean,
            "that is the largest logit; Z sums over all": z_of_the_largest,
            "Z sums over the wrong axis; the vocabulary is the last": z_wrong_axis,
            "16-bit logits give a 16-bit result: convert them to float32 first": z_in_16_bits,
            "converted to float32 after logsumexp, when the digits were gone: convert the logits": z_converted_late,
            "converted to float32 at the very end, when the digits were gone: convert the logits": z_converted_last,
            "those are the squares of log-probabilities; log Z is what log_softmax subtracts": z_of_log_probabilities,
            "the factor 1e-4 is applied by whoever adds it to the loss, not here": z_with_factor,
            "one Z for all positions together; each has its own": z_of_all_logits,
        },
    ),
]
