"""Lesson 15: right answers written differently, and mutants that compute the same."""

import torch


def forward_by_products(x, weight, A, B, scale, bias=None):
    y = x @ weight.T + scale * (x @ A.T @ B.T)
    return y if bias is None else y + bias


def forward_by_merging(x, weight, A, B, scale, bias=None):
    return torch.nn.functional.linear(x, weight + scale * B @ A, bias)


def forward_by_einsum(x, weight, A, B, scale, bias=None):
    hidden = torch.einsum("...i,ri->...r", x * scale, A)
    out = torch.einsum("...i,oi->...o", x, weight) + torch.einsum("...r,or->...o", hidden, B)
    return out if bias is None else out + bias


def merge_in_float64(weight, A, B, scale, magnitude=None):
    merged = weight.double() + B.double() @ (A.double() * scale)
    if magnitude is not None:
        merged = torch.nn.functional.normalize(merged, dim=1) * magnitude.double().unsqueeze(1)
    return merged.type_as(weight)


def merge_row_by_row(weight, A, B, scale, magnitude=None):
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    rows = []
    for i in range(len(weight)):
        row = weight[i].to(wide) + scale * (B[i].to(wide) @ A.to(wide))
        if magnitude is not None:
            row = row / row.square().sum().sqrt() * magnitude[i]
        rows.append(row)
    return torch.stack(rows).to(weight.dtype)


def merge_by_addmm(weight, A, B, scale, magnitude=None):
    wide = torch.promote_types(weight.dtype, torch.float32)
    merged = torch.addmm(weight.to(wide), B.to(wide), A.to(wide), alpha=scale)
    if magnitude is not None:
        merged = merged * (magnitude / torch.linalg.vector_norm(merged, dim=-1)).unsqueeze(-1)
    return merged.to(weight.dtype)


def energy_by_eigenvalues(change):
    if change.ndim != 2:
        raise ValueError("matrix")
    x = change.double()
    gram = x @ x.T if x.size(0) <= x.size(1) else x.T @ x
    values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
    return [0.0] * len(values) if values.sum() == 0 else (values.cumsum(0) / values.sum()).tolist()


def energy_in_a_loop(change):
    if change.dim() != 2:
        raise ValueError("matrix")
    sizes = torch.linalg.svdvals(change.double()).tolist()
    total, so_far, shares = sum(s * s for s in sizes), 0.0, []
    for s in sizes:
        so_far += s * s
        shares.append(so_far / total if total else 0.0)
    return shares


def energy_by_svd(change):
    if len(change.shape) != 2:
        raise ValueError("matrix")
    _, s, _ = torch.linalg.svd(change.double(), full_matrices=False)
    squares = s**2
    if not squares.any():
        return squares.tolist()
    return torch.cumsum(squares / squares.sum(), 0).tolist()


def _check(weight, block_size):
    if block_size < 1:
        raise ValueError("block_size")
    if not torch.isfinite(weight).all():
        raise ValueError("finite")


def blocks_in_loops(weight, code, block_size=64):
    _check(weight, block_size)
    flat, entries = weight.float().flatten().tolist(), code.tolist()
    numbers, scales = [], []
    for start in range(0, len(flat), block_size):
        block = flat[start : start + block_size]
        scale = max(abs(x) for x in block)
        scales.append(scale)
        for x in block:
            unit = x / scale if scale else 0.0
            numbers.append(min(range(len(entries)), key=lambda k: (abs(entries[k] - unit), k)))
    return torch.tensor(numbers, dtype=torch.uint8), torch.tensor(scales)


def blocks_by_distance(weight, code, block_size=64):
    _check(weight, block_size)
    flat = weight.reshape(-1).float()
    scales = torch.stack([part.abs().max() for part in flat.split(block_size)])
    safe = torch.where(scales == 0, torch.ones_like(scales), scales)
    unit = flat / safe.repeat_interleave(block_size)[: len(flat)]
    return (unit[:, None] - code[None]).abs().argmin(1).to(torch.uint8), scales


def blocks_by_searchsorted(weight, code, block_size=64):
    _check(weight, block_size)
    flat = weight.flatten().float()
    n = -(-len(flat) // block_size)
    blocks = torch.zeros(n * block_size)
    blocks[: len(flat)] = flat
    blocks = blocks.view(n, block_size)
    scales = blocks.abs().max(dim=1).values
    unit = torch.nan_to_num(blocks / scales[:, None])
    numbers = torch.searchsorted((code[:-1] + code[1:]) * 0.5, unit.flatten()[: len(flat)].contiguous())
    return numbers.byte(), scales


RIGHT = {
    "lora_forward": [forward_by_products, forward_by_merging, forward_by_einsum],
    "merged_weight": [merge_in_float64, merge_row_by_row, merge_by_addmm],
    "energy": [energy_by_eigenvalues, energy_in_a_loop, energy_by_svd],
    "quantize_blocks": [blocks_in_loops, blocks_by_distance, blocks_by_searchsorted],
}
EQUIVALENT = {
    "merged_weight": {
        "torch.promote_types(weight.dtype, torch.float32)  ->  arguments 0 and 1 swapped": "the wider of the two",
    },
    "energy": {"0  ->  -1 (#2)": "singular values have one axis"},
    "quantize_blocks": {
        "1.0  ->  2.0": "it divides a block of zeros, which stay zeros",
        "1.0  ->  1.6": "it divides a block of zeros, which stay zeros",
    },
}
