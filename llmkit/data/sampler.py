"""Which rows of the data make which batch: a function of (seed, number of the batch), so that a run can be resumed.

The batch is global: ranks and accumulation steps take parts of it, and its rows do not depend on how many there are.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.data.hashing import derive, streams
from llmkit.data.packing import Packed, mark_documents
from llmkit.data.shards import TokenShards


class Windows:
    """The rows of one epoch: stretches of `context` tokens, one after the other, over the borders of documents.

    tokens    TokenShards, or ids in memory: list, array or tensor (N,)
    context   T. A row reads T tokens and its targets are the T that come one later, so neighbours share one token,
              the last target being the next row's first input; what is left at the end makes no row.

    `rows[i]` gives ids (T,) and targets (T,), int64. Raises ValueError for fewer than context + 1 tokens.

    >>> rows = Windows([10, 11, 12, 13, 14, 15], context=2)
    >>> [(ids.tolist(), targets.tolist()) for ids, targets in rows]
    [([10, 11], [11, 12]), ([12, 13], [13, 14])]
    """

    def __init__(self, tokens: TokenShards | Sequence[int] | np.ndarray | Tensor, context: int):
        self.data = tokens if isinstance(tokens, TokenShards) else _Ids(tokens)
        self.context = context
        if context < 1 or self.data.n_tokens < context + 1:
            raise ValueError(
                f"{self.data.n_tokens} tokens make no row of context {context}: it takes context + 1, and context >= 1"
            )

    def __len__(self) -> int:
        return (self.data.n_tokens - 1) // self.context

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        start = _row_number(i, len(self)) * self.context
        tokens = torch.from_numpy(self.data.tokens(start, start + self.context + 1).astype(np.int64))
        return tokens[:-1], tokens[1:]

    @property
    def fingerprint(self) -> str:
        return f"{type(self).__name__}({self.data.fingerprint}, {self.context})"


class DocumentWindows(Windows):
    """`Windows` that know where documents end: rows are ids, targets and documents, each (T,) int64.

    documents   number of the text each token belongs to, counted from 0 in each row; its end token belongs to it
    targets     -100 at an end token: what comes next is another document

    A document that a row's border cuts goes on in the next row without its beginning (`packing.best_fit` avoids
    that). Raises ValueError for shards without end tokens.
    """

    def __init__(self, tokens: TokenShards, context: int):
        super().__init__(tokens, context)
        if getattr(tokens, "eos_id", None) is None:
            raise ValueError("documents can be told apart only in TokenShards that were written with an eos_id")

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        ids, targets = super().__getitem__(i)
        return ids, *mark_documents(ids, targets, self.data.eos_id)


class PackedRows:
    """The rows of a `packing.Packed`: ids, targets and documents, each (T,) int64."""

    def __init__(self, packed: Packed):
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        i = _row_number(i, len(self))
        return self.packed.ids[i], self.packed.targets[i], self.packed.documents[i]

    @cached_property
    def fingerprint(self) -> str:
        return _digest(self.packed.ids, self.packed.targets, self.packed.documents)


Rows = Windows | PackedRows


class Sampler:
    """Endless batches of rows, in a new order each epoch, with a cursor that a checkpoint can hold.

    rows         Windows, DocumentWindows or PackedRows
    batch_size   rows in the global batch

    Batch n is rows n * batch_size … of one endless sequence, epoch after epoch: an epoch's last rows may share their
    batch with the first of the next, so that every row comes once an epoch. The order is made by arithmetic on (seed,
    epoch) alone, not by a library's generator: it needs 8 bytes a row, and is the same in every version.

    A step of training:

        for i in range(n_accumulate):
            ids, targets = sampler.next_batch(part=rank * n_accumulate + i, of=world_size * n_accumulate)
            …
        sampler.advance()

    >>> sampler = Sampler(Windows(range(9), context=2), batch_size=3)
    >>> ids, targets = sampler.next_batch()
    >>> ids.shape, sampler.indices().tolist()
    (torch.Size([3, 2]), [0, 2, 3])
    >>> [sampler.indices(part, of=2).tolist() for part in range(2)]
    [[0], [2, 3]]
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int = 0):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not len(rows):
            raise ValueError("there is no row to sample")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.batch = 0  # the number of the batch that next_batch gives

    @property
    def epoch(self) -> float:
        """How many times the data has been read."""
        return self.batch * self.batch_size / len(self.rows)

    def indices(self, part: int = 0, of: int = 1) -> np.ndarray:
        """Numbers of the rows in `next_batch(part, of)`: to see what a batch was made of.

        Raises ValueError for a part that is not 0 … of - 1, and for more parts than rows.
        """
        if not 0 <= part < of <= self.batch_size:
            raise ValueError(
                f"part {part} of {of} was asked for: parts are 0 … {of - 1}, and a batch of {self.batch_size} rows has "
                f"at most {self.batch_size}; with more ranks or accumulation steps, batch_size must grow"
            )
        first = self.batch * self.batch_size
        places = np.arange(first + part * self.batch_size // of, first + (part + 1) * self.batch_size // of)
        epochs, places = np.divmod(places, len(self.rows))
        return np.array([_order(self.seed, int(e), len(self.rows))[p] for e, p in zip(epochs, places, strict=True)])

    def next_batch(self, part: int = 0, of: int = 1) -> tuple[Tensor, ...]:
        """The part-th of `of` slices of the batch under the cursor: ids (B, T), targets (B, T) and what else rows have.

        The slices, joined in order, are the whole batch; they differ in size by one row at most. Asking does not move
        the cursor: `advance` does.
        """
        rows = [self.rows[int(i)] for i in self.indices(part, of)]
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def advance(self, n: int = 1) -> None:
        """Go on to the next batch, or n further: to leave out the batches in which a loss went up."""
        if n < 0:
            raise ValueError(f"cannot go {n} batches forward; load_state_dict goes back")
        self.batch += n

    def state_dict(self) -> dict[str, int | str]:
        """What a checkpoint has to hold; JSON keeps it."""
        return {"batch": self.batch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a state_dict was taken, in a run of any number of ranks.

        Raises ValueError, and goes nowhere, when the data, batch size or seed are not those of the state.
        """
        wrong = [
            f"{name} was {state.get(name)!r} and is {value!r}"
            for name, value in self._identity().items()
            if state.get(name) != value
        ]
        batch = state.get("batch")
        if type(batch) is not int or batch < 0:
            wrong.append(f"batch is {batch!r}, which is no number of a batch")
        if wrong:
            raise ValueError(f"the checkpoint's sampler is another: {'; '.join(wrong)}. Resume with the same data")
        self.batch = batch

    def _identity(self) -> dict[str, int | str]:
        data = {"data": self.rows.fingerprint, "n_rows": len(self.rows)}
        return {**data, "batch_size": self.batch_size, "seed": self.seed}


@lru_cache(maxsize=4)  # the present epoch and the next, in training and evaluation
def _order(seed: int, epoch: int, n_rows: int) -> np.ndarray:
    """The rows' order in an epoch: a permutation (n_rows,), by sorting random numbers."""
    return np.argsort(streams(derive(seed, epoch), n_rows), kind="stable")


class _Ids:
    """Ids in memory, to be read like TokenShards."""

    def __init__(self, ids: Sequence[int] | np.ndarray | Tensor):
        self.ids = np.asarray(ids)
        if self.ids.ndim != 1 or (self.ids.size and self.ids.dtype.kind not in "iu"):
            raise ValueError(f"token ids must be integers (N,), got {self.ids.dtype} {self.ids.shape}")
        self.n_tokens = len(self.ids)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]

    @cached_property
    def fingerprint(self) -> str:
        return _digest(self.ids)


def _digest(*arrays: np.ndarray | Tensor) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype="<i8"))
    return digest.hexdigest()[:32]


def _row_number(i: int, n_rows: int) -> int:
    if not 0 <= i < n_rows:
        raise IndexError(f"row {i} was asked for, but there are {n_rows}")
    return i
