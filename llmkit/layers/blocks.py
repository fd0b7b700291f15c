"""Three ways to wire attention and MLP around the residual stream x; each has a dataflow of its own.

PreNormBlock                PostNormBlock               ParallelBlock
GPT-2, LLaMA, Mixtral       the 2017 Transformer, BERT  PaLM

x ──┬── norm ── attn ──┐    x ──┬── attn ──┐            x ──┬── norm ─┬─ attn ─┐
    └──────────────────+        └──────────+── norm         │         └─ mlp ──+
  ──┬── norm ── mlp ───┐      ──┬── mlp ───┐                └──────────────────+──
    └──────────────────+──      └──────────+── norm ──
"""

from collections.abc import Callable

from torch import Tensor, nn

from llmkit.layers.cache import LayerCache
from llmkit.layers.masks import Mask

Rotary = tuple[Tensor, Tensor] | None


class PreNormBlock(nn.Module):
    """Each branch reads a normalised copy of x and adds to x itself, which is never normalised on the way."""

    def __init__(self, attn: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module], dropout: float = 0.0):
        super().__init__()
        self.attn_norm, self.attn = norm(), attn
        self.mlp_norm, self.mlp = norm(), mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask = None, rotary: Rotary = None, cache: LayerCache | None = None) -> Tensor:
        x = x + self.dropout(self.attn(self.attn_norm(x), mask, rotary, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class PostNormBlock(nn.Module):
    """The sum is normalised after each branch, so that the residual path itself passes through every norm."""

    def __init__(self, attn: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module], dropout: float = 0.0):
        super().__init__()
        self.attn, self.attn_norm = attn, norm()
        self.mlp, self.mlp_norm = mlp, norm()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask = None, rotary: Rotary = None, cache: LayerCache | None = None) -> Tensor:
        x = self.attn_norm(x + self.dropout(self.attn(x, mask, rotary, cache)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class ParallelBlock(nn.Module):
    """Attention and MLP read the same norm of x and are added at once: one norm, and both can run together."""

    def __init__(self, attn: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module], dropout: float = 0.0):
        super().__init__()
        self.norm, self.attn, self.mlp = norm(), attn, mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask = None, rotary: Rotary = None, cache: LayerCache | None = None) -> Tensor:
        h = self.norm(x)
        return x + self.dropout(self.attn(h, mask, rotary, cache) + self.mlp(h))
