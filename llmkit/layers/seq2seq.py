"""Encoder and decoder together: p(answer | text)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.layers.cache import Cache, growing_cache, static_cache
from llmkit.layers.heads import Head
from llmkit.layers.masks import Mask, padding_mask
from llmkit.layers.transformer import Transformer


class Seq2SeqLM(Head):
    """An encoder that reads a text, and a decoder that writes another while looking at it.

    tie     share the output matrix with the token embedding, which encoder and decoder share in any case
    scale   multiplies the decoder's states before the output matrix (T5 1.0: d_model ** -0.5)
    bias    a constant vector is added to the logits (BART's final_logits_bias: stored with the model, not trained)
    """

    def __init__(
        self, encoder: Transformer, decoder: Transformer, config: Any, tie: bool, scale: float = 1.0, bias: bool = False
    ):
        super().__init__()
        self.encoder, self.decoder, self.config, self.scale = encoder, decoder, config, scale
        tokens = decoder.embed.tokens = encoder.embed.tokens
        self.lm_head = nn.Linear(tokens.embedding_dim, tokens.num_embeddings, bias=False)
        if tie:
            self.lm_head.weight = tokens.weight
        self.register_buffer("logits_bias", torch.zeros(tokens.num_embeddings) if bias else None)

    def forward(
        self,
        ids: Tensor,
        decoder_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_mask: Tensor | None = None,
    ) -> Tensor:
        """The text (B, S) and the answer so far (B, T) -> logits for the answer's next token (B, T, V).

        Masks are true for tokens and false for padding, (B, S) and (B, T). For training, decoder_ids is the answer
        shifted right (training.losses.shift_right).
        """
        return self.given(ids, attention_mask)(decoder_ids, decoder_mask)

    def given(self, ids: Tensor, attention_mask: Tensor | None = None) -> "ConditionalLM":
        """Read the text once: what comes back is a causal language model of its answer, for `generate` and others."""
        memory = self.encoder(ids, attention_mask)
        return ConditionalLM(self, memory, None if attention_mask is None else padding_mask(attention_mask))


class ConditionalLM:
    """A Seq2SeqLM that has read its input: called as a CausalLM is, so that every way to generate works for both.

    memory   (B, S, C) from the encoder; rows of ids may be a multiple of B (beams), those of one text side by side
    """

    def __init__(self, model: Seq2SeqLM, memory: Tensor, memory_mask: Mask = None):
        self.model, self.memory, self.memory_mask = model, memory, memory_mask
        self._for_beams = 1, memory, memory_mask

    def __call__(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """The answer so far (B, T) -> logits (B, T, V), or (B, 1, V) with last_only."""
        n_beams = len(ids) // max(1, len(self.memory))  # of no text too: an empty batch has an empty answer
        if len(ids) != n_beams * len(self.memory):
            raise ValueError(f"{len(ids)} answers cannot be shared equally among {len(self.memory)} texts")
        memory, memory_mask = self._for(n_beams)
        x = self.model.decoder(ids, attention_mask, cache, memory=(memory, memory_mask))
        logits = self.model.lm_head((x[:, -1:] if last_only else x) * self.model.scale)
        return logits if self.model.logits_bias is None else logits + self.model.logits_bias

    def _for(self, n_beams: int) -> tuple[Tensor, Mask]:
        if n_beams != self._for_beams[0]:  # repeated once, not for every token
            mask = None if self.memory_mask is None else self.memory_mask.repeat_interleave(n_beams, 0)
            self._for_beams = n_beams, self.memory.repeat_interleave(n_beams, 0), mask
        return self._for_beams[1:]

    def new_cache(self, max_len: int | None = None) -> Cache:
        """An empty cache for the answer, static with max_len, else growing."""
        n_layers = len(self.model.decoder.blocks)
        return growing_cache(n_layers) if max_len is None else static_cache(n_layers, max_len)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's parameters: where it lives, and in what dtype."""
        return self.model.parameters()
