"""Lesson 19: right answers written differently, and mutants that compute the same."""

import math

import torch


def _no_groups(rewards, group_size):
    if group_size < 2 or rewards.ndim != 1 or len(rewards) == 0 or len(rewards) % group_size:
        raise ValueError("these make no groups")


def advantages_group_by_group(rewards, group_size, std="sample", eps=1e-4):
    _no_groups(rewards, group_size)
    if std not in {"sample", "population", "none"}:
        raise ValueError(std)
    out = []
    for group in rewards.float().split(group_size):
        centred = group - group.mean()
        out.append(centred if std == "none" else centred / (group.std(unbiased=std == "sample") + eps))
    return torch.cat(out)


def advantages_from_squares(rewards, group_size, std="sample", eps=1e-4):
    _no_groups(rewards, group_size)
    table = rewards.to(torch.float32).reshape(-1, group_size)
    centred = table - table.sum(1, keepdim=True) / group_size
    squares = centred.pow(2).sum(dim=1, keepdim=True)
    match std:
        case "sample":
            centred = centred / (torch.sqrt(squares / (group_size - 1)) + eps)
        case "population":
            centred = centred / (torch.sqrt(squares / group_size) + eps)
        case "none":
            pass
        case _:
            raise ValueError("unknown")
    return centred.reshape(-1)


def advantages_in_python(rewards, group_size, std="sample", eps=1e-4):
    _no_groups(rewards, group_size)
    if std not in ("none", "sample", "population"):
        raise ValueError(std)
    values, out = [float(r) for r in rewards], []
    for start in range(0, len(values), group_size):
        group = values[start : start + group_size]
        mean = sum(group) / group_size
        under = group_size - 1 if std == "sample" else group_size
        d = 1.0 if std == "none" else math.sqrt(sum((r - mean) ** 2 for r in group) / under) + eps
        out += [(r - mean) / d for r in group]
    return torch.tensor(out)


def ratio_by_where(log_probs, old_log_probs, mask, level="token"):
    if level not in ("token", "sequence"):
        raise ValueError(level)
    d = torch.where(mask, log_probs - old_log_probs, 0.0)
    return d if level == "token" else d.sum(-1).div(mask.sum(-1).clamp(min=1)).unsqueeze(-1)


def ratio_by_product(log_probs, old_log_probs, mask, level="token"):
    weights = mask.to(log_probs.dtype)
    difference = weights * (log_probs - old_log_probs)
    if level == "sequence":
        n = torch.maximum(weights.sum(1, keepdim=True), torch.tensor(1.0))
        return difference.sum(dim=1, keepdim=True) / n
    if level != "token":
        raise ValueError("no such level")
    return difference


def ratio_row_by_row(log_probs, old_log_probs, mask, level="token"):
    if level == "token":
        return (log_probs - old_log_probs) * mask
    elif level == "sequence":
        rows = []
        for new, old, real in zip(log_probs, old_log_probs, mask, strict=True):
            rows.append((new - old)[real].mean() if real.any() else ((new - old) * 0).sum())
        return torch.stack(rows)[:, None]
    raise ValueError("level")


def _log_ratio(new, old, mask, level):
    return ratio_by_where(new, old, mask, level)


def _allowed(beta, ref):
    if beta < 0:
        raise ValueError("beta below 0")
    if beta and ref is None:
        raise ValueError("no reference")


def losses_by_maximum(log_probs, old_log_probs, advantages, mask, clip_low=0.2, clip_high=0.2, level="token",
                      ref_log_probs=None, beta=0.0, correct_kl=False):  # fmt: skip
    _allowed(beta, ref_log_probs)
    ratio = torch.exp(_log_ratio(log_probs, old_log_probs, mask, level))
    A = advantages.unsqueeze(1)
    loss = torch.max(-A * ratio, -A * torch.clamp(ratio, 1 - clip_low, 1 + clip_high)) * mask
    if beta:
        d = ref_log_probs - log_probs
        k3 = d.exp() - d - 1
        loss = loss + beta * mask * (k3 * ratio if correct_kl else k3)
    return loss


def losses_by_cases(log_probs, old_log_probs, advantages, mask, clip_low=0.2, clip_high=0.2, level="token",
                    ref_log_probs=None, beta=0.0, correct_kl=False):  # fmt: skip
    _allowed(beta, ref_log_probs)
    ratio = _log_ratio(log_probs, old_log_probs, mask, level).exp() * torch.ones_like(log_probs)
    A = advantages[:, None].expand_as(ratio)
    used = torch.where(A > 0, ratio.clamp(max=1 + clip_high), ratio.clamp(min=1 - clip_low))
    loss = -(used * A)
    if beta > 0:
        d = log_probs - ref_log_probs
        loss = loss + beta * (torch.expm1(-d) + d) * (ratio if correct_kl else 1)
    return torch.where(mask, loss, torch.zeros(()))


def losses_answer_by_answer(log_probs, old_log_probs, advantages, mask, clip_low=0.2, clip_high=0.2, level="token",
                            ref_log_probs=None, beta=0.0, correct_kl=False):  # fmt: skip
    _allowed(beta, ref_log_probs)
    ratios = _log_ratio(log_probs, old_log_probs, mask, level).exp()
    rows = []
    for i, A in enumerate(advantages):
        ratio = ratios[i].expand(mask.shape[1])
        row = -torch.min(ratio * A, torch.clip(ratio, 1 - clip_low, 1 + clip_high) * A)
        if beta > 0:
            d = log_probs[i] - ref_log_probs[i]
            k3 = torch.exp(-d) - 1 + d
            row = row + beta * (k3 * ratio if correct_kl else k3)
        rows.append(row.masked_fill(~mask[i], 0))
    return torch.stack(rows)


def _numbers(n, c, k):
    if k < 1 or k > n:
        raise ValueError("k")
    if c < 0 or c > n:
        raise ValueError("c")


def pass_by_comb(n, c, k):
    _numbers(n, c, k)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def pass_by_loop(n, c, k):
    _numbers(n, c, k)
    all_wrong = 1.0
    for i in range(k):
        all_wrong *= max(0, n - c - i) / (n - i)
    return 1.0 - all_wrong


def pass_by_logarithms(n, c, k):
    _numbers(n, c, k)
    if n - c < k:
        return 1.0
    log = math.lgamma(n - c + 1) - math.lgamma(n - c - k + 1) - math.lgamma(n + 1) + math.lgamma(n - k + 1)
    return -math.expm1(log)


def answer_by_partition(completion, answer):
    return 1.0 if completion.rpartition(";")[2] == answer else 0.0


def answer_by_split(completion, answer):
    *_, last = completion.split(";")
    return float(last == answer)


def answer_by_index(completion, answer):
    return float(completion[completion.rfind(";") + 1 :] == answer)


RIGHT = {
    "group_advantages": [advantages_group_by_group, advantages_from_squares, advantages_in_python],
    "importance_log_ratio": [ratio_by_where, ratio_by_product, ratio_row_by_row],
    "token_losses": [losses_by_maximum, losses_by_cases, losses_answer_by_answer],
    "pass_at_k": [pass_by_comb, pass_by_loop, pass_by_logarithms],
    "exact_answer": [answer_by_partition, answer_by_split, answer_by_index],
}
ZERO = "with fewer than k wrong tries one factor of the product is 1 - k / k, so the result is 1 anyway"
EQUIVALENT = {
    "pass_at_k": {"dropped: if n - c < k:": ZERO, "dropped: return 1.0": ZERO, "n - c  ->  Add": ZERO},
}
