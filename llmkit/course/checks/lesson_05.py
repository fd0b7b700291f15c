"""Lesson 05: the decoder block's parts, the loss, counting parameters, the schedule."""

import math

import torch
from torch.nn import functional as F

from llmkit.course.exercise import Case, Exercise
from llmkit.layers.norms import layer_norm
from llmkit.models.gpt2 import GPT2Config, count_params
from llmkit.training.losses import next_token_loss
from llmkit.training.schedules import warmup_cosine


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- 5.1 layer_norm ---


def norm_cases() -> list[Case]:
    def make(shape, seed, offset=0.0, eps=1e-5, affine=True, dtype=torch.float32):
        C = shape[-1]
        x = _random(*shape, seed=seed, dtype=dtype) * 3 + offset
        if not affine:
            return x, None, None, eps
        return x, _random(C, seed=seed + 1, dtype=dtype), _random(C, seed=seed + 2, dtype=dtype), eps

    return [
        Case("two numbers, 1 and 3", lambda: (torch.tensor([[1.0, 3.0]]), None, None, 0.0)),
        Case("no weight, no bias", lambda: make((2, 5), 0, affine=False)),
        Case("weight, no bias", lambda: (_random(2, 5), _random(5, seed=4), None, 1e-5)),
        Case("weight and bias", lambda: make((2, 3, 8), 1)),
        Case("numbers far from 0", lambda: make((2, 3, 8), 2, offset=7.0)),
        Case("a large eps", lambda: make((2, 3, 8), 3, eps=0.5)),
        Case("all numbers equal: 0 / sqrt(eps)", lambda: (torch.full((2, 4), 3.0), None, None, 1e-5)),
        Case("eps left out: 1e-5", lambda: (_random(2, 6) * 0.01, None, None)),
        Case("float64", lambda: make((3, 6), 4, dtype=torch.float64)),
    ]


def _affine(y, weight, bias):
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def norm_unbiased(x, weight, bias, eps=1e-5):
    y = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + eps)
    return _affine(y, weight, bias)


def norm_eps_outside(x, weight, bias, eps=1e-5):
    y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0).sqrt() + eps)
    return _affine(y, weight, bias)


def norm_by_variance(x, weight, bias, eps=1e-5):
    y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + eps)
    return _affine(y, weight, bias)


def norm_first_axis(x, weight, bias, eps=1e-5):
    y = (x - x.mean(0, keepdim=True)) / torch.sqrt(x.var(0, keepdim=True, correction=0) + eps)
    return _affine(y, weight, bias)


def norm_over_everything(x, weight, bias, eps=1e-5):
    return _affine((x - x.mean()) / torch.sqrt(x.var(correction=0) + eps), weight, bias)


def norm_not_centred(x, weight, bias, eps=1e-5):
    return _affine(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps), weight, bias)


def norm_without_affine(x, weight, bias, eps=1e-5):
    return layer_norm(x, None, None, eps)


def norm_both_or_none(x, weight, bias, eps=1e-5):
    return layer_norm(x, weight, bias, eps) if bias is not None else layer_norm(x, None, None, eps)


# --- 5.2 gelu_tanh ---


def gelu_cases() -> list[Case]:
    return [
        Case("0 and 1", lambda: (torch.tensor([0.0, 1.0]),)),
        Case("from -4 to 4", lambda: (torch.linspace(-4, 4, 33),)),
        Case("far out", lambda: (torch.tensor([-30.0, 30.0]),)),
        Case("a batch", lambda: (_random(2, 3, 5) * 2,)),
    ]


def gelu_exact(x):
    return F.gelu(x)


def gelu_sigmoid(x):
    return x * torch.sigmoid(1.702 * x)


def gelu_cube_of_product(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + (0.044715 * x) ** 3)))


def gelu_square_root_of_the_other(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(math.pi / 2) * (x + 0.044715 * x**3)))


def gelu_without_half(x):
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_square(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


def gelu_root_of_two_only(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2) / math.pi * (x + 0.044715 * x**3)))


def gelu_factor_on_x_only(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x**3))


# --- 5.3 the loss at the start, by hand ---


def first_loss() -> float:
    return math.log(50257)


# --- 5.4 next_token_loss (find the bug) ---


def loss_cases() -> list[Case]:
    def make(B, T, V, seed, mask=None):
        ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))
        return (_random(B, T, V, seed=seed) * 2, ids) if mask is None else (_random(B, T, V, seed=seed) * 2, ids, mask)

    def right_padding(B, T, lengths):
        return torch.arange(T) < torch.tensor(lengths)[:, None]

    return [
        Case("one text of two tokens", lambda: make(1, 2, 3, 0)),
        Case("two texts of five tokens", lambda: make(2, 5, 7, 1)),
        Case("padding on the right", lambda: make(3, 5, 7, 2, right_padding(3, 5, [5, 3, 2]))),
        Case("no padding, but a mask", lambda: make(2, 4, 5, 3, torch.ones(2, 4, dtype=torch.bool))),
        Case("padding on the left", lambda: make(2, 6, 5, 4, right_padding(2, 6, [6, 3]).flip(1))),
        Case("a mask of ones and zeros", lambda: make(2, 6, 5, 5, right_padding(2, 6, [6, 4]).long())),
    ]


def _mean(log_probs, targets, real=None):
    picked = -log_probs.gather(-1, targets[..., None]).squeeze(-1)
    return picked.mean() if real is None else picked[real.bool()].mean()


def loss_without_shift(logits, ids, attention_mask=None):
    targets = ids
    if attention_mask is not None:
        targets = targets.masked_fill(~attention_mask.bool(), -100)
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=-100)


def loss_shifted_the_other_way(logits, ids, attention_mask=None):
    mask = None if attention_mask is None else attention_mask[:, :-1]
    return _mean(logits[:, 1:].log_softmax(-1), ids[:, :-1], mask)


def loss_with_padding(logits, ids, attention_mask=None):
    return next_token_loss(logits, ids)


def loss_mask_not_shifted(logits, ids, attention_mask=None):
    if attention_mask is None:
        return next_token_loss(logits, ids)
    return _mean(logits[:, :-1].log_softmax(-1), ids[:, 1:], attention_mask[:, :-1])


def loss_wraps_around(logits, ids, attention_mask=None):
    return _mean(logits.log_softmax(-1), ids.roll(-1, dims=1), attention_mask)


def loss_summed(logits, ids, attention_mask=None):
    n = ids[:, 1:].numel() if attention_mask is None else attention_mask[:, 1:].sum()
    return next_token_loss(logits, ids, attention_mask) * n


def loss_mean_of_texts(logits, ids, attention_mask=None):
    if attention_mask is None:
        return next_token_loss(logits, ids)
    rows = [next_token_loss(logits[b : b + 1], ids[b : b + 1], attention_mask[b : b + 1]) for b in range(len(ids))]
    return torch.stack(rows).mean()


def loss_divided_by_all(logits, ids, attention_mask=None):
    if attention_mask is None:
        return next_token_loss(logits, ids)
    return next_token_loss(logits, ids, attention_mask) * attention_mask[:, 1:].sum() / ids[:, 1:].numel()


# --- 5.5 count_params ---


def size_cases() -> list[Case]:
    return [
        Case("GPT-2 small", lambda: (GPT2Config(),)),
        Case("no block at all", lambda: (GPT2Config(vocab_size=11, max_len=7, d_model=4, n_layers=0, n_heads=2),)),
        Case("one tiny block", lambda: (GPT2Config(vocab_size=11, max_len=7, d_model=4, n_layers=1, n_heads=2),)),
        Case(
            "another width inside",
            lambda: (GPT2Config(vocab_size=13, max_len=5, d_model=6, n_layers=3, n_heads=2, d_ff=10),),
        ),
        Case("GPT-2 XL", lambda: (GPT2Config(d_model=1600, n_layers=48, n_heads=25),)),
    ]


def _d_ff(config):
    return config.d_ff or 4 * config.d_model


def params_untied(config):
    return count_params(config) + config.vocab_size * config.d_model


def params_without_positions(config):
    return count_params(config) - config.max_len * config.d_model


def params_without_biases(config):
    return count_params(config) - config.n_layers * (4 * config.d_model + _d_ff(config) + config.d_model)


def params_without_final_norm(config):
    return count_params(config) - 2 * config.d_model


def params_without_o_proj(config):
    return count_params(config) - config.n_layers * (config.d_model**2 + config.d_model)


def params_always_four(config):
    C = config.d_model
    return count_params(config) - config.n_layers * (2 * C * _d_ff(config) + _d_ff(config) - 8 * C * C - 4 * C)


def params_norms_have_no_bias(config):
    return count_params(config) - config.n_layers * 2 * config.d_model - config.d_model


def params_one_norm(config):
    return count_params(config) - config.n_layers * 2 * config.d_model


def params_narrow_bias(config):
    return count_params(config) - config.n_layers * (_d_ff(config) - config.d_model)


# --- 5.6 warmup_cosine ---


def schedule_cases() -> list[Case]:
    cases = [
        Case("the first step at the peak", lambda: (2, 10, 1.0, 2, 0.1)),
        Case("the very first step", lambda: (0, 10, 1.0, 4, 0.1)),
        Case("half-way down to 0", lambda: (6, 10, 1.0, 2, 0.0)),
        Case("the end", lambda: (10, 10, 2.0, 2, 0.1)),
        Case("after the end it stays at the floor", lambda: (25, 10, 2.0, 2, 0.1)),
        Case("no warm-up", lambda: (0, 10, 3.0, 0, 0.1)),
        Case("one step after the warm-up, which is the end", lambda: (6, 6, 1.0, 5, 0.25)),
        Case("warm-up and floor left out: 0 and 0.1", lambda: (7, 10, 1.0)),
        Case("the same at the first step", lambda: (0, 10, 1.0)),
    ]
    for step in (1, 3, 17, 40, 77, 99):
        cases.append(Case(f"step {step} of 100", lambda step=step: (step, 100, 6e-4, 20, 0.1)))
    return cases


def schedule_starts_at_zero(step, n_steps, peak, warmup=0, floor=0.1):
    return peak * step / warmup if step < warmup else warmup_cosine(step, n_steps, peak, warmup, floor)


def schedule_peaks_early(step, n_steps, peak, warmup=0, floor=0.1):
    return peak * (step + 1) / warmup if step < warmup else warmup_cosine(step, n_steps, peak, warmup, floor)


def schedule_falls_to_zero(step, n_steps, peak, warmup=0, floor=0.1):
    return warmup_cosine(step, n_steps, peak, warmup, 0.0)


def schedule_ignores_warmup_in_cosine(step, n_steps, peak, warmup=0, floor=0.1):
    if step < warmup:
        return warmup_cosine(step, n_steps, peak, warmup, floor)
    return warmup_cosine(step, n_steps, peak, 0, floor)


def schedule_whole_cosine(step, n_steps, peak, warmup=0, floor=0.1):
    if step < warmup:
        return warmup_cosine(step, n_steps, peak, warmup, floor)
    done = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(2 * math.pi * done)))


def schedule_rises_again(step, n_steps, peak, warmup=0, floor=0.1):
    if step < warmup:
        return warmup_cosine(step, n_steps, peak, warmup, floor)
    done = (step - warmup) / max(1, n_steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def _half_cosine(step, n_steps, warmup):
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, n_steps - warmup))))


def schedule_floor_is_a_rate(step, n_steps, peak, warmup=0, floor=0.1):
    if step < warmup:
        return warmup_cosine(step, n_steps, peak, warmup, floor)
    return floor + (peak - floor) * _half_cosine(step, n_steps, warmup)


def schedule_cut_at_floor(step, n_steps, peak, warmup=0, floor=0.1):
    if step < warmup:
        return warmup_cosine(step, n_steps, peak, warmup, floor)
    return max(floor * peak, peak * _half_cosine(step, n_steps, warmup))


def schedule_quarter_cosine(step, n_steps, peak, warmup=0, floor=0.1):
    if step < warmup:
        return warmup_cosine(step, n_steps, peak, warmup, floor)
    done = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    return peak * (floor + (1 - floor) * math.cos(math.pi / 2 * done))


EXERCISES = [
    Exercise(
        number="5.1",
        name="layer_norm",
        reference="llmkit.layers.norms:layer_norm",
        cases=norm_cases,
        tolerance=2e-6,
        gradients=True,
        hints=(
            "Everything happens along the last axis: x.mean(-1, keepdim=True) keeps it, so that shapes still match.",
            "The variance is the mean of the squared distances from the mean (divide by C, not by C - 1).",
            "Divide by the root of (variance + eps). Multiply by weight and add bias only where they are given.",
        ),
        wrong={
            "the variance was divided by C - 1; LayerNorm divides by C": norm_unbiased,
            "eps was added to the root; it belongs inside, to the variance": norm_eps_outside,
            "divided by the variance; divide by its root": norm_by_variance,
            "mean and variance were taken over the first axis; each vector is normalised by itself, over the "
            "last": norm_first_axis,
            "one mean and one variance for all vectors together; each vector has its own": norm_over_everything,
            "the mean was not subtracted (that would be RMSNorm, lesson 06)": norm_not_centred,
            "weight and bias are not used": norm_without_affine,
            "a weight without a bias is left out; each of the two may be None by itself": norm_both_or_none,
        },
    ),
    Exercise(
        number="5.2",
        name="gelu_tanh",
        reference="llmkit.layers.mlp:gelu_tanh",
        cases=gelu_cases,
        hints=(
            "torch.tanh and math.sqrt are all you need; x**3 is the cube of every number.",
            "Build it from the inside: x + 0.044715 x³, times sqrt(2/π), tanh, plus 1, times x / 2.",
        ),
        wrong={
            "that is the exact GELU; GPT-2 was trained with the tanh approximation, and the difference is "
            "measured below": gelu_exact,
            "that is the sigmoid approximation x · sigmoid(1.702 x), another one": gelu_sigmoid,
            "0.044715 was cubed too; only x is": gelu_cube_of_product,
            "the factor inside tanh is sqrt(2/π), not sqrt(π/2)": gelu_square_root_of_the_other,
            "a factor of one half is missing": gelu_without_half,
            "the root of 2, divided by π; the root is of 2/π": gelu_root_of_two_only,
            "sqrt(2/π) multiplies the whole bracket, the cube too": gelu_factor_on_x_only,
            "x is squared inside; it is the cube, which keeps the sign": gelu_square,
        },
    ),
    Exercise(
        number="5.3",
        name="first_loss",
        reference=first_loss,
        tolerance=5e-3,
        hints=(
            "A model that knows nothing gives each of the V tokens the same probability.",
            "The loss is -log of the probability of the right token, in nats (natural logarithm).",
        ),
        wrong={
            "that is in bits; the loss of this course is in nats (natural logarithm)": lambda: math.log2(50257),
            "a loss is positive: minus the logarithm of a probability below 1": lambda: -math.log(50257),
            "that is the probability of one token; the loss is minus its logarithm": lambda: 1 / 50257,
            "the logarithm to base 10; use the natural one": lambda: math.log10(50257),
        },
    ),
    Exercise(
        number="5.4",
        name="next_token_loss",
        reference="llmkit.training.losses:next_token_loss",
        cases=loss_cases,
        starts_from=loss_without_shift,
        tolerance=2e-6,
        gradients=True,
        hints=(
            "Which token should logits[:, 0] predict? It has seen ids[:, 0] already.",
            "The last logits have nothing to be compared with, and the first token is predicted by nobody.",
            "The mask belongs to the tokens that are predicted, so it is shifted with them.",
        ),
        wrong={
            "position t is compared with token t, which it has seen: the model only learns to copy its input, and "
            "the loss falls to 0": loss_without_shift,
            "shifted the other way: position t is asked for token t - 1, which it has seen": loss_shifted_the_other_way,
            "padding is counted as text": loss_with_padding,
            "the mask was cut at the wrong end: it must say which *targets* are real": loss_mask_not_shifted,
            "rolled round: the last position is asked for the first token of the text": loss_wraps_around,
            "the sum, not the mean over the tokens that count": loss_summed,
            "the mean of the texts' means: a short text then weighs as much as a long one": loss_mean_of_texts,
            "the sum leaves padding out, but it was divided by all places, padding too": loss_divided_by_all,
        },
    ),
    Exercise(
        number="5.5",
        name="count_params",
        reference="llmkit.models.gpt2:count_params",
        cases=size_cases,
        hints=(
            "A Linear from a to b numbers has a * b weights and b biases; a LayerNorm has 2 * C.",
            "One block: four projections of attention, two of the MLP, two norms.",
            "Outside the blocks: two embedding tables and the last norm. The output matrix is the token embedding.",
        ),
        wrong={
            "the output matrix was counted; it is the token embedding itself": params_untied,
            "the table of positions is missing": params_without_positions,
            "the biases of the Linear layers are missing": params_without_biases,
            "the norm after the last block is missing": params_without_final_norm,
            "attention has four projections; the one after the heads is missing": params_without_o_proj,
            "d_ff is only 4 d_model where the config does not say otherwise": params_always_four,
            "a LayerNorm has a weight and a bias": params_norms_have_no_bias,
            "each block has two norms, one before attention and one before the MLP": params_one_norm,
            "the MLP's first Linear has d_ff biases, as many as it has outputs": params_narrow_bias,
        },
    ),
    Exercise(
        number="5.6",
        name="warmup_cosine",
        reference="llmkit.training.schedules:warmup_cosine",
        cases=schedule_cases,
        hints=(
            "Two branches: step < warmup is a straight line; after it, a cosine in the share of the way that is done.",
            "done goes from 0 at step `warmup` to 1 at step n_steps, and no further.",
            "0.5 * (1 + cos(π * done)) goes from 1 to 0; stretch it to go from 1 to `floor`.",
        ),
        wrong={
            "step 0 has a rate of 0, so it is wasted: the line should be 1/(warmup + 1) of the peak there": (
                schedule_starts_at_zero
            ),
            "the peak is reached one step early: it belongs to step `warmup`": schedule_peaks_early,
            "it falls to 0; it should end at floor * peak": schedule_falls_to_zero,
            "the cosine began at step 0, so the rate jumps down at the end of the warm-up": (
                schedule_ignores_warmup_in_cosine
            ),
            "that is a whole cosine, down and up again; half of one goes down": schedule_whole_cosine,
            "after the last step the cosine rises again; stay at the floor": schedule_rises_again,
            "floor is a share of the peak, not a rate": schedule_floor_is_a_rate,
            "a cosine down to 0 that is cut off at the floor; stretch it so that it ends at the floor": (
                schedule_cut_at_floor
            ),
            "a quarter of a cosine, steep at the end; half of one (0 to π) is flat at both ends": schedule_quarter_cosine,
        },
    ),
]
