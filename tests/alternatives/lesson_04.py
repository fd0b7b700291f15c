"""Lesson 04: right answers written differently, and mutants that compute the same."""

import math

import torch
from torch.nn import functional as F

from llmkit.layers.masks import CAUSAL


def _as_bias(mask, T, S):
    if mask is CAUSAL:
        mask = torch.arange(S)[None, :] <= torch.arange(T)[:, None] + S - T
    if mask is None:
        return torch.zeros(T, S)
    return torch.zeros(mask.shape).masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else mask


def weights_by_einsum(q, k, mask=None, scale=None):
    T, S, D = q.shape[-2], k.shape[-2], q.shape[-1]
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) * (1 / math.sqrt(D) if scale is None else scale)
    scores = scores.float() + _as_bias(mask, T, S)
    seen = torch.isfinite(scores)
    some = seen.any(dim=-1, keepdim=True)
    return (torch.softmax(torch.where(some, scores, 1.0), dim=-1) * seen).to(q.dtype)


def weights_by_exponentials(q, k, mask=None, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (torch.matmul(q, k.mT) * scale).float() + _as_bias(mask, q.shape[-2], k.shape[-2])
    highest = scores.amax(dim=-1, keepdim=True).detach()
    powers = torch.exp(scores - torch.where(highest.isinf(), torch.zeros_like(highest), highest))
    return (powers / powers.sum(-1, keepdim=True).clamp_min(1e-30)).type(q.dtype)


def weights_head_by_head(q, k, mask=None, scale=None):
    bias = _as_bias(mask, q.shape[-2], k.shape[-2]).expand(*q.shape[:-1], k.shape[-2])
    rows = []
    for b in range(q.shape[0]):
        heads = []
        for h in range(q.shape[1]):
            scores = q[b, h] @ k[b, h].T
            scores = scores / math.sqrt(q.shape[-1]) if scale is None else scores * scale
            scores = scores.to(torch.float32) + bias[b, h]
            empty = torch.isinf(scores).all(dim=1, keepdim=True)
            heads.append(torch.where(empty, 0.0, F.softmax(torch.where(empty, 0.0, scores), dim=1)))
        rows.append(torch.stack(heads))
    return torch.stack(rows).to(q.dtype)


def weights_in_float32_throughout(q, k, mask=None, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q.float() @ k.float().mT * scale + _as_bias(mask, q.shape[-2], k.shape[-2])
    empty = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0).type_as(q)


def weights_scaled_in_float32(q, k, mask=None, scale=None):
    scores = (q @ k.mT).float() * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores + _as_bias(mask, q.shape[-2], k.shape[-2])
    empty = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0).to(q.dtype)


def mask_by_comparison(q_len, kv_len, device=None):
    return torch.arange(kv_len, device=device) <= torch.arange(q_len, device=device).unsqueeze(1) + (kv_len - q_len)


def mask_by_last_rows(q_len, kv_len, device=None):
    return torch.tril(torch.ones(kv_len, kv_len, dtype=torch.bool, device=device))[kv_len - q_len :]


def mask_in_python(q_len, kv_len, device=None):
    rows = [[s <= kv_len - q_len + t for s in range(kv_len)] for t in range(q_len)]
    return torch.tensor(rows, device=device)


def heads_by_view(x, n_heads):
    B, T, C = x.shape
    return x.view(B, T, n_heads, C // n_heads).permute(0, 2, 1, 3)


def heads_by_chunks(x, n_heads):
    return torch.stack(x.chunk(n_heads, dim=-1), dim=1)


def heads_by_slices(x, n_heads):
    D = x.shape[-1] // n_heads
    return torch.stack([x[:, :, h * D : (h + 1) * D] for h in range(n_heads)], 1)


def repeat_by_expand(x, n_heads):
    B, KV, S, D = x.shape
    return x[:, :, None].expand(B, KV, n_heads // KV, S, D).reshape(B, n_heads, S, D)


def repeat_by_index(x, n_heads):
    return x[:, torch.arange(n_heads) // (n_heads // x.shape[1])]


def repeat_by_list(x, n_heads):
    times = n_heads // x.shape[1]
    return torch.cat([x[:, kv : kv + 1] for kv in range(x.shape[1]) for _ in range(times)], dim=1)


def _blocks(q, k, v, block, causal):
    S, T = k.shape[2], q.shape[2]
    for keys, values, places in zip(k.split(block, 2), v.split(block, 2), torch.arange(S).split(block), strict=True):
        scores = torch.matmul(q, keys.mT) / math.sqrt(q.shape[-1])
        if causal:
            scores = scores + torch.where(places <= torch.arange(T)[:, None] + S - T, 0.0, float("-inf"))
        yield scores, values


def blockwise_with_logsumexp(q, k, v, block=64, causal=False):
    out, lse = torch.zeros(*q.shape[:-1], v.shape[-1]), torch.full((*q.shape[:-1], 1), float("-inf"))
    for scores, values in _blocks(q, k, v, block, causal):
        mine = scores.logsumexp(-1, keepdim=True)
        both = torch.logaddexp(lse, mine)
        share = torch.exp(mine - both).nan_to_num(0.0)
        out = out * (1 - share) + share * (scores.softmax(-1).nan_to_num(0.0) @ values)
        lse = both
    return out


def blockwise_in_two_walks(q, k, v, block=64, causal=False):
    highest = torch.stack([scores.amax(-1) for scores, _ in _blocks(q, k, v, block, causal)]).amax(0)[..., None]
    total = mixed = 0.0
    for scores, values in _blocks(q, k, v, block, causal):
        weights = (scores - highest).exp()
        total, mixed = total + weights.sum(-1, keepdim=True), mixed + weights @ values
    return mixed / total


def blockwise_in_double(q, k, v, block=64, causal=False):
    m = torch.full(q.shape[:-1], -1e300, dtype=torch.float64)
    s, y = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    for scores, values in _blocks(q, k, v, block, causal):
        new = torch.maximum(m, scores.double().amax(-1))
        w = (scores.double() - new[..., None]).exp()
        s, y = s * (m - new).exp() + w.sum(-1), y * (m - new).exp()[..., None] + w @ values.double()
        m = new
    return (y / s[..., None]).to(q.dtype)


RIGHT = {
    "attention_weights": [
        weights_by_einsum,
        weights_by_exponentials,
        weights_head_by_head,
        weights_in_float32_throughout,
        weights_scaled_in_float32,
    ],
    "causal_mask": [mask_by_comparison, mask_by_last_rows, mask_in_python],
    "split_heads": [heads_by_view, heads_by_chunks, heads_by_slices],
    "repeat_kv": [repeat_by_expand, repeat_by_index, repeat_by_list],
    "blockwise_attention": [blockwise_with_logsumexp, blockwise_in_two_walks, blockwise_in_double],
}

FOUR_AXES = "with four axes 2 and -2 are the same one"
NO_DEVICE = "all is on the CPU"
SWAPPED = "the same two axes"
EQUIVALENT = {
    "attention_weights": {
        "k.transpose(-2, -1)  ->  arguments 0 and 1 swapped": SWAPPED,
        "-2  ->  without USub": FOUR_AXES,
        "-2  ->  without USub (#2)": FOUR_AXES,
        "-2  ->  without USub (#3)": FOUR_AXES,
        "0.0  ->  1.0": "any finite score will do for a row whose weights become 0",
        "0.0  ->  0.1": "any finite score will do for a row whose weights become 0",
    },
    "causal_mask": {
        "torch.ones(q_len, kv_len, dtype=torch.bool, device=device)  ->  without device": NO_DEVICE,
        "result in another precision": "booleans have none",
    },
    "split_heads": {"x.unflatten(-1, (n_heads, -1)).transpose(1, 2)  ->  arguments 0 and 1 swapped": SWAPPED},
    "blockwise_attention": {
        "64  ->  65": "the result does not depend on the block",
        "64  ->  63": "the result does not depend on the block",
        "torch.arange(S - T, S, device=q.device)  ->  without device": NO_DEVICE,
        "torch.arange(start, end, device=q.device)  ->  without device": NO_DEVICE,
        "min(start + block, S)  ->  arguments 0 and 1 swapped": "the smaller of two is the smaller of two",
        "torch.maximum(largest, scores.amax(-1, keepdim=True))  ->  arguments 0 and 1 swapped": "so is the larger",
        "k[..., start:end, :].transpose(-2, -1)  ->  arguments 0 and 1 swapped": SWAPPED,
        "-2  ->  without USub": FOUR_AXES,
        "-2  ->  without USub (#2)": FOUR_AXES,
        "-2  ->  without USub (#3)": FOUR_AXES,
    },
}
