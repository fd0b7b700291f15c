"""Lesson 06: right answers written differently, and mutants that compute the same."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from llmkit.models.llama import llama


def norm_by_division(x, weight, eps=1e-6):
    wide = x.to(torch.float32)
    rms = torch.sqrt((wide**2).mean(dim=-1, keepdim=True) + eps)
    return weight * (wide / rms).to(x.dtype)


def norm_by_library(x, weight, eps=1e-6):
    return F.rms_norm(x.float(), (x.shape[-1],), None, eps).type_as(x) * weight


def norm_by_length(x, weight, eps=1e-6):
    wide = x.float()
    squares = torch.einsum("...c,...c->...", wide, wide)[..., None]
    return (wide * (squares / x.size(-1) + eps) ** -0.5).to(weight.dtype) * weight


def norm_float64(x, weight, eps=1e-6):
    wide = x.double()
    return (wide / (wide.pow(2).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()).type_as(x) * weight


def swiglu_by_library(gate, up):
    return F.silu(gate) * up


def swiglu_by_exp(gate, up):
    return up * gate / (1 + torch.exp(-gate))


def swiglu_by_module(gate, up):
    return torch.mul(nn.SiLU()(gate), up)


def width_as_llama(d_model, multiple_of=256):
    hidden = int(2 * (4 * d_model) / 3)
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


def width_by_ceil(d_model, multiple_of=256):
    return math.ceil(8 * d_model / 3 / multiple_of) * multiple_of


def width_by_steps(d_model, multiple_of=256):
    width = d_model * 8 // 3
    while width % multiple_of:
        width += 1
    return width


def cache_by_tensors(config, tokens, bytes_per_number=2):
    kv = config.n_heads if config.n_kv_heads is None else config.n_kv_heads
    D = config.d_model // config.n_heads if config.head_dim is None else config.head_dim
    k = torch.empty(config.n_layers, 1, kv, tokens, D, device="meta")
    return (k.numel() + k.numel()) * bytes_per_number


def cache_in_float(config, tokens, bytes_per_number=2):
    per_token = (config.n_kv_heads or config.n_heads) * (config.head_dim or config.d_model / config.n_heads)
    return int(2 * bytes_per_number * config.n_layers * per_token * tokens)


def cache_in_a_loop(config, tokens, bytes_per_number=2):
    total = 0
    for _ in range(config.n_layers):
        for _ in ("k", "v"):
            total += tokens * (config.n_kv_heads or config.n_heads)
    return total * (config.head_dim or config.d_model // config.n_heads) * bytes_per_number


def params_by_building(config):
    with torch.device("meta"):
        return llama(config).n_params()


def params_line_by_line(config):
    c, d = config.d_model, config.head_dim or config.d_model // config.n_heads
    kv = config.n_kv_heads if config.n_kv_heads is not None else config.n_heads
    total = config.vocab_size * c
    if not config.tie:
        total += config.vocab_size * c
    for _ in range(config.n_layers):
        total += c * config.n_heads * d + c * kv * d + c * kv * d + config.n_heads * d * c
        total += c * config.d_ff + c * config.d_ff + config.d_ff * c
        total += c + c
    return total + c


def params_factored(config):
    d = config.head_dim or config.d_model // config.n_heads
    heads = config.n_heads + (config.n_kv_heads or config.n_heads)
    row = config.n_layers * (2 * d * heads + 3 * config.d_ff + 2) + 1 + config.vocab_size * (2 - config.tie)
    return config.d_model * row


def z_by_log_softmax(logits):
    log_z = (logits.float() - logits.float().log_softmax(-1))[..., 0]
    return (log_z**2).mean()


def z_by_hand(logits):
    wide = logits.to(torch.float32)
    top = wide.max(dim=-1, keepdim=True).values
    log_z = top.squeeze(-1) + (wide - top).exp().sum(-1).log()
    return log_z.pow(2).sum() / log_z.numel()


def z_in_a_loop(logits):
    rows = logits.float().reshape(-1, logits.shape[-1])
    return torch.stack([torch.logsumexp(row, dim=0) ** 2 for row in rows]).mean()


RIGHT = {
    "rms_norm": [norm_by_division, norm_by_library, norm_by_length, norm_float64],
    "swiglu": [swiglu_by_library, swiglu_by_exp, swiglu_by_module],
    "gated_width": [width_as_llama, width_by_ceil, width_by_steps],
    "kv_cache_bytes": [cache_by_tensors, cache_in_float, cache_in_a_loop],
    "count_params": [params_by_building, params_line_by_line, params_factored],
    "z_loss": [z_by_log_softmax, z_by_hand, z_in_a_loop],
}
EQUIVALENT = {}
