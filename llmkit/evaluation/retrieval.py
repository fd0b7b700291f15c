"""Sentence vectors: texts of like meaning get like directions, so that search is a product of matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.data.batches import pad
from llmkit.layers.encoder_heads import mean_pool
from llmkit.tokenizers.base import Tokenizer


def encode_for_bert(tokenizer: Tokenizer, text: str, max_len: int = 512) -> list[int]:
    """[CLS], the text, [SEP]: what BERT was trained on; a longer text is cut at the end.

    Raises ValueError for max_len below 3, which leaves no room for a token of the text.
    """
    if max_len < 3:
        raise ValueError(f"max_len must be at least 3 ([CLS], one token, [SEP]), got {max_len}")
    special = tokenizer.special_tokens
    return [special["[CLS]"], *tokenizer.encode(text)[: max_len - 2], special["[SEP]"]]


@torch.inference_mode()
def sentence_vectors(
    model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], max_len: int = 256, batch_size: int = 32
) -> Tensor:
    """(N, C): the mean of each text's hidden states, of length 1.

    model   gives hidden states (B, T, C) from ids and attention_mask: a TextEncoder

    Texts of like length are read together, so little padding is read; the order of the result is that of the texts.
    Source: Reimers and Gurevych 2019 (Sentence-BERT), section 3.
    """
    if not texts:
        raise ValueError("sentence_vectors needs at least one text")
    device = next(model.parameters()).device
    ids = [encode_for_bert(tokenizer, text, max_len) for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    vectors = [None] * len(ids)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch, mask = (x.to(device) for x in pad([ids[i] for i in rows]))
        pooled = F.normalize(mean_pool(model(batch, mask), mask).float(), dim=-1)
        for i, vector in zip(rows, pooled, strict=True):
            vectors[i] = vector
    return torch.stack(vectors)


def most_similar(query: Tensor, vectors: Tensor, k: int = 5) -> list[tuple[int, float]]:
    """The k rows of vectors (N, C) nearest in direction to query (C,), best first, with their cosine similarity.

    >>> most_similar(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]), k=1)
    [(1, 1.0)]
    """
    cosine = F.normalize(vectors, dim=-1) @ F.normalize(query, dim=-1)  # (N,)
    best = cosine.topk(min(k, len(vectors)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
