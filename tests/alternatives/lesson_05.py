"""Lesson 05: right answers written differently, and mutants that compute the same."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def norm_by_library(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def norm_by_var(x, weight, bias, eps=1e-5):
    mean, var = x.mean(dim=-1, keepdim=True), x.var(dim=-1, unbiased=False, keepdim=True)
    out = (x - mean) / torch.sqrt(var + eps)
    if weight is not None:
        out = weight * out
    if bias is not None:
        out = out + bias
    return out


def norm_by_moments(x, weight, bias, eps=1e-5):
    c = x.size(-1)
    mean = x.sum(-1).unsqueeze(-1) / c
    d = x - mean
    out = d / ((d * d).sum(-1, keepdim=True) / c + eps) ** 0.5
    return out * (1 if weight is None else weight) + (0 if bias is None else bias)


def gelu_by_library(x):
    return F.gelu(x, approximate="tanh")


def gelu_multiplied_out(x):
    inner = 0.7978845608028654 * x * (1 + 0.044715 * x * x)
    return x / 2 + x / 2 * torch.tanh(inner)


def gelu_by_sigmoid(x):
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))


def loss_by_library(logits, ids, attention_mask=None):
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    if attention_mask is None:
        return losses.mean()
    weights = attention_mask[:, 1:].float()
    return (losses * weights).sum() / weights.sum()


def loss_by_module(logits, ids, attention_mask=None):
    targets = ids[:, 1:].clone()
    if attention_mask is not None:
        targets[attention_mask[:, 1:] == 0] = -100
    return nn.CrossEntropyLoss()(logits[:, :-1].reshape(-1, logits.size(-1)), targets.reshape(-1))


def loss_in_a_loop(logits, ids, attention_mask=None):
    terms = []
    for b in range(ids.shape[0]):
        for t in range(1, ids.shape[1]):
            if attention_mask is None or attention_mask[b, t]:
                terms.append(-torch.log_softmax(logits[b, t - 1], dim=0)[ids[b, t]])
    return sum(terms) / len(terms)


def params_by_building(config):
    from llmkit.models.gpt2 import gpt2

    with torch.device("meta"):
        return sum(p.numel() for p in gpt2(config).parameters())


def params_line_by_line(config):
    c, f = config.d_model, config.d_ff
    if f is None:
        f = 4 * c
    total = config.vocab_size * c
    total += config.max_len * c
    for _ in range(config.n_layers):
        total += 4 * c * c + 4 * c  # attention
        total += 2 * c * f + f + c  # mlp
        total += 4 * c  # norms
    return total + c + c


def params_factored(config):
    c = config.d_model
    f = config.d_ff or 4 * c
    return c * (config.vocab_size + config.max_len + 2) + config.n_layers * (c * (4 * c + 2 * f + 9) + f)


def schedule_with_else(step, n_steps, peak, warmup=0, floor=0.1):
    if step >= n_steps and step >= warmup:
        return peak * floor
    if step < warmup:
        return (step + 1) * peak / (1 + warmup)
    angle = math.pi * (step - warmup) / (n_steps - warmup)
    return floor * peak + (peak - floor * peak) * (1 + math.cos(angle)) / 2


def schedule_by_square(step, n_steps, peak, warmup=0, floor=0.1):
    if step < warmup:
        return peak / (warmup + 1) * (step + 1)
    share = 1.0 if step >= n_steps else (step - warmup) / (n_steps - warmup)
    return peak * (floor + (1 - floor) * math.cos(math.pi / 2 * share) ** 2)


def schedule_by_interpolation(step, n_steps, peak, warmup=0, floor=0.1):
    low = peak * floor
    if step < warmup:
        return float(torch.linspace(0, peak, warmup + 2, dtype=torch.float64)[step + 1])
    share = min(max((step - warmup) / max(n_steps - warmup, 1), 0), 1)
    return low + (peak - low) * (0.5 + 0.5 * math.cos(share * math.pi))


RIGHT = {
    "layer_norm": [norm_by_library, norm_by_var, norm_by_moments],
    "gelu_tanh": [gelu_by_library, gelu_multiplied_out, gelu_by_sigmoid],
    "next_token_loss": [loss_by_library, loss_by_module, loss_in_a_loop],
    "count_params": [params_by_building, params_line_by_line, params_factored],
    "warmup_cosine": [schedule_with_else, schedule_by_square, schedule_by_interpolation],
}
EQUIVALENT = {
    "warmup_cosine": {
        "step < warmup  ->  LtE": "at step `warmup` the line and the cosine both give the peak",
        "min(1.0, (step - warmup) / max(1, n_steps - warmup))  ->  arguments 0 and 1 swapped": "min does not care",
        "max(1, n_steps - warmup)  ->  arguments 0 and 1 swapped": "max does not care",
    }
}
