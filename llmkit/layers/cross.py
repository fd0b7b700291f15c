"""Cross-attention: a decoder that also reads another text, through the states its encoder made of it.

    encoder   x ── self-attention ── mlp ──> memory (B, S, C)
                                               │ k, v
    decoder   y ── self-attention ── cross-attention ── mlp ──>

The blocks are those of blocks.py with a third branch between the two.
"""

from collections.abc import Callable

from torch import Tensor, nn

from llmkit.layers.attention import MultiHeadAttention, merge_heads, split_heads
from llmkit.layers.blocks import Rotary
from llmkit.layers.cache import LayerCache
from llmkit.layers.masks import Mask


class CrossAttention(MultiHeadAttention):
    """Queries from the decoder, keys and values from the encoder's memory; no order, no causality."""

    def forward(self, x: Tensor, memory: Tensor, mask: Mask = None, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, C), memory (B, S, C), mask (B, 1, 1, S) of the memory's padding -> (B, T, C).

        With a cache the memory's keys and values are computed once, at the first step: it does not grow.
        """
        q = split_heads(self.q_proj(x), self.n_heads)
        if cache is None or cache.memory is None:
            k = split_heads(self.k_proj(memory), self.n_kv_heads)
            v = split_heads(self.v_proj(memory), self.n_kv_heads)
            if cache is not None:
                cache.memory = k, v
        else:
            k, v = cache.memory
        return self.o_proj(merge_heads(self._attend(q, k, v, mask)))


class PreNormCrossBlock(nn.Module):
    """T5's decoder block: three branches, each reads a normalised copy of x and adds to x itself."""

    def __init__(
        self,
        attn: nn.Module,
        cross_attn: nn.Module,
        mlp: nn.Module,
        norm: Callable[[], nn.Module],
        dropout: float = 0.0,
    ):
        super().__init__()
        self.attn_norm, self.attn = norm(), attn
        self.cross_norm, self.cross_attn = norm(), cross_attn
        self.mlp_norm, self.mlp = norm(), mlp
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        rotary: Rotary,
        cache: LayerCache | None,
        memory: Tensor,
        memory_mask: Mask = None,
    ) -> Tensor:
        x = x + self.dropout(self.attn(self.attn_norm(x), mask, rotary, cache))
        x = x + self.dropout(self.cross_attn(self.cross_norm(x), memory, memory_mask, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class PostNormCrossBlock(nn.Module):
    """The decoder block of the 2017 Transformer and of BART: the sum is normalised after each of the three branches."""

    def __init__(
        self,
        attn: nn.Module,
        cross_attn: nn.Module,
        mlp: nn.Module,
        norm: Callable[[], nn.Module],
        dropout: float = 0.0,
    ):
        super().__init__()
        self.attn, self.attn_norm = attn, norm()
        self.cross_attn, self.cross_norm = cross_attn, norm()
        self.mlp, self.mlp_norm = mlp, norm()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        rotary: Rotary,
        cache: LayerCache | None,
        memory: Tensor,
        memory_mask: Mask = None,
    ) -> Tensor:
        x = self.attn_norm(x + self.dropout(self.attn(x, mask, rotary, cache)))
        x = self.cross_norm(x + self.dropout(self.cross_attn(x, memory, memory_mask, cache)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))
