"""Lesson 07: right answers written differently, and mutants that compute the same."""

import torch


def positions_by_counting(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(start + n_new)[start:]
    rows = []
    for row in attention_mask.bool().tolist():
        places, seen = [], 0
        for real in row:
            places.append(seen)
            seen += real
        rows.append(places[start:])
    return torch.tensor(rows)


def positions_from_padding(n_new, start=0, attention_mask=None, device=None):
    index = torch.arange(start, start + n_new, device=device)
    if attention_mask is None:
        return index
    padding = (attention_mask == 0).sum(-1, keepdim=True)
    return torch.clamp(index - padding, min=0)


def positions_from_the_end(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is not None:
        lengths = attention_mask.sum(1)
        return (lengths[:, None] - torch.arange(n_new, 0, -1)[None, :]).clamp(min=0)
    return start + torch.arange(n_new)


def positions_padding_is_one(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.tensor(list(range(start, start + n_new)))
    positions = attention_mask.long().cumsum(-1) - 1
    return positions.masked_fill(attention_mask == 0, 1)[:, -n_new:]


def _in_range(p):
    if p <= 0 or p > 1:
        raise ValueError("p must be in (0, 1]")


def top_p_like_transformers(logits, p):
    _in_range(p)
    if p == 1.0:
        return logits
    ordered, order = torch.sort(logits, descending=True, stable=True, dim=-1)
    cumulative = ordered.softmax(-1).cumsum(-1)
    remove = cumulative >= p
    remove[..., 1:] = remove[..., :-1].clone()
    remove[..., 0] = False
    back = torch.zeros_like(remove)
    back[torch.arange(len(logits))[:, None], order] = remove
    return logits.masked_fill(back, float("-inf"))


def top_p_in_a_loop(logits, p):
    _in_range(p)
    out = torch.full_like(logits, -torch.inf)
    for b in range(logits.shape[0]):
        probs = torch.softmax(logits[b], dim=0)
        total = 0.0
        for i in sorted(range(len(probs)), key=lambda i: (-probs[i].item(), i)):
            out[b, i] = logits[b, i]
            total += probs[i].item()
            if total >= p and p < 1:
                break
    return out


def top_p_by_ranks(logits, p):
    _in_range(p)
    probs = logits.softmax(-1)
    order = probs.argsort(dim=-1, descending=True, stable=True)
    n_kept = (probs.gather(-1, order).cumsum(-1) < p).sum(-1, keepdim=True) + 1 if p < 1 else probs.size(-1)
    ranks = order.argsort(-1)
    return torch.where(ranks < n_kept, logits, torch.tensor(-torch.inf, dtype=logits.dtype))


def penalty_in_loops(logits, ids, penalty, attention_mask=None):
    if penalty <= 0:
        raise ValueError("no")
    out = logits.clone()
    for b in range(len(ids)):
        real = [True] * ids.size(1) if attention_mask is None else attention_mask[b].bool().tolist()
        for token in {t for t, r in zip(ids[b].tolist(), real, strict=True) if r}:
            out[b, token] = out[b, token] / penalty if out[b, token] > 0 else out[b, token] * penalty
    return out


def penalty_by_one_hot(logits, ids, penalty, attention_mask=None):
    if not penalty > 0:
        raise ValueError("no")
    hot = torch.nn.functional.one_hot(ids, logits.size(-1))
    if attention_mask is not None:
        hot = hot * attention_mask.long()[..., None]
    seen = hot.sum(1) > 0
    changed = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, changed, logits)


def penalty_by_gather(logits, ids, penalty, attention_mask=None):
    if penalty <= 0:
        raise ValueError("no")
    scores = logits.gather(1, ids)
    scores = torch.where(scores < 0, scores * penalty, scores / penalty)
    if attention_mask is None:
        return logits.scatter(1, ids, scores)
    out = logits.clone()
    for b, keep in enumerate(attention_mask.bool()):
        out[b, ids[b][keep]] = scores[b][keep]
    return out


def residual_with_relu(p, q):
    excess = torch.relu(p - q)
    total = excess.sum(dim=-1, keepdim=True)
    safe = torch.where(total == 0, torch.ones_like(total), total)
    return torch.where(total == 0, p, excess / safe)


def residual_by_minimum(p, q):
    left = p - torch.minimum(p, q)
    out = left / left.sum(-1, keepdim=True)
    return torch.where(out.isnan(), p, out)


def residual_row_by_row(p, q):
    if p.dim() > 1:
        return torch.stack([residual_row_by_row(a, b) for a, b in zip(p, q, strict=True)])
    excess = torch.maximum(p - q, torch.zeros_like(p))
    return p if excess.sum() == 0 else excess / excess.sum()


def passes_by_sum(acceptance_rate, n_guesses):
    return sum(acceptance_rate**i for i in range(n_guesses + 1))


def passes_by_expectation(acceptance_rate, n_guesses):
    a, g = acceptance_rate, n_guesses
    return sum((i + 1) * a**i * (1 - a) for i in range(g)) + (g + 1) * a**g


def passes_recursively(a, g):
    return 1.0 if g == 0 else 1 + a * passes_recursively(a, g - 1)


RIGHT = {
    "token_positions": [
        positions_by_counting,
        positions_from_padding,
        positions_from_the_end,
        positions_padding_is_one,
    ],
    "top_p": [top_p_like_transformers, top_p_in_a_loop, top_p_by_ranks],
    "repetition_penalty": [penalty_in_loops, penalty_by_one_hot, penalty_by_gather],
    "residual": [residual_with_relu, residual_by_minimum, residual_row_by_row],
    "tokens_per_pass": [passes_by_sum, passes_by_expectation, passes_recursively],
}
TWO_AXES = "logits have two axes, so axis 1 is the last one"
EQUIVALENT = {
    "token_positions": {
        "torch.arange(start, start + n_new, device=device)  ->  without device": "the checks run on the CPU",
        "-1  ->  without USub": "the mask has two axes, so axis 1 is the last one",
    },
    "top_p": {
        "logits.softmax(-1).sort(dim=-1, descending=True, stable=True)  ->  without stable": "short rows on the CPU "
        "are sorted stably anyway",
        "True  ->  False (#2)": "the same: stable=False",
        "-1  ->  without USub": TWO_AXES,
        "-1  ->  without USub (#2)": TWO_AXES,
        "-1  ->  without USub (#3)": TWO_AXES,
        "-1  ->  without USub (#4)": TWO_AXES,
    },
    "repetition_penalty": {
        "-1  ->  without USub": TWO_AXES,
        "logits > 0  ->  GtE": "a logit of 0 stays 0 whether divided or multiplied",
        "True  ->  False (#3)": "zip's strict: ids and mask have equally many rows",
    },
}
