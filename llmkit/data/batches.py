"""From documents to batches of ids."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def pad(documents: Sequence[Sequence[int]], pad_id: int = 0, side: str = "right") -> tuple[Tensor, Tensor]:
    """Lists of ids -> ids (B, T) and attention_mask (B, T) bool, T the longest; padding on the right or the left.

    >>> ids, mask = pad([[5, 6, 7], [8]], side="left")
    >>> ids.tolist(), mask.int().tolist()
    ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]])
    """
    if not documents or not all(len(document) for document in documents):
        raise ValueError("pad needs at least one document, and none may be empty")
    if side not in ("left", "right"):
        raise ValueError(f"side is 'left' or 'right', got {side!r}")
    longest = max(len(document) for document in documents)
    ids = torch.full((len(documents), longest), pad_id)
    mask = torch.zeros(len(documents), longest, dtype=torch.bool)
    for row, document in enumerate(documents):
        place = slice(0, len(document)) if side == "right" else slice(longest - len(document), longest)
        ids[row, place] = torch.tensor(document)
        mask[row, place] = True
    return ids, mask


def document_batches(
    documents: Sequence[Sequence[int]], batch_size: int, seed: int = 0, max_len: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of whole documents, shuffled anew in every epoch; documents of like length share a batch.

    Longer documents than max_len are cut. Sorting by length inside stretches of 16 batches keeps padding to a
    few percent without making batches alike.
    """
    if batch_size < 1 or len(documents) < batch_size:
        raise ValueError(f"{len(documents)} documents do not make a batch of {batch_size}")
    rng = random.Random(seed)
    documents = [document[:max_len] for document in documents]
    while True:
        order = rng.sample(range(len(documents)), len(documents))
        batches = []
        for start in range(0, len(order), 16 * batch_size):
            stretch = sorted(order[start : start + 16 * batch_size], key=lambda i: len(documents[i]))
            batches += [stretch[i : i + batch_size] for i in range(0, len(stretch) - batch_size + 1, batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            yield pad([documents[i] for i in batch])
