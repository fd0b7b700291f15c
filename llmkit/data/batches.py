"""From documents to batches of ids."""

import random
from collections.abc import Iterator, Sequence
from numbers import Integral

import torch
from torch import Tensor

from llmkit.training.losses import IGNORE


def pad(
    documents: Sequence[Sequence[int]], pad_id: int = 0, side: str = "right", multiple_of: int = 1
) -> tuple[Tensor, Tensor]:
    """Lists of ids -> ids (B, T) and attention_mask (B, T) bool, T the longest; padding on the right or the left.

    multiple_of   round T up. Libraries have fast kernels for multiples of 8, and prepare each new shape anew: batches
                  of every length are a third slower in bfloat16 on a CPU than those of lengths rounded up to 8

    >>> ids, mask = pad([[5, 6, 7], [8]], side="left")
    >>> ids.tolist(), mask.int().tolist()
    ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]])
    """
    if not documents or not all(len(document) for document in documents):
        raise ValueError("pad needs at least one document, and none may be empty")
    if side not in ("left", "right"):
        raise ValueError(f"side is 'left' or 'right', got {side!r}")
    if multiple_of < 1:
        raise ValueError(f"multiple_of must be at least 1, got {multiple_of}")
    longest = -(-max(len(document) for document in documents) // multiple_of) * multiple_of
    ids = torch.full((len(documents), longest), pad_id)
    mask = torch.zeros(len(documents), longest, dtype=torch.bool)
    for row, document in enumerate(documents):
        place = slice(0, len(document)) if side == "right" else slice(longest - len(document), longest)
        ids[row, place] = torch.tensor(document)
        mask[row, place] = True
    return ids, mask


def document_batches(
    documents: Sequence[Sequence[int]],
    batch_size: int,
    seed: int = 0,
    max_len: int | None = None,
    pad_id: int = 0,
    multiple_of: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of whole documents, shuffled anew in every epoch; documents of like length share a batch.

    Longer documents than max_len are cut. Sorting by length inside stretches of 16 batches keeps padding to a
    few percent without making batches alike; multiple_of is `pad`'s. Raises ValueError for a max_len below 1.
    """
    if max_len is not None and max_len < 1:
        raise ValueError(f"max_len must be at least 1, got {max_len}")
    documents = [document[:max_len] for document in documents]
    for batch in index_batches([len(document) for document in documents], batch_size, seed):
        yield pad([documents[i] for i in batch], pad_id, multiple_of=multiple_of)


def index_batches(lengths: Sequence[int], batch_size: int, seed: int = 0) -> Iterator[list[int]]:
    """Endless batches of numbers of documents: each at most once an epoch, like lengths together.

    What makes no whole batch is left out of that epoch, others in every epoch: it is drawn before sorting by length.
    Raises ValueError for fewer documents than a batch has.
    """
    if batch_size < 1 or len(lengths) < batch_size:
        raise ValueError(f"{len(lengths)} documents do not make a batch of {batch_size}")
    rng = random.Random(seed)
    while True:
        order = rng.sample(range(len(lengths)), len(lengths))
        order = order[: len(order) // batch_size * batch_size]
        batches = []
        for start in range(0, len(order), 16 * batch_size):
            stretch = sorted(order[start : start + 16 * batch_size], key=lambda i: lengths[i])
            batches += [stretch[i : i + batch_size] for i in range(0, len(stretch), batch_size)]
        rng.shuffle(batches)
        yield from batches


def pad_pairs(
    pairs: Sequence[tuple[Sequence[int], Sequence[int] | int]], pad_id: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, labels) pairs -> ids (B, T), attention_mask (B, T), labels padded with -100 (B, T'), or (B,) of numbers.

    >>> ids, mask, labels = pad_pairs([([5, 6], [7]), ([8], [9, 1])])
    >>> ids.tolist(), labels.tolist()
    ([[5, 6], [8, 0]], [[7, -100], [9, 1]])
    """
    ids, mask = pad([ids for ids, _ in pairs], pad_id)
    labels = [labels for _, labels in pairs]
    if isinstance(labels[0], Integral):  # numpy's and True too
        return ids, mask, torch.tensor(labels, dtype=torch.long)
    return ids, mask, pad(labels, IGNORE)[0]


def pair_batches(
    pairs: Sequence[tuple[Sequence[int], Sequence[int] | int]], batch_size: int, seed: int = 0, pad_id: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of `pad_pairs`, shuffled anew in every epoch; texts of like length share a batch."""
    for batch in index_batches([len(ids) for ids, _ in pairs], batch_size, seed):
        yield pad_pairs([pairs[i] for i in batch], pad_id)
