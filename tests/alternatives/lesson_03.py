"""Lesson 03: right answers written differently, and mutants that compute the same."""

import math

import numpy as np
import torch


def sinusoidal_by_slices(positions, d_model, base=10000.0):
    if d_model % 2 == 1:
        raise ValueError("odd")
    result = torch.zeros(*positions.shape, d_model)
    for i in range(d_model // 2):
        angle = positions.float() / base ** (2 * i / d_model)
        result[..., 2 * i], result[..., 2 * i + 1] = torch.sin(angle), torch.cos(angle)
    return result


def sinusoidal_by_exponential(positions, d_model, base=10000.0):
    if d_model % 2 != 0:
        raise ValueError("odd")
    frequencies = torch.exp(-math.log(base) * torch.arange(d_model // 2).float() * 2 / d_model)
    angles = torch.einsum("...,c->...c", positions.float(), frequencies).unsqueeze(-1)
    return torch.cat([angles.sin(), angles.cos()], -1).reshape(*positions.shape, d_model)


def sinusoidal_numpy(positions, d_model, base=10000.0):
    if d_model % 2:
        raise ValueError("odd")
    i = np.arange(d_model)
    angles = positions.numpy()[..., None] / base ** ((i - i % 2) / d_model)
    return torch.from_numpy(np.where(i % 2 == 0, np.sin(angles), np.cos(angles))).float()


def sinusoidal_shifted_sine(positions, d_model, base=10000.0):
    if d_model % 2:
        raise ValueError("odd")
    i = torch.arange(d_model)
    angles = positions.unsqueeze(-1).double() / base ** ((i // 2 * 2).double() / d_model)
    return torch.sin(angles + (i % 2) * math.pi / 2).float()


def rotate_half(x, cos, sin):
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    turned = torch.cat((-x2, x1), dim=-1)
    return x * torch.cat([cos, cos], -1) + turned * torch.cat([sin, sin], -1)


def rotate_complex(x, cos, sin):
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half], x[..., half:]) * torch.complex(cos, sin)
    return torch.cat([z.real, z.imag], -1)


def rotate_by_matrix(x, cos, sin):
    pairs = x.unflatten(-1, (2, -1))
    matrix = torch.stack([torch.stack([cos, -sin], -2), torch.stack([sin, cos], -2)], -3)
    return (matrix * pairs.unsqueeze(-3)).sum(-2).flatten(-2)


def bucket_like_t5(distance, bidirectional=True, n_buckets=32, max_distance=128):
    buckets = 0
    if bidirectional:
        n_buckets = n_buckets // 2
        buckets = buckets + (distance > 0).to(torch.long) * n_buckets
        n = torch.abs(distance)
    else:
        n = -torch.min(distance, torch.zeros_like(distance))
    exact = n_buckets // 2
    large = exact + (torch.log(n.float() / exact) / math.log(max_distance / exact) * (n_buckets - exact)).to(torch.long)
    large = torch.min(large, torch.full_like(large, n_buckets - 1))
    return buckets + torch.where(n < exact, n, large)


def bucket_one_by_one(distance, bidirectional=True, n_buckets=32, max_distance=128):
    def one(d):
        n = n_buckets // 2 if bidirectional else n_buckets
        offset = n if bidirectional and d > 0 else 0
        d = abs(d) if bidirectional else max(-d, 0)
        exact = n // 2
        if d < exact:
            return offset + d
        return offset + min(n - 1, exact + int((n - exact) * math.log(d / exact, max_distance / exact)))

    return torch.tensor([one(d) for d in distance.flatten().tolist()]).view(distance.shape)


def bucket_numpy(distance, bidirectional=True, n_buckets=32, max_distance=128):
    d = distance.numpy()
    n = n_buckets // (1 + bidirectional)
    offset = np.where(d > 0, n, 0) if bidirectional else 0
    d = np.abs(d) if bidirectional else np.maximum(-d, 0)
    exact = n // 2
    far = exact + np.floor(np.log(np.maximum(d, exact) / exact) / np.log(max_distance / exact) * (n - exact))
    return torch.from_numpy((offset + np.where(d < exact, d, np.minimum(far, n - 1))).astype(np.int64))


def llama3_by_cases(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    result = []
    for f in frequencies.tolist():
        wavelength = 2 * math.pi / f
        if wavelength < original_max_position_embeddings / high_freq_factor:
            result.append(f)
        elif wavelength > original_max_position_embeddings / low_freq_factor:
            result.append(f / factor)
        else:
            smooth = (original_max_position_embeddings / wavelength - low_freq_factor) / (
                high_freq_factor - low_freq_factor
            )
            result.append((1 - smooth) * f / factor + smooth * f)
    return torch.tensor(result)


def llama3_by_where(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = original_max_position_embeddings / (2 * math.pi / frequencies)
    smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
    between = torch.lerp(frequencies / factor, frequencies, smooth)
    slow = torch.where(turns <= low_freq_factor, frequencies / factor, between)
    return torch.where(turns >= high_freq_factor, frequencies, slow)


def llama3_in_numpy(frequencies, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    f = frequencies.double().numpy()
    turns = f * original_max_position_embeddings / (2 * np.pi)
    keep = np.interp(turns, [low_freq_factor, high_freq_factor], [0.0, 1.0])
    return torch.from_numpy(f * (1 / factor + keep * (1 - 1 / factor))).float()


def halves_by_slices(weight, n_heads):
    head_dim = len(weight) // n_heads
    heads = [weight[h * head_dim : (h + 1) * head_dim] for h in range(n_heads)]
    return torch.cat([torch.cat([head[::2], head[1::2]]) for head in heads])


def halves_like_transformers(weight, n_heads):
    head_dim = weight.shape[0] // n_heads
    shaped = weight.reshape(n_heads, head_dim // 2, 2, -1)
    return shaped.transpose(1, 2).reshape(weight.shape)


def halves_by_index(weight, n_heads):
    head_dim = weight.size(0) // n_heads
    order = [h * head_dim + i for h in range(n_heads) for i in [*range(0, head_dim, 2), *range(1, head_dim, 2)]]
    return weight[order]


RIGHT = {
    "sinusoidal": [sinusoidal_by_slices, sinusoidal_by_exponential, sinusoidal_numpy, sinusoidal_shifted_sine],
    "rotate": [rotate_half, rotate_complex, rotate_by_matrix],
    "relative_bucket": [bucket_like_t5, bucket_one_by_one, bucket_numpy],
    "llama3_scaling": [llama3_by_cases, llama3_by_where, llama3_in_numpy],
    "pairs_to_halves": [halves_by_slices, halves_like_transformers, halves_by_index],
}

EQUIVALENT = {
    "sinusoidal": {"torch.arange(0, d_model, 2, device=positions.device)  ->  without device": "all is on the CPU"},
    "relative_bucket": {
        "distance < exact  ->  LtE": "the first logarithmic bucket is number `exact` too",
        "1  ->  2 (#2)": "the clamp only keeps the logarithm of 0 out; small distances take the other branch",
        "1  ->  0 (#2)": "the same: what the logarithm of 0 gives is not used",
    },
    "pairs_to_halves": {
        "weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2)  ->  arguments 0 and 1 swapped": "the same two axes",
    },
}
