"""What stands on top of an encoder: a guess for every masked token, one label for a text, one for every token."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.layers.heads import Head
from llmkit.layers.mlp import ACTIVATIONS
from llmkit.layers.transformer import Transformer
from llmkit.training.losses import IGNORE, cross_entropy


class TextEncoder(Head):
    """Hidden states of every token, and a pooler that sums a text up in its first token's state (BertModel)."""

    def __init__(self, transformer: Transformer, config: Any):
        super().__init__()
        self.transformer, self.config = transformer, config
        self.pooler = nn.Linear(config.d_model, config.d_model)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """(B, T) -> hidden states (B, T, C); attention_mask (B, T) false for padding, types (B, T) segment numbers."""
        return self.transformer(ids, attention_mask, types=types)

    def pooled(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, C): tanh of a projection of the state of the first token that is no padding."""
        return torch.tanh(self.pooler(first_token(hidden, attention_mask)))


class MaskedLM(Head):
    """Hidden states -> logits for the token at every position: one more layer, then the token table."""

    def __init__(self, transformer: Transformer, config: Any):
        super().__init__()
        self.transformer, self.config = transformer, config
        tokens = transformer.embed.tokens
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, tokens.num_embeddings)
        self.lm_head.weight = tokens.weight

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        types: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """(B, T) -> logits (B, T, V); the arguments are Transformer's."""
        return self.scores(self.transformer(ids, attention_mask, documents=documents, types=types))

    def scores(self, hidden: Tensor) -> Tensor:
        """(..., C) -> logits (..., V), for as many places as are given."""
        return self.lm_head(self.norm(self.activation(self.dense(hidden))))


def masked_loss(model: MaskedLM, ids: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Tensor:
    """`label_loss` of a masked language model, in less time: scores are computed only where something is asked.

    ids (B, T), labels (B, T) with -100 where nothing is asked -> scalar. Raises ValueError when nothing is asked.
    Source: google-research/bert, run_pretraining.py, gather_indexes.
    """
    asked = labels != IGNORE
    hidden = model.transformer(ids, attention_mask)  # (B, T, C)
    return cross_entropy(model.scores(hidden[asked]), labels[asked])


@torch.no_grad()
def fill_mask(
    model: Callable[..., Tensor], ids: Tensor, mask_id: int, k: int = 5, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k most probable tokens for every [MASK], and their probabilities: two tensors (N, k), most probable first.

    Probabilities are computed in float32, also where the logits are not.

    model   (ids, attention_mask) -> logits (B, T, V)
    ids     (B, T) with N places that are mask_id, taken row by row from left to right; N may be 0

    >>> fill_mask(lambda ids, mask: torch.tensor([[[0.0, 9.0, 1.0]] * 2]), torch.tensor([[3, 1]]), mask_id=3, k=2)[0]
    tensor([[1, 2]])
    """
    logits = model(ids, attention_mask)  # (B, T, V)
    probs, tokens = logits[ids == mask_id].float().softmax(-1).topk(k, dim=-1)  # (N, k)
    return tokens, probs


class SequenceClassifier(Head):
    """One label for a text: pool its hidden states to one vector, bend it, score the labels.

    pool   (hidden (B, T, C), attention_mask (B, T) or None) -> (B, C); BERT and RoBERTa take the first token
    """

    def __init__(self, transformer: Transformer, config: Any, pool: Callable[..., Tensor] | None = None):
        super().__init__()
        self.transformer, self.config = transformer, config
        self.pool = pool or first_token
        self.pool_dropout = nn.Dropout(config.pool_dropout)  # 0 in BERT
        self.pooler = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.d_model, len(config.labels))

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """(B, T) -> logits (B, n_labels)."""
        hidden = self.transformer(ids, attention_mask, types=types)
        pooled = torch.tanh(self.pooler(self.pool_dropout(self.pool(hidden, attention_mask))))
        return self.classifier(self.dropout(pooled))


class TokenClassifier(Head):
    """A label for every token: entities, parts of speech."""

    def __init__(self, transformer: Transformer, config: Any):
        super().__init__()
        self.transformer, self.config = transformer, config
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.d_model, len(config.labels))

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """(B, T) -> logits (B, T, n_labels)."""
        return self.classifier(self.dropout(self.transformer(ids, attention_mask, types=types)))


def first_token(hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """(B, T, C) -> (B, C): the state of each text's first token, which padding on the left may precede."""
    if attention_mask is None:
        return hidden[:, 0]
    first = attention_mask.long().argmax(-1)  # (B,) argmax gives the first of equals
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


def mean_pool(hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """(B, T, C) -> (B, C): the mean over each text's tokens, padding left out; zeros for a text of padding alone.

    Source: Reimers and Gurevych 2019 (Sentence-BERT), section 3.
    """
    if attention_mask is None:
        return hidden.mean(1)
    real = attention_mask[..., None].type_as(hidden)  # (B, T, 1)
    return (hidden * real).sum(1) / real.sum(1).clamp(min=1)


def max_pool(hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """(B, T, C) -> (B, C): the largest of each number over the text's tokens; zeros for a text of padding alone."""
    if attention_mask is None:
        return hidden.amax(1)
    real = attention_mask.bool()
    largest = hidden.masked_fill(~real[..., None], -torch.inf).amax(1)
    return largest.masked_fill(~real.any(-1, keepdim=True), 0.0)
