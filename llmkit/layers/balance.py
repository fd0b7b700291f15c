"""Do the experts share the work? The load, the losses and the bias that even it out, and what overflows.

N = B * T tokens, E experts, k = top_k of them for each token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def expert_load(chosen: Tensor, n_experts: int, attention_mask: Tensor | None = None) -> Tensor:
    """(E,): of all choices, the share that fell on each expert; sums to 1.

    >>> expert_load(torch.tensor([[0, 2], [2, 3]]), 4)
    tensor([0.2500, 0.0000, 0.5000, 0.2500])
    """
    if attention_mask is not None:
        chosen = chosen[attention_mask.flatten().bool()]
    counts = torch.bincount(chosen.flatten(), minlength=n_experts).float()
    return counts / counts.sum()


def dead_experts(load: Tensor, below: float = 0.1) -> list[int]:
    """The experts that get less than `below` times an equal share.

    >>> dead_experts(torch.tensor([0.5, 0.01, 0.29, 0.2]))
    [1]
    """
    return torch.where(load < below / len(load))[0].tolist()


def balance_loss(logits: Tensor, top_k: int) -> Tensor:
    """How unevenly one layer's router spreads the tokens: E * sum over experts of f_e * P_e.

    logits  (N, E) of one layer
    f_e     choices a token that fell on expert e: how many tokens have it among their top_k, divided by N
    P_e     the mean over tokens of expert e's probability (softmax over all E)
    result  scalar, float32; top_k when the load is even, up to E when all tokens go to the same experts

    Counting has no gradient, so the gradient comes through P alone: it lowers the logits of crowded experts.
    Source: Fedus et al. 2021 (Switch Transformer), equation 4, for more than one choice a token.

    >>> balance_loss(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), top_k=1).item()
    1.0
    """
    probs = logits.float().softmax(-1)
    chosen = probs.topk(top_k, dim=-1).indices
    choices = torch.bincount(chosen.flatten(), minlength=logits.size(-1)) / len(logits)  # (E,); sums to top_k
    return logits.size(-1) * (choices * probs.mean(0)).sum()


def load_balancing_loss(
    logits: Sequence[Tensor], top_k: int, attention_mask: Tensor | None = None, per_layer: bool = True
) -> Tensor:
    """`balance_loss` of all layers.

    logits          (N, E) for each layer
    attention_mask  (B, T), N = B * T; padding is not counted
    per_layer       the mean of the layers' losses, as in the Switch Transformer; False pools all layers' tokens
                    first, as transformers does, which lets opposite mistakes of two layers cancel
    """
    if attention_mask is not None:
        kept = attention_mask.flatten().bool()
        logits = [layer[kept] for layer in logits]
    if not per_layer:
        logits = [torch.cat(list(logits))]
    return torch.stack([balance_loss(layer, top_k) for layer in logits]).mean()


def router_z_loss(logits: Sequence[Tensor]) -> Tensor:
    """Mean of logsumexp(logits)², which keeps router logits small. Source: Zoph et al. 2022 (ST-MoE), equation 5."""
    return torch.stack([layer.float().logsumexp(-1).square().mean() for layer in logits]).mean()


def balancing_step(load: Tensor, rate: float = 1e-3) -> Tensor:
    """(E,) loads -> (E,) what to add to the biases: rate up for the underused, rate down for the overused.

    >>> balancing_step(torch.tensor([0.5, 0.25, 0.25, 1.0]), 0.1)
    tensor([ 0.0000,  0.1000,  0.1000, -0.1000])
    """
    return rate * torch.sign(load.mean() - load)


def within_capacity(chosen: Tensor, n_experts: int, capacity: int) -> Tensor:
    """(N, k) bool: which choices an expert that takes at most `capacity` rows still accepts.

    First choices are served before second choices, and within them in the order of tokens; what is refused is
    dropped, so that token passes by the residual path only. Source: Lepikhin et al. 2020 (GShard), algorithm 1.

    >>> within_capacity(torch.tensor([[0], [0], [1]]), 2, capacity=1).flatten().tolist()
    [True, False, True]
    """
    in_order = chosen.T.flatten()  # all first choices, then all second ones
    taken = torch.nn.functional.one_hot(in_order, n_experts).cumsum(0)  # (k * N, E)
    place = taken.gather(1, in_order[:, None]).squeeze(1)  # 1 for the first row of an expert
    return (place <= capacity).view(chosen.size(1), -1).T
