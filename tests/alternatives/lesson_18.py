"""Lesson 18: right answers written differently, and mutants that compute the same."""

import torch


def mask_by_argmax(completions, eos_id):
    if completions.dim() != 2 or completions.shape[1] == 0:
        raise ValueError("completions must be (B, T)")
    B, T = completions.shape
    if eos_id is None:
        return torch.full((B, T), True)
    is_end = completions == eos_id
    first = torch.where(is_end.any(1), is_end.int().argmax(1), T)
    return torch.arange(T)[None] <= first[:, None]


def mask_in_python(completions, eos_id):
    if completions.ndim != 2 or not completions.shape[-1]:
        raise ValueError("completions must be (B, T)")
    rows = []
    for row in completions.tolist():
        n = row.index(eos_id) + 1 if eos_id is not None and eos_id in row else len(row)
        rows.append([i < n for i in range(len(row))])
    return torch.tensor(rows)


def mask_by_shifting(completions, eos_id):
    if completions.dim() != 2 or completions.size(1) == 0:
        raise ValueError("completions must be (B, T)")
    mask = torch.ones(completions.shape, dtype=torch.bool)
    if eos_id is not None:
        mask[:, 1:] = ~(completions[:, :-1] == eos_id).cummax(1).values
    return mask


def kl_in_a_dict(log_probs, ref_log_probs, kind="k1"):
    if kind not in {"k1", "k2", "k3"}:
        raise ValueError(kind)
    d = log_probs - ref_log_probs
    return {"k1": d, "k2": 0.5 * d * d, "k3": torch.exp(-d) - 1 + d}[kind]


def kl_from_the_ratio(log_probs, ref_log_probs, kind="k1"):
    log_ratio = ref_log_probs - log_probs  # reference over policy
    match kind:
        case "k1":
            return -log_ratio
        case "k2":
            return log_ratio**2 / 2
        case "k3":
            return (log_ratio.exp() - 1) - log_ratio
    raise ValueError("unknown")


def kl_with_ifs(log_probs, ref_log_probs, kind="k1"):
    d = torch.sub(log_probs, ref_log_probs)
    if kind == "k2":
        return torch.pow(d, 2).div(2)
    elif kind == "k3":
        return d + torch.exp(ref_log_probs - log_probs).sub(1)
    elif kind != "k1":
        raise ValueError(f"no such estimator: {kind}")
    return d


def _checked(rewards, values, mask):
    if not rewards.shape == values.shape == mask.shape:
        raise ValueError("one shape, please")


def gae_by_sums(rewards, values, mask, gamma=1.0, lam=0.95):
    _checked(rewards, values, mask)
    r, v = rewards * mask, values * mask
    following = torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], 1)
    delta = r + gamma * following - v
    T = r.shape[1]
    power = torch.arange(T)[None] - torch.arange(T)[:, None]
    weights = torch.where(power >= 0, (gamma * lam) ** power.clamp(min=0).float(), 0.0)
    advantages = (delta @ weights.T) * mask
    return advantages, (advantages + v) * mask


def gae_row_by_row(rewards, values, mask, gamma=1.0, lam=0.95):
    _checked(rewards, values, mask)
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for i, n in enumerate(mask.sum(1).tolist()):
        running = 0.0
        for t in range(n - 1, -1, -1):
            following = values[i, t + 1] if t + 1 < n else 0.0
            running = rewards[i, t] + gamma * following - values[i, t] + gamma * lam * running
            advantages[i, t], returns[i, t] = running, running + values[i, t]
    return advantages, returns


def gae_by_stacking(rewards, values, mask, gamma=1.0, lam=0.95):
    _checked(rewards, values, mask)
    values = torch.where(mask, values, 0.0)
    rewards = torch.where(mask, rewards, 0.0)
    reversed_advantages, last = [], 0
    for t in range(rewards.shape[1] - 1, -1, -1):
        following = values[:, t + 1] if t < rewards.shape[1] - 1 else 0.0
        last = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * last
        reversed_advantages.append(last)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return advantages * mask, torch.where(mask, advantages + values, 0.0)


def _some(mask):
    if not mask.any():
        raise ValueError("no token is counted")


def loss_by_minimum(log_probs, old_log_probs, advantages, mask, clip=0.2):
    _some(mask)
    ratio = torch.exp(log_probs - old_log_probs)
    return -torch.min(ratio * advantages, torch.clip(ratio, 1 - clip, 1 + clip) * advantages)[mask].mean()


def loss_by_cases(log_probs, old_log_probs, advantages, mask, clip=0.2):
    _some(mask)
    ratio = (log_probs - old_log_probs).exp()
    too_far = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
    used = torch.where(too_far, ratio.clamp(1 - clip, 1 + clip), ratio)
    return -(used * advantages * mask).sum() / mask.sum()


def loss_token_by_token(log_probs, old_log_probs, advantages, mask, clip=0.2):
    _some(mask)
    losses = []
    for i, t in mask.nonzero().tolist():
        ratio, A = torch.exp(log_probs[i, t] - old_log_probs[i, t]), advantages[i, t]
        losses.append(torch.max(-A * ratio, -A * torch.clamp(ratio, 1 - clip, 1 + clip)))
    return torch.stack(losses).mean()


RIGHT = {
    "completion_mask": [mask_by_argmax, mask_in_python, mask_by_shifting],
    "kl_estimate": [kl_in_a_dict, kl_from_the_ratio, kl_with_ifs],
    "gae": [gae_by_sums, gae_row_by_row, gae_by_stacking],
    "policy_loss": [loss_by_minimum, loss_by_cases, loss_token_by_token],
}
PAIR = "the result is a pair, which this mutation leaves alone"
EQUIVALENT = {
    "completion_mask": {"result in another precision": "booleans have none"},
    "gae": {
        "0  ->  -1": "only the shape of that column is used",
        "result in another precision": PAIR,
    },
    "policy_loss": {
        "torch.maximum(plain, clipped)  ->  arguments 0 and 1 swapped": "the larger of two is the larger of two",
    },
}
