"""Attention without ever holding a whole row of weights: the idea inside FlashAttention, in plain torch."""

import torch
from torch import Tensor


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor, block: int = 64, causal: bool = False) -> Tensor:
    """`attention`, reading the keys block by block with a softmax that corrects itself as it goes.

    q        (B, H, T, D);  k, v (B, H, S, D);  scores are scaled by 1 / sqrt(D)
    block    keys read at a time; only (T, block) scores exist at any moment
    causal   queries are the last T of the S positions (T <= S), so each sees a key of the first block

    Kept for each query: the largest score so far m, the sum of exp(score - m) so far, and the weighted sum of the
    values so far. When a block brings a larger m, what was summed is shrunk by exp(m_old - m_new).
    Source: Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022, algorithm 1.
    """
    T, S = q.size(-2), k.size(-2)
    largest = q.new_full((*q.shape[:-1], 1), -torch.inf)  # (B, H, T, 1)
    total = q.new_zeros(largest.shape)
    mixed = q.new_zeros(*q.shape[:-1], v.size(-1))  # (B, H, T, D)
    last_seen = torch.arange(S - T, S, device=q.device)[:, None]  # (T, 1)
    for start in range(0, S, block):
        end = min(start + block, S)
        scores = q @ k[..., start:end, :].transpose(-2, -1) * q.size(-1) ** -0.5  # (B, H, T, block)
        if causal:
            keys = torch.arange(start, end, device=q.device)
            scores = scores.masked_fill(keys > last_seen, -torch.inf)
        new_largest = torch.maximum(largest, scores.amax(-1, keepdim=True))
        weights = torch.exp(scores - new_largest)
        shrink = torch.exp(largest - new_largest)  # 0 for the first block
        total = total * shrink + weights.sum(-1, keepdim=True)
        mixed = mixed * shrink + weights @ v[..., start:end, :]
        largest = new_largest
    return mixed / total
