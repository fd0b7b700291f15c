"""All-reduce by hand: n ranks in a ring add up their tensors, and each sends less than twice what it has."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ring_all_reduce(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The sum of all ranks' tensors, on every rank; and how many numbers each rank sent.

    tensors   one a rank, all (N,); they are not changed. Each is cut into n pieces with torch.tensor_split

    Rank r only ever sends to rank r + 1, and the last to the first. In a step all ranks send at the same time, each
    another piece, so that a loop over the ranks does as well. First come n - 1 steps of reduce-scatter: in step
    s = 0, 1, … rank r sends its piece number r - s (modulo n), which the next rank adds to its own. Then rank r holds
    the whole sum of piece r + 1. Then n - 1 steps of all-gather: in step s it sends piece r + 1 - s, and the next rank
    puts that in the place of its own.
    Raises ValueError without a rank. Source: Patarasuk and Yuan 2009.

    >>> sums, sent = ring_all_reduce([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])])
    >>> [x.tolist() for x in sums], sent
    ([[11.0, 22.0], [11.0, 22.0]], [2, 2])
    """
    n = len(tensors)
    if not n:
        raise ValueError("there must be at least 1 rank")
    held = [list(torch.tensor_split(x, n)) for x in tensors]  # held[rank][piece]
    sent = [0] * n
    for step in range(n - 1):
        for r in range(n):
            receiver, piece = held[(r + 1) % n], (r - step) % n
            receiver[piece] = receiver[piece] + held[r][piece]  # a new tensor: the ones given stay as they are
            sent[r] += len(held[r][piece])
    for step in range(n - 1):
        for r in range(n):
            receiver, piece = held[(r + 1) % n], (r + 1 - step) % n
            receiver[piece] = held[r][piece]
            sent[r] += len(held[r][piece])
    return [torch.cat(pieces) for pieces in held], sent
