"""Lesson 20: right answers written differently, and mutants that compute the same."""

import re
from collections import defaultdict

import numpy as np
import torch
from torch.nn import functional as F

from llmkit.checkpoints.gguf_from_hf import gguf_name
from llmkit.checkpoints.tables import WeightsError

LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "block_sparse_moe.gate": "ffn_gate_inp",
}  # fmt: skip
EXPERT = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}


def name_by_parts(name):
    if not name.endswith((".weight", ".bias")):
        raise WeightsError(name)
    match name.split("."):  # a number that is none leads to the error below
        case ["model", "embed_tokens", ending]:
            return f"token_embd.{ending}"
        case ["model", "norm", ending]:
            return f"output_norm.{ending}"
        case ["lm_head", ending]:
            return f"output.{ending}"
        case ["model", "layers", n, "block_sparse_moe", "experts", _, w, ending] if n.isdigit() and w in EXPERT:
            return f"blk.{n}.{EXPERT[w]}.{ending}"
        case ["model", "layers", n, *part, ending] if n.isdigit() and ".".join(part) in LAYER:
            return f"blk.{n}.{LAYER['.'.join(part)]}.{ending}"
    raise WeightsError(name)


def name_by_patterns(name):
    patterns = {r"model\.embed_tokens": "token_embd", r"model\.norm": "output_norm", "lm_head": "output"}
    patterns |= {rf"model\.layers\.(\d+)\.{re.escape(theirs)}": rf"blk.\1.{to}" for theirs, to in LAYER.items()}
    moe = r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.\d+\."
    patterns |= {moe + w: rf"blk.\1.{to}" for w, to in EXPERT.items()}
    for pattern, to in patterns.items():
        if found := re.fullmatch(pattern + r"\.(weight|bias)", name):
            return found.expand(to) + "." + found[found.re.groups]
    raise WeightsError(f"unknown: {name}")


def name_by_replacing(name):
    short = re.sub(r"experts\.\d+\.(w\d)", lambda m: EXPERT.get(m[1], "?"), name)
    short = short.replace("block_sparse_moe.ffn", "ffn")
    stem, ending = short[: short.rindex(".")], short[short.rindex(".") :]
    if ending not in {".weight", ".bias"}:
        raise WeightsError(name)
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if stem in outside:
        return outside[stem] + ending
    if not re.match(r"model\.layers\.\d+\.", stem):
        raise WeightsError(name)
    _, _, number, part = stem.split(".", 3)
    if part not in LAYER and part not in EXPERT.values():
        raise WeightsError(name)
    return f"blk.{number}.{LAYER.get(part, part)}{ending}"


def pairs_like_llama_cpp(weights, n_head):
    return (
        weights.reshape(n_head, 2, weights.shape[0] // n_head // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def pairs_by_index(weight, n_heads):
    D = len(weight) // n_heads
    order = [h * D + half * (D // 2) + i for h in range(n_heads) for i in range(D // 2) for half in (0, 1)]
    return weight[order]


def pairs_by_slices(weight, n_heads):
    out = torch.empty_like(weight)
    for heads, new in zip(weight.chunk(n_heads), out.chunk(n_heads), strict=True):
        new[0::2], new[1::2] = heads.chunk(2)
    return out


def stack_into_lists(tensors, n_experts):
    found = defaultdict(lambda: [None] * n_experts)
    for name, tensor in tensors.items():
        if ".experts." not in name:
            continue
        e = int(name.split(".experts.")[1].split(".")[0])
        if e >= n_experts:
            raise ValueError("too many")
        found[gguf_name(name)][e] = tensor
    if any(one is None for experts in found.values() for one in experts):
        raise ValueError("missing")
    return {name: torch.stack(experts) for name, experts in found.items()}


def stack_by_sorting(tensors, n_experts):
    def number(name):
        return int(re.search(r"experts\.(\d+)\.", name)[1])

    names = sorted((name for name in tensors if ".experts." in name), key=number)
    found, numbers = {}, defaultdict(list)
    for name in names:
        found.setdefault(gguf_name(name), []).append(tensors[name])
        numbers[gguf_name(name)].append(number(name))
    for listed in numbers.values():
        if listed != [*range(n_experts)]:
            raise ValueError(listed)
    return {name: torch.cat([one[None] for one in experts]) for name, experts in found.items()}


def stack_into_one_tensor(tensors, n_experts):
    found, seen = {}, set()
    for name, tensor in tensors.items():
        if match := re.search(r"\.experts\.(\d+)\.", name):
            e, key = int(match[1]), gguf_name(name)
            if not 0 <= e < n_experts:
                raise ValueError(e)
            found.setdefault(key, torch.zeros(n_experts, *tensor.shape, dtype=tensor.dtype))[e] = tensor
            seen.add((key, e))
    if len(seen) != n_experts * len(found):
        raise ValueError("some are missing")
    return found


def q4_in_numpy(values):
    x = values.numpy()
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    where = np.abs(blocks).argmax(-1)[..., None]
    d = np.take_along_axis(blocks, where, -1) / np.float32(-8)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        half = d.astype(np.float16)
    if np.isinf(half).any():
        raise ValueError("too large")
    q = np.trunc(blocks * inverse + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    packed = q[..., :16] + 16 * q[..., 16:]
    data = np.concatenate([half.view(np.uint8), packed], -1)
    return torch.from_numpy(data.reshape(*x.shape[:-1], -1))


def q4_block_by_block(values):
    rows = []
    for row in values.reshape(-1, values.shape[-1]):
        data = []
        for block in row.split(32):
            d = block[block.abs().argmax()] / -8
            scale = d.half()
            if scale.isinf():
                raise ValueError("a scale is too large")
            inverse = 1 / d if d != 0 else torch.tensor(0.0)
            q = [min(15, int(x * inverse + 8.5)) for x in block]
            data += scale[None].view(torch.uint8).tolist() + [q[i] | q[i + 16] << 4 for i in range(16)]
        rows.append(data)
    return torch.tensor(rows, dtype=torch.uint8).reshape(*values.shape[:-1], -1)


def q4_by_floor(values):
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    at = torch.take_along_dim(blocks, blocks.abs().max(-1, keepdim=True).indices, -1)
    assert ((at == low) | (at == high)).all()
    d = -at / 8
    if d.half().isinf().any():
        raise ValueError("float16 ends at 65504")
    q = torch.where(d == 0, 8.0, torch.floor(blocks * (1 / d) + 8.5).clamp(max=15)).byte()
    packed = q[..., :16] + (q[..., 16:] * 16)
    return torch.cat([d.half().view(torch.uint8), packed], -1).reshape(*values.shape[:-1], -1)


def _prepared(weight, hessian, bits, damp):
    n = weight.shape[1]
    if weight.ndim != 2 or n % 32 or not 2 <= bits <= 8 or tuple(hessian.shape) != (n, n):
        raise ValueError("shapes")
    H = hessian.double().clone()
    H.diagonal().add_(damp * H.diagonal().mean())
    try:
        L = torch.linalg.cholesky(H)
    except RuntimeError:
        raise ValueError("singular") from None
    return torch.cholesky_inverse(L)


def gptq_in_lazy_blocks(weight, hessian, bits=4, damp=0.01):
    """As IST-DASLab/gptq does it: inside a block at once, the rest of the matrix when the block is done."""
    U = torch.linalg.cholesky(_prepared(weight, hessian, bits, damp), upper=True).float()
    W, out, half = weight.float().clone(), torch.zeros_like(weight), 2 ** (bits - 1)
    for start in range(0, W.shape[1], 32):
        block, errors = W[:, start : start + 32].clone(), torch.zeros(len(W), 32)
        where = block.abs().argmax(1)
        scale = block[torch.arange(len(W)), where] / -half
        inverse = torch.where(scale == 0, 0.0, 1 / scale)
        for j in range(32):
            q = torch.floor(block[:, j] * inverse + half + 0.5).clamp(0, 2 * half - 1) - half
            q[where == j] = -half
            out[:, start + j] = q * scale.half().float()
            errors[:, j] = (block[:, j] - out[:, start + j]) / U[start + j, start + j]
            block[:, j + 1 :] -= errors[:, j : j + 1] @ U[start + j, start + j + 1 : start + 32][None]
        W[:, start + 32 :] -= errors @ U[start : start + 32, start + 32 :]
    return out


def gptq_row_by_row(weight, hessian, bits=4, damp=0.01):
    U = torch.linalg.cholesky(_prepared(weight, hessian, bits, damp)).T.float()
    half, out = 2 ** (bits - 1), []
    for row in weight.float():
        w, new = row.clone(), torch.zeros_like(row)
        for j in range(len(w)):
            if j % 32 == 0:
                block = w[j : j + 32]
                pinned = j + int(block.abs().argmax())
                scale = w[pinned] / -half
            if j == pinned:
                q = -half
            else:
                q = float((w[j] * (1 / scale if scale else 0) + half + 0.5).trunc().clamp(0, 2 * half - 1)) - half
            new[j] = q * scale.half().float()
            w[j + 1 :] -= (w[j] - new[j]) / U[j, j] * U[j, j + 1 :]
        out.append(new)
    return torch.stack(out)


def gptq_by_elimination(weight, hessian, bits=4, damp=0.01):
    """As OBQ has it: the inverse itself, one row and column of which are eliminated after each step."""
    inverse = _prepared(weight, hessian, bits, damp)
    W, out, half = weight.double(), torch.zeros_like(weight), 2 ** (bits - 1)
    for j in range(W.shape[1]):
        if j % 32 == 0:
            block = W[:, j : j + 32].float()
            where = block.abs().argmax(1)
            scale = block[torch.arange(len(W)), where] / -half
            over = torch.where(scale == 0, 0.0, 1 / scale)
        q = torch.trunc(W[:, j].float() * over + half + 0.5).clamp(0, 2 * half - 1) - half
        q = torch.where(where == j % 32, -float(half), q)
        out[:, j] = q * scale.half().float()
        row = inverse[j] / inverse[j, j]
        W = W - (W[:, j] - out[:, j].double())[:, None] * row
        inverse = inverse - inverse[:, j : j + 1] * row
    return out


def continuation_by_cross_entropy(logits, ids, start):
    if start < 1 or start > len(ids):
        raise ValueError(start)
    return -F.cross_entropy(logits.float()[start - 1 : len(ids) - 1], ids[start:], reduction="none")


def continuation_by_hand(logits, ids, start):
    if start not in range(1, len(ids) + 1):
        raise ValueError(start)
    rows = logits.float()
    scores = [rows[t - 1, ids[t]] - rows[t - 1].logsumexp(0) for t in range(start, len(ids))]
    return torch.stack(scores) if scores else torch.zeros(0)


def continuation_of_all(logits, ids, start):
    if not 0 < start <= ids.numel():
        raise ValueError("no context")
    every = torch.log_softmax(logits.to(torch.float32), -1)[:-1]
    return torch.take_along_dim(every, ids[1:].unsqueeze(1), 1)[:, 0][start - 1 :]


RIGHT = {
    "gguf_name": [name_by_parts, name_by_patterns, name_by_replacing],
    "halves_to_pairs": [pairs_like_llama_cpp, pairs_by_index, pairs_by_slices],
    "stack_experts": [stack_into_lists, stack_by_sorting, stack_into_one_tensor],
    "q4_0": [q4_in_numpy, q4_block_by_block, q4_by_floor],
    "gptq": [gptq_in_lazy_blocks, gptq_row_by_row, gptq_by_elimination],
    "continuation_log_probs": [continuation_by_cross_entropy, continuation_by_hand, continuation_of_all],
}
AXES = "two axes: the last is number 1"
ROWS = "gather looks at as many rows as there are ids"
EQUIVALENT = {
    "halves_to_pairs": {
        "weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2)  ->  arguments 0 and 1 swapped": "the same two axes",
    },
    "stack_experts": {"result in another precision": "the result is a dict, which this mutation leaves alone"},
    "continuation_log_probs": {
        "-1  ->  without USub": AXES,
        "-1  ->  without USub (#2)": AXES,
        "-1  ->  without USub (#3)": AXES,
        "start - 1:len(ids) - 1  ->  without upper": ROWS,
        "len(ids) - 1  ->  Add": ROWS,
        "1  ->  0 (#6)": ROWS,
    },
}
