"""Lesson 17: right answers written differently, and mutants that compute the same."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def win_by_cases(first, second, flip=0.0):
    if flip < 0 or flip > 0.5:
        raise ValueError("no")
    p = torch.sigmoid(first - second)
    return p * (1 - flip) + (1 - p) * flip


def win_by_exponentials(first, second, flip=0.0):
    if not (0 <= flip <= 0.5):
        raise ValueError("flip")
    p = 1 / (1 + torch.exp(second - first))
    return flip + p - 2 * flip * p


def win_by_softmax(first, second, flip=0.0):
    if flip > 0.5 or flip < 0:
        raise ValueError("flip")
    p = torch.stack([first, second]).softmax(0)
    return (1 - flip) * p[0] + flip * p[1]


def _margin_fits(margin, M):
    if torch.is_tensor(margin) and margin.shape not in ((), (M,)):
        raise ValueError("margin")


def loss_by_softplus(chosen, rejected, margin=0.0, centre=0.0):
    if np.ndim(margin) and np.shape(margin) != np.shape(chosen):
        raise ValueError("margin")
    if chosen.ndim != 1 or rejected.ndim != 1 or len(chosen) != len(rejected) or len(chosen) == 0:
        raise ValueError("shapes")
    return F.softplus(rejected + margin - chosen).mean() + centre * ((chosen + rejected) ** 2).mean()


def loss_by_cross_entropy(chosen, rejected, margin=0.0, centre=0.0):
    if chosen.shape != rejected.shape or chosen.dim() != 1 or chosen.numel() < 1:
        raise ValueError("shapes")
    _margin_fits(margin, len(chosen))
    labels = torch.zeros(len(chosen), dtype=torch.long)
    return F.cross_entropy(torch.stack([chosen - margin, rejected], 1), labels) + centre * torch.mean(
        torch.pow(chosen + rejected, 2)
    )


def loss_in_a_loop(chosen, rejected, margin=0.0, centre=0.0):
    if chosen.dim() != 1 or chosen.shape != rejected.shape or not chosen.numel():
        raise ValueError("shapes")
    if torch.as_tensor(margin).ndim > 1:
        raise ValueError("margin")
    margins = torch.as_tensor(margin).expand(len(chosen))
    total = 0.0
    for a, b, m in zip(chosen, rejected, margins, strict=True):
        total = total - F.logsigmoid(a - b - m) + centre * (a + b) ** 2
    return total / len(chosen)


def token_in_a_loop(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden[:, -1]
    if attention_mask.shape != hidden.shape[:2]:
        raise ValueError("shape")
    rows = []
    for states, mask in zip(hidden, attention_mask, strict=True):
        places = mask.nonzero().flatten()
        if len(places) == 0:
            raise ValueError("nothing")
        rows.append(states[places[-1]])
    return torch.stack(rows)


def token_from_behind(hidden, attention_mask=None):
    if attention_mask is None:
        attention_mask = torch.ones(hidden.shape[:2])
    if attention_mask.shape != hidden.shape[:2] or (attention_mask.sum(1) == 0).any():
        raise ValueError("mask")
    from_behind = attention_mask.flip(1).long().argmax(1)
    return hidden.flip(1)[torch.arange(len(hidden)), from_behind]


def token_by_gather(hidden, attention_mask=None):
    B, T, C = hidden.shape
    if attention_mask is None:
        return hidden[:, T - 1, :]
    if tuple(attention_mask.shape) != (B, T) or not attention_mask.bool().any(1).all():
        raise ValueError("mask")
    last = attention_mask.long().cumsum(1).argmax(1)  # the first place where the count is full
    return hidden.gather(1, last[:, None, None].expand(B, 1, C)).squeeze(1)


def _checked(logits, ids, mask):
    if mask.shape != ids.shape or logits.shape[:2] != ids.shape:
        raise ValueError("shapes")
    if mask[:, 0].any() or (mask.sum(1) == 0).any():
        raise ValueError("mask")


def sequence_by_cross_entropy(logits, ids, completion_mask):
    _checked(logits, ids, completion_mask)
    targets = ids.masked_fill(~completion_mask, -100)[:, 1:]
    loss = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, ignore_index=-100, reduction="none")
    return -loss.sum(1)


def sequence_in_loops(logits, ids, completion_mask):
    _checked(logits, ids, completion_mask)
    log_probs = torch.log_softmax(logits.float(), -1)
    totals = []
    for b in range(len(ids)):
        total = torch.tensor(0.0)
        for t in completion_mask[b].nonzero().flatten().tolist():
            total = total + log_probs[b, t - 1, ids[b, t]]
        totals.append(total)
    return torch.stack(totals)


def sequence_with_logsumexp(logits, ids, completion_mask):
    _checked(logits, ids, completion_mask)
    before = logits[:, :-1].float()
    picked = before.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2) - before.logsumexp(2)
    return picked.masked_fill(~completion_mask[:, 1:], 0).sum(1)


def dpo_by_softplus(pairs, beta):
    policy, reference = pairs.chosen - pairs.rejected, pairs.ref_chosen - pairs.ref_rejected
    return F.softplus(-beta * (policy - reference))


def dpo_by_rewards(pairs, beta):
    chosen = beta * (pairs.chosen - pairs.ref_chosen)
    rejected = beta * (pairs.rejected - pairs.ref_rejected)
    return torch.logaddexp(chosen, rejected) - chosen


def dpo_in_a_loop(pairs, beta):
    a, b, c, d = (np.asarray(x.tolist()) for x in pairs[:4])
    margins = beta * ((a - c) - (b - d))
    losses = [math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins]
    return torch.tensor(losses, dtype=torch.float32)


RIGHT = {
    "win_probability": [win_by_cases, win_by_exponentials, win_by_softmax],
    "bradley_terry_loss": [loss_by_softplus, loss_by_cross_entropy, loss_in_a_loop],
    "last_token": [token_in_a_loop, token_from_behind, token_by_gather],
    "sequence_log_probs": [sequence_by_cross_entropy, sequence_in_loops, sequence_with_logsumexp],
    "sigmoid_loss": [dpo_by_softplus, dpo_by_rewards, dpo_in_a_loop],
}
_MESSAGE = "only the number of the row in the error's text"
_LAST = "what is looked at has two axes, so axis 1 is the last one"
EQUIVALENT = {
    "last_token": {
        "torch.arange(real.size(1), device=real.device)  ->  without device": "all is on the CPU here",
        "torch.arange(len(hidden), device=hidden.device)  ->  without device": "all is on the CPU here",
        "-1  ->  without USub": _LAST,
        "-1  ->  without USub (#3)": _LAST,
        "-1  ->  without USub (#4)": _LAST,
        "0  ->  -1": _MESSAGE,
        "real.any(-1)  ->  all (#2)": _MESSAGE,
        "1  ->  2 (#5)": _MESSAGE,
        "1  ->  0 (#5)": _MESSAGE,
    },
    "sequence_log_probs": {
        "-1  ->  without USub": _LAST,
        "-1  ->  without USub (#2)": _LAST,
        "-1  ->  without USub (#3)": _LAST,
        "0  ->  -1": _MESSAGE,
        "counted.any(-1)  ->  all (#2)": _MESSAGE,
        "1  ->  2 (#4)": _MESSAGE,
        "1  ->  0 (#4)": _MESSAGE,
    },
}
