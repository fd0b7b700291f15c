"""Attention: every position asks a question, and takes a weighted mean of the answers.

Shapes in this package: B batch, T query positions, S key positions, C = d_model, H heads, D head_dim.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.layers.cache import LayerCache
from llmkit.layers.masks import CAUSAL, Mask, causal_mask
from llmkit.layers.rope import rotate


def attention_weights(q: Tensor, k: Tensor, mask: Mask = None, scale: float | None = None) -> Tensor:
    """How much each query takes from each key: scores q · k, scaled, masked, through softmax.

    q       (B, H, T, D)
    k       (B, H, S, D)
    mask    broadcastable to (B, H, T, S): boolean, True = may attend; or floating, added to the scores;
            CAUSAL for the triangle of `causal_mask`; None: everything may be seen
    scale   multiplies the scores; None: 1 / sqrt(D)
    result  (B, H, T, S); rows sum to 1, but a row that may look at nothing is all zeros (never NaN)

    The softmax is computed in float32, also for 16-bit input. Source: Vaswani et al. 2017, equation 1.
    """
    scores = q @ k.transpose(-2, -1) * (q.size(-1) ** -0.5 if scale is None else scale)
    if mask is CAUSAL:
        mask = causal_mask(q.size(-2), k.size(-2), q.device)
    if mask is None:
        return scores.float().softmax(-1).type_as(q)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    else:
        scores = scores + mask
    nothing = (scores == -torch.inf).all(-1, keepdim=True)
    weights = scores.float().masked_fill(nothing, 0.0).softmax(-1)
    return weights.masked_fill(nothing, 0.0).type_as(q)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask = None, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention: the mean of the values v (B, H, S, D) under `attention_weights`.

    result  (B, H, T, D). Equal to torch's `scaled_dot_product_attention`, which models use for its speed.
    """
    return attention_weights(q, k, mask, scale) @ v


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask = None, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """`attention` by torch's kernels, which never write the (T, S) weights; k and v may have fewer heads.

    dropout   share of the weights that are set to 0, the others being raised by 1 / (1 - dropout); for training only

    On a CPU two cases write and keep the weights: dropout, and bfloat16 with gradients and CAUSAL, see
    `_causal_attention_bf16`.
    """
    if mask is CAUSAL and q.size(-2) != k.size(-2):  # torch's own triangle would begin at the first key
        mask = causal_mask(q.size(-2), k.size(-2), q.device)
    causal = mask is CAUSAL
    if causal and q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
        return _causal_attention_bf16(q, repeat_kv(k, q.size(1)), repeat_kv(v, q.size(1)), scale, dropout)
    gqa = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(
        q, k, v, None if causal else mask, dropout, is_causal=causal, scale=scale, enable_gqa=gqa
    )


def _causal_attention_bf16(q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout: float) -> Tensor:
    """The triangle by plain products: on a CPU, torch's kernel takes six times as long for bfloat16 gradients.

    Scores are rounded to bfloat16 before the softmax, which torch's kernel does not; k and v have all H heads.
    """
    T = q.size(-2)
    above = torch.full((T, T), -torch.inf, dtype=q.dtype).triu(1)
    scores = (q * (q.size(-1) ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    return F.dropout((scores + above).softmax(-1), dropout) @ v


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D): head h takes the D numbers from h * D on.

    >>> split_heads(torch.arange(6).view(1, 1, 6), 3)[0, :, 0].tolist()
    [[0, 1], [2, 3], [4, 5]]
    """
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D): the way back."""
    return x.transpose(1, 2).flatten(2)


def repeat_kv(x: Tensor, n_heads: int) -> Tensor:
    """(B, KV, S, D) -> (B, H, S, D): each key-value head serves H / KV query heads that stand side by side.

    >>> repeat_kv(torch.tensor([1, 2]).view(1, 2, 1, 1), 4).flatten().tolist()
    [1, 1, 2, 2]
    """
    return x.repeat_interleave(n_heads // x.size(1), dim=1)


def add_sinks(k: Tensor, v: Tensor, mask: Mask, sinks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One more key that holds nothing, with a learned score for each head: a place to look when nothing fits.

    sinks   (H,) scores; k, v (B, H, S, D) with all H heads
    result  k, v with S + 1 keys, the new one last and zero, and a floating mask for them

    Source: transformers gpt_oss `eager_attention_forward`, where the sink is a column of the scores.
    """
    S = k.size(-2)
    T = S if mask is CAUSAL else 1 if mask is None else mask.size(-2)  # one row serves all queries where all see all
    bias = torch.zeros(T, S, dtype=k.dtype, device=k.device)
    if mask is CAUSAL:
        mask = causal_mask(T, S, k.device)
    if mask is not None:
        bias = bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask
    bias = bias.expand(*torch.broadcast_shapes(bias.shape, (1, len(sinks), 1, 1)))
    column = sinks[None, :, None, None].expand(*bias.shape[:-1], 1).type_as(k)
    empty = k.new_zeros(*k.shape[:-2], 1, k.size(-1))
    return torch.cat([k, empty], -2), torch.cat([v, empty], -2), torch.cat([bias, column], -1)


class MultiHeadAttention(nn.Module):
    """Attention with many heads: full (MHA), grouped (GQA) or one key-value head (MQA).

        MHA  q q q q      GQA  q q q q      MQA  q q q q
             | | | |           \\ / \\ /           \\ \\ / /
             k k k k            k   k               k        n_kv_heads = 4, 2, 1

    qk_norm   makes a norm over head_dim for q and for k, applied before rotation (Qwen3)
    sinks     add a learned sink to every head (gpt-oss)
    dropout   of the attention weights, in training: a query then does without some of the keys (GPT-2, BERT)
    """

    recorder: Callable[[Tensor], None] | None = None  # set by viz.record_attention: gets the weights (B, H, T, S)

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        scale: float | None = None,
        qk_norm: Callable[[int], nn.Module] | None = None,
        sinks: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads or n_heads
        if head_dim is None and d_model % n_heads:
            raise ValueError(f"d_model = {d_model} cannot be divided among {n_heads} heads")
        if n_heads % self.n_kv_heads:
            raise ValueError(f"{n_heads} query heads cannot share {self.n_kv_heads} key-value heads equally")
        head_dim = head_dim or d_model // n_heads
        self.scale = head_dim**-0.5 if scale is None else scale
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(d_model, self.n_kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, self.n_kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=bias)
        self.q_norm = qk_norm(head_dim) if qk_norm else None
        self.k_norm = qk_norm(head_dim) if qk_norm else None
        self.sinks = nn.Parameter(torch.zeros(n_heads)) if sinks else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Mask = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); `rotary` is (cos, sin) for the positions of x; the cache holds earlier k, v."""
        q = split_heads(self.q_proj(x), self.n_heads)
        k = split_heads(self.k_proj(x), self.n_kv_heads)
        v = split_heads(self.v_proj(x), self.n_kv_heads)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.update(k, v)
        return self.o_proj(merge_heads(self._attend(q, k, v, mask)))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        dropout = self.dropout.p if self.dropout.training else 0.0
        if self.sinks is None and self.recorder is None:
            return fused_attention(q, k, v, mask, self.scale, dropout)
        k, v = repeat_kv(k, self.n_heads), repeat_kv(v, self.n_heads)
        if self.sinks is not None:
            k, v, mask = add_sinks(k, v, mask, self.sinks)
        if self.recorder is None:
            return fused_attention(q, k, v, mask, self.scale, dropout)
        weights = attention_weights(q, k, mask, self.scale)
        self.recorder(weights)
        return self.dropout(weights) @ v
