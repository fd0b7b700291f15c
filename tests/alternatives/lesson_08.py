"""Lesson 08: right answers written differently, and mutants that compute the same."""

import numpy as np
import torch
from torch.nn import functional as F


def route_top_k_first(logits, top_k):
    best = logits.float().topk(top_k, dim=-1)
    return best.values.softmax(-1), best.indices


def route_by_sorting(logits, top_k):
    order = logits.float().argsort(dim=-1, descending=True)[:, :top_k]
    exp = torch.exp(logits.float() - logits.float().max(dim=1, keepdim=True).values).gather(1, order)
    return exp / exp.sum(1)[:, None], order


def route_masked(logits, top_k):
    logits = logits.to(torch.float32)
    chosen = torch.topk(logits, top_k).indices
    masked = torch.full_like(logits, -torch.inf).scatter(1, chosen, logits.gather(1, chosen))
    return F.softmax(masked, dim=1).gather(1, chosen), chosen


def loop_over_tokens(x, weights, chosen, experts):
    rows = []
    for t in range(len(x)):
        rows.append(sum(weights[t, s] * experts[chosen[t, s]](x[t : t + 1])[0] for s in range(chosen.size(1))))
    return torch.stack(rows).to(x.dtype)


def loop_over_slots(x, weights, chosen, experts):
    out = torch.zeros_like(x)
    for slot in range(chosen.shape[1]):
        for e in range(len(experts)):
            rows = (chosen[:, slot] == e).nonzero().squeeze(1)
            if rows.numel() == 0:
                continue
            out = out.index_add(0, rows, (experts[e](x[rows]) * weights[rows, slot].unsqueeze(1)).to(x.dtype))
    return out


def dense_one_hot(x, weights, chosen, experts):
    """Every expert on every token, and a weight of 0 for what was not chosen: right, and slow."""
    share = torch.zeros(len(x), len(experts)).scatter(1, chosen, weights)
    everything = torch.stack([expert(x) for expert in experts], dim=1)
    return (share.to(x.dtype)[..., None] * everything).sum(1)


def loop_with_masks(x, weights, chosen, experts):
    out = x * 0
    for e, expert in enumerate(experts):
        here = (chosen == e).any(-1)
        share = (weights * (chosen == e)).sum(-1)[here]
        out[here] += expert(x[here]) * share[:, None].to(x.dtype)
    return out


def grouped_inverse_sort(x, weights, chosen, experts):
    top_k = chosen.shape[1]
    order = chosen.reshape(-1).argsort(stable=True)
    counts = torch.bincount(chosen.reshape(-1), minlength=len(experts)).tolist()
    pieces = x[order // top_k].split(counts)
    y = torch.cat([experts[e](piece) for e, piece in enumerate(pieces) if piece.shape[0] > 0])
    y = y[order.argsort()].view(len(x), top_k, -1)
    return (y * weights[..., None].to(y.dtype)).sum(1)


def grouped_index_add(x, weights, chosen, experts):
    order = chosen.flatten().argsort()
    token = order // chosen.size(1)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    y = torch.cat([expert(run) for expert, run in zip(experts, x[token].split(counts), strict=True) if len(run)])
    return torch.zeros_like(x).index_add(0, token, y * weights.flatten()[order, None].type_as(y))


def grouped_assign(x, weights, chosen, experts):
    k = chosen.size(-1)
    order = torch.sort(chosen.flatten(), stable=True).indices
    sizes = [int((chosen == e).sum()) for e in range(len(experts))]
    rows, at, out = x.repeat_interleave(k, 0)[order], 0, []
    for size, expert in zip(sizes, experts, strict=True):
        if size:
            out.append(expert(rows[at : at + size]))
        at += size
    y = torch.cat(out)
    back = torch.zeros_like(y)
    back[order] = y
    return torch.einsum("nk,nkc->nc", weights.to(y.dtype), back.view(len(x), k, -1))


def balance_with_one_hot(logits, top_k):
    p = torch.softmax(logits.float(), dim=1)
    f = F.one_hot(p.topk(top_k, dim=1).indices, p.shape[1]).sum(dim=1).float().mean(dim=0)
    return torch.dot(f, p.mean(dim=0)) * p.shape[1]


def balance_with_a_loop(logits, top_k):
    logits = logits.float()
    n, e = logits.shape
    chosen = logits.topk(top_k).indices
    probs = logits.softmax(dim=-1)
    loss = torch.zeros(())
    for expert in range(e):
        loss = loss + (chosen == expert).sum() / n * probs[:, expert].mean()
    return e * loss


def balance_as_a_mean(logits, top_k):
    p = logits.float().softmax(-1)
    f = torch.zeros_like(p).scatter(1, p.topk(top_k).indices, 1.0).mean(0)
    return (f * p.mean(0)).mean() * p.size(1) ** 2


def step_with_where(load, rate=1e-3):
    mean = load.mean()
    return torch.where(load < mean, rate, torch.where(load > mean, -rate, 0.0)).to(load.dtype)


def step_by_comparing(load, rate=1e-3):
    return rate * ((load < load.mean()).to(load.dtype) - (load > load.mean()).to(load.dtype))


def step_from_a_list(load, rate=1e-3):
    mean = load.sum() / len(load)
    return torch.tensor([rate * float(np.sign(float(mean - one))) for one in load])


def capacity_one_by_one(chosen, n_experts, capacity):
    left, kept = [capacity] * n_experts, torch.zeros(chosen.shape, dtype=torch.bool)
    for slot in range(chosen.size(1)):
        for token in range(chosen.size(0)):
            if left[chosen[token, slot]] > 0:
                left[chosen[token, slot]] -= 1
                kept[token, slot] = True
    return kept


def capacity_by_expert(chosen, n_experts, capacity):
    flat = chosen.T.reshape(-1)
    kept = torch.zeros(len(flat), dtype=torch.bool)
    for e in range(n_experts):
        kept[(flat == e).nonzero()[:capacity, 0]] = True
    return kept.view(chosen.shape[1], chosen.shape[0]).T


def capacity_by_pairs(chosen, n_experts, capacity):
    flat = chosen.t().flatten()
    earlier = (flat[:, None] == flat[None, :]).tril(-1).sum(1)  # rows of the same expert that came before
    return (earlier < capacity).reshape(chosen.size(1), chosen.size(0)).t()


RIGHT = {
    "route": [route_top_k_first, route_by_sorting, route_masked],
    "dispatch_loop": [loop_over_tokens, loop_over_slots, dense_one_hot, loop_with_masks, grouped_inverse_sort],
    "dispatch_grouped": [grouped_inverse_sort, grouped_index_add, grouped_assign, loop_over_slots],
    "balance_loss": [balance_with_one_hot, balance_with_a_loop, balance_as_a_mean],
    "balancing_step": [step_with_where, step_by_comparing, step_from_a_list],
    "within_capacity": [capacity_one_by_one, capacity_by_expert, capacity_by_pairs],
}

TWO = "the tensor has two axes, so axis 1 is the last one"
EQUIVALENT = {
    "route": {
        "-1  ->  without USub": TWO,
        "-1  ->  without USub (#2)": TWO,
        "-1  ->  without USub (#3)": TWO,
        "result in another precision": "the result is a tuple, which this mutant leaves as it is",
    },
    "dispatch_grouped": {
        "-1  ->  without USub": TWO,
        "0  ->  -1": "the list of places has one axis, so axis -1 is axis 0",
        "torch.arange(len(order), device=x.device)  ->  without device": "the tests run on the CPU anyway",
        "chosen.flatten().argsort(stable=True)  ->  without stable": "the order within an expert's run is free",
        "True  ->  False": "the order within an expert's run is free",
        "True  ->  False (#2)": "zip gets two lists of the same length",
        " for expert, run in zip(experts, runs, strict=True) if len(run)  ->  without condition 0": (
            "an expert that gets no rows gives no rows; leaving it out only saves time"
        ),
    },
    "balance_loss": {
        "-1  ->  without USub": TWO,
        "-1  ->  without USub (#2)": TWO,
        "-1  ->  without USub (#3)": TWO,
        "-1  ->  without USub (#4)": TWO,
    },
    "within_capacity": {
        "1  ->  0": "what squeeze leaves is reshaped by view",
        "result in another precision": "the result is boolean, which this mutant leaves as it is",
    },
}
