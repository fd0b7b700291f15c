"""What stands on top of a Transformer and turns hidden states into an answer."""

from typing import Any

from torch import Tensor, nn

from llmkit.layers.cache import Cache, growing_cache, ring_cache, static_cache
from llmkit.layers.transformer import Transformer


class Head(nn.Module):
    """A whole model: what stands on top of one Transformer or two, with the family's config in `config`."""

    def n_params(self) -> int:
        """Parameters, a tied matrix counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


class CausalLM(Head):
    """Hidden states -> logits for the next token, at every position.

    tie      share the matrix with the token embedding
    config   the family's config: what save_pretrained writes
    """

    def __init__(self, transformer: Transformer, config: Any, tie: bool):
        super().__init__()
        self.transformer, self.config = transformer, config
        tokens = transformer.embed.tokens
        self.lm_head = nn.Linear(tokens.embedding_dim, tokens.num_embeddings, bias=False)
        if tie:
            self.lm_head.weight = tokens.weight

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """(B, T) -> logits (B, T, V), or (B, 1, V) with last_only; the other arguments are Transformer's."""
        x = self.transformer(ids, attention_mask, cache, documents, positions)
        return self.lm_head(x[:, -1:] if last_only else x)

    def new_cache(self, max_len: int | None = None) -> Cache:
        """An empty cache: a ring for a model with a sliding window, static with max_len, else growing."""
        n_layers, window = len(self.transformer.blocks), self.transformer.window
        if window is not None and not self.transformer.sinks:
            return ring_cache(n_layers, window)
        return growing_cache(n_layers) if max_len is None else static_cache(n_layers, max_len)
