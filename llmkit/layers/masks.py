"""Masks: who may look at whom. Every mask of the package is made here.

One convention: boolean, True = may attend (as in torch's scaled_dot_product_attention), shape broadcastable to
(B, H, T, S) for T queries and S keys. Queries are the *last* T of the S positions, so that a mask is right with
a cache too. Masks are combined with `&`.
"""

import torch
from torch import Tensor


class Causal:
    """The square triangle, not written out: a fused kernel that knows it can pass over the upper half."""

    def __repr__(self) -> str:
        return "CAUSAL"


CAUSAL = Causal()
Mask = Tensor | Causal | None  # None: everything may be seen; a floating-point tensor is added to the scores


def causal_mask(q_len: int, kv_len: int, device: torch.device | None = None) -> Tensor:
    """(T, S): each query may look at its own position and at earlier ones.

    >>> causal_mask(2, 3).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    return torch.ones(q_len, kv_len, dtype=torch.bool, device=device).tril(kv_len - q_len)


def sliding_window_mask(
    q_len: int, kv_len: int, window: int, sinks: int = 0, device: torch.device | None = None
) -> Tensor:
    """(T, S): each query may look at the last `window` positions, its own among them, and at the first `sinks`.

    Source: Mistral 7B (arXiv 2310.06825, section 2); sinks: StreamingLLM (arXiv 2309.17453).

    >>> sliding_window_mask(4, 4, window=2).int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 (a token sees itself), got {window}")
    causal = causal_mask(q_len, kv_len, device)
    near = causal.triu(kv_len - q_len - window + 1)
    first = torch.arange(kv_len, device=device) < sinks  # (S,)
    return causal & (near | first)


def prefix_mask(q_len: int, kv_len: int, prefix: int | Tensor, device: torch.device | None = None) -> Tensor:
    """Causal, except that all positions may look at the whole prefix (T5's prefix LM).

    prefix   its length, for all texts, giving (T, S); or a length for each text (B,), giving (B, 1, T, S)

    >>> prefix_mask(3, 3, prefix=2).int()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    if isinstance(prefix, Tensor):
        prefix = prefix[:, None, None, None]  # (B, 1, 1, 1)
        device = prefix.device
    return causal_mask(q_len, kv_len, device) | (torch.arange(kv_len, device=device) < prefix)


def padding_mask(attention_mask: Tensor) -> Tensor:
    """(B, S), true where a token stands and false where padding does -> (B, 1, 1, S): nobody looks at padding."""
    return attention_mask.bool()[:, None, None, :]


def document_mask(q_documents: Tensor, kv_documents: Tensor) -> Tensor:
    """(B, T) and (B, S) document numbers -> (B, 1, T, S): texts packed into one row do not see each other.

    >>> document_mask(torch.tensor([[0, 1]]), torch.tensor([[0, 0, 1]])).int()
    tensor([[[[1, 1, 0],
              [0, 0, 1]]]], dtype=torch.int32)
    """
    return (q_documents[:, :, None] == kv_documents[:, None, :])[:, None]
