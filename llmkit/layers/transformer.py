"""A stack of blocks between an embedding and a final norm, and the one place where masks are put together."""

from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor, nn

from llmkit.layers.cache import Cache
from llmkit.layers.masks import CAUSAL, Mask, causal_mask, document_mask, padding_mask, sliding_window_mask
from llmkit.layers.rope import RotaryEmbedding


class Embedding(nn.Module):
    """Token ids (B, T) and positions (T,) or (B, T) -> vectors (B, T, C).

    positions   a module from positions to vectors: nn.Embedding(max_len, C) or Sinusoidal(C); None where the
                position enters in attention (RoPE, ALiBi, T5)
    n_types     kinds of segment with a vector of their own (BERT's first and second sentence)
    norm        applied to the sum (BERT, BART)
    scale       multiplies the token vectors before the rest is added (sqrt(C) in the 2017 Transformer)
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        positions: nn.Module | None = None,
        dropout: float = 0.0,
        n_types: int = 0,
        norm: nn.Module | None = None,
        scale: float = 1.0,
    ):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = positions
        self.types = nn.Embedding(n_types, d_model) if n_types else None
        self.norm, self.scale = norm, scale
        self.dropout = nn.Dropout(dropout)

    @property
    def max_len(self) -> int | None:
        """The longest text that a learned table of positions allows; None where there is no limit."""
        if isinstance(self.positions, OffsetEmbedding):
            return self.positions.num_embeddings - self.positions.offset
        return self.positions.num_embeddings if isinstance(self.positions, nn.Embedding) else None

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        x = _look_up(self.tokens, ids, "token ids", "the vocabulary has", "is this another model's tokenizer?")
        if self.scale != 1.0:
            x = x * self.scale
        if self.positions is not None:
            x = x + self.positions(positions).type_as(x)  # Sinusoidal's are float32
        if self.types is not None:
            types = torch.zeros_like(ids) if types is None else types
            x = x + _look_up(self.types, types, "segment numbers", "the model knows", "count them from 0")
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x)


def _look_up(table: nn.Embedding, ids: Tensor, what: str, there_are: str, advice: str) -> Tensor:
    try:
        return table(ids)
    except IndexError:
        raise ValueError(
            f"{what} reach from {int(ids.min())} to {int(ids.max())}, but {there_are} 0 … {table.num_embeddings - 1}: "
            f"{advice}"
        ) from None


class OffsetEmbedding(nn.Embedding):
    """A table of positions whose first rows are not in use: RoBERTa and BART begin to count at 2."""

    def __init__(self, max_len: int, d_model: int, offset: int):
        super().__init__(max_len + offset, d_model)
        self.offset = offset

    def forward(self, positions: Tensor) -> Tensor:
        return super().forward(positions + self.offset)


class Transformer(nn.Module):
    """Embedding, blocks, final norm: ids (B, T) -> hidden states (B, T, C).

    rope            turns q and k in every block (RotaryEmbedding)
    position_bias   (T,), (S,) positions -> (1, H, T, S) added to the scores of every block (Alibi, T5)
    causal          False for encoders
    window          sliding window in tokens; with `sinks` first tokens that stay visible
    dropout         of the hidden states that come out (T5)
    """

    def __init__(
        self,
        embed: Embedding,
        blocks: Sequence[nn.Module],
        norm: nn.Module | None = None,
        rope: RotaryEmbedding | None = None,
        position_bias: nn.Module | None = None,
        causal: bool = True,
        window: int | None = None,
        sinks: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 (a token sees itself), or None for no window, got {window}")
        self.embed, self.blocks, self.norm = embed, nn.ModuleList(blocks), norm or nn.Identity()
        self.rope, self.position_bias = rope, position_bias
        self.causal, self.window, self.sinks = causal, window, sinks
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        types: Tensor | None = None,
        memory: tuple[Tensor, Mask] | tuple[()] = (),
    ) -> Tensor:
        """
        ids             (B, T); with a cache, the tokens that come after those in it
        attention_mask  (B, S) true for tokens, false for padding, over the cached tokens too
        documents       (B, T) number of the text each token belongs to, for several texts packed into one row; padding
                        before a text needs a number of its own
        positions       (T,) or (B, T); by default they count the tokens of each text from 0, padding left out
        types           (B, T) segment numbers, for an embedding that has them; by default all 0
        memory          (states (B, S, C), mask of their padding) from an encoder, for blocks with cross-attention
        """
        start = cache.length if cache is not None else 0
        T, S = ids.size(1), start + ids.size(1)
        self._check(ids, attention_mask, documents, cache)
        if positions is None:
            positions = self._positions(ids, start, attention_mask, documents)
        columns = cache.columns(T, ids.device) if cache is not None else torch.arange(S, device=ids.device)
        mask = self._mask(T, columns, attention_mask, documents)
        x = self.embed(ids, positions, types)
        rotary = self.rope(positions, x.dtype) if self.rope is not None else None
        for block, layer_cache in zip(self.blocks, cache if cache is not None else repeat(None), strict=False):
            x = block(x, mask, rotary, layer_cache, *memory)
        return self.dropout(self.norm(x))

    def _check(self, ids: Tensor, attention_mask: Tensor | None, documents: Tensor | None, cache: Cache | None) -> None:
        if ids.dim() != 2 or ids.size(1) == 0 or ids.is_floating_point():
            raise ValueError(f"ids must be integers (B, T) with T >= 1, got {ids.dtype} {tuple(ids.shape)}")
        S = ids.size(1) + (cache.length if cache is not None else 0)
        if self.embed.max_len is not None and self.embed.max_len < S:
            raise ValueError(f"{S} tokens, but this model has learned {self.embed.max_len} positions: cut the text")
        if attention_mask is not None and tuple(attention_mask.shape) != (ids.size(0), S):
            raise ValueError(
                f"attention_mask must be (B, S) = {(ids.size(0), S)}, cached tokens included, "
                f"got {tuple(attention_mask.shape)}"
            )
        if documents is not None and (cache is not None or documents.shape != ids.shape):
            raise ValueError("documents must have the shape of ids, and packed texts cannot be used with a cache")
        if cache is not None and len(cache) != len(self.blocks):
            raise ValueError(f"a cache for {len(cache)} layers was given to a model of {len(self.blocks)}")
        ring = getattr(cache[0], "window", None) if cache else None
        if ring is not None and (ring != self.window or self.sinks):
            raise ValueError(
                f"a ring cache of {ring} tokens was given to a model with window {self.window} and {self.sinks} sinks: "
                "it needs the same window and no sinks; use another kind"
            )

    def _positions(self, ids: Tensor, start: int, attention_mask: Tensor | None, documents: Tensor | None) -> Tensor:
        """Where each token stands in its own text: (T,), or (B, T) where texts begin at different places."""
        if documents is None:
            return token_positions(ids.size(1), start, attention_mask, ids.device)
        index = token_positions(ids.size(1), device=ids.device)
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        return index - (index * begins).cummax(-1).values

    def _mask(self, T: int, columns: Tensor, attention_mask: Tensor | None, documents: Tensor | None) -> Mask:
        """Causal & window & padding & documents, then the position bias; None or CAUSAL where nothing else is."""
        S, mask = len(columns), None
        plain = attention_mask is None and documents is None and self.position_bias is None
        if self.window is not None and (T > 1 or self.window < S):
            mask = sliding_window_mask(T, S, self.window, self.sinks, columns.device)
            if self.sinks and (attention_mask is not None or documents is not None):  # each text has first tokens
                first = self._positions(columns[None], 0, attention_mask, documents) < self.sinks  # (B, S)
                mask = mask | (causal_mask(T, S, columns.device) & first[:, None, None])
        elif self.causal and T > 1:
            if plain and T == S:
                return CAUSAL
            mask = causal_mask(T, S, columns.device)
        if attention_mask is not None:
            visible = padding_mask(attention_mask[:, columns])
            mask = visible if mask is None else mask & visible
        if documents is not None:
            mask = document_mask(documents, documents) & (True if mask is None else mask)
        if self.position_bias is not None:
            bias = self.position_bias(columns.max() + 1 - torch.arange(T, 0, -1, device=columns.device), columns)
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        return mask


def token_positions(
    n_new: int, start: int = 0, attention_mask: Tensor | None = None, device: torch.device | None = None
) -> Tensor:
    """Where each of the n_new last tokens stands in its own text, counted from 0.

    start           tokens that came before (those in the cache)
    attention_mask  (B, start + n_new) false for padding, which is not counted; a position in padding is 0 if nothing
                    stands before it
    result          (T,) with T = n_new, or (B, T) with a mask, where texts may begin at different places

    >>> token_positions(2, start=3)
    tensor([3, 4])
    >>> token_positions(2, start=1, attention_mask=torch.tensor([[True, True, True], [False, True, True]]))
    tensor([[1, 2],
            [0, 1]])
    """
    if attention_mask is None:
        return torch.arange(start, start + n_new, device=device)
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, start:]


def init_weights(model: nn.Module, n_layers: int | None, std: float = 0.02) -> None:
    """GPT-2's initialisation: normal(0, std), biases 0, and what is added to the residual stream scaled down.

    n_layers   None leaves the last projections at std: with the norm last (BERT) there is no stream that grows

    Each of the 2 n_layers branches adds its share of variance to the stream; dividing the std of their last
    projections by sqrt(2 n_layers) keeps the sum at 1. Source: Radford et al. 2019, section 2.3.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            last = name.endswith(("o_proj", "down_proj"))
            nn.init.normal_(module.weight, std=std / (2 * max(1, n_layers)) ** 0.5 if last and n_layers else std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
