"""Documents of many lengths into rows of one length: laid end to end and cut, or fitted so that few are cut."""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmkit.training.losses import IGNORE

PADDING = -1  # the number that padding has among the documents
Piece = tuple[int, int, int]  # number of a document, its first token in the row, the one after its last


@dataclass(frozen=True)
class Packed:
    """Rows of one length with the documents in them: tensors (N, T), int64.

    ids         padding at the end of a row is pad_id
    targets     the token that follows in the same document, also where that is in another row; -100 at a document's
                last token, whose successor is another text, and in padding
    documents   number of the document that each token belongs to, -1 in padding, as `Transformer.forward` wants it:
                then no document sees another, and positions start at 0 in each (in the second row of a cut one too)
    n_cut       documents that lie in more than one row, all but the first part without its beginning
    """

    ids: Tensor
    targets: Tensor
    documents: Tensor
    n_cut: int

    @property
    def n_wasted(self) -> int:
        """Tokens of padding, which cost as much as others and teach nothing."""
        return int((self.documents == PADDING).sum())

    @property
    def occupancy(self) -> float:
        """Share of the rows' tokens that are text."""
        return 1 - self.n_wasted / self.ids.numel()


def concatenate(documents: Sequence[Sequence[int]], length: int, pad_id: int = 0) -> Packed:
    """All documents end to end, cut every `length` tokens; only the last row is padded.

    documents   lists of ids, in this order; each with its end token, if there is to be one
    length      T, the tokens in a row

    Raises ValueError for no document, an empty one, and a length below 1.

    >>> packed = concatenate([[1, 2, 3], [4, 5], [6]], length=4)
    >>> packed.ids.tolist(), packed.documents.tolist()
    ([[1, 2, 3, 4], [5, 6, 0, 0]], [[0, 0, 0, 1], [1, 2, -1, -1]])
    >>> packed.targets.tolist(), packed.n_cut
    ([[2, 3, -100, 5], [-100, -100, -100, -100]], 1)
    """
    _check(documents, length)
    rows: list[list[Piece]] = [[]]
    space = length
    for number, document in enumerate(documents):
        start = 0
        while start < len(document):
            if not space:
                rows.append([])
                space = length
            end = min(len(document), start + space)
            rows[-1].append((number, start, end))
            space, start = space - (end - start), end
    return _packed(documents, rows, length, pad_id)


def best_fit(documents: Sequence[Sequence[int]], length: int, pad_id: int = 0) -> Packed:
    """Only documents longer than a row are cut: the longest first, each goes where the least space is left over.

    Best-fit decreasing: documents of more than `length` tokens are first cut into full rows and a rest; then each
    piece, from long to short, goes into the fullest row that can take it, or opens one. Of equal pieces and rows the
    first comes first. Arguments and errors as in `concatenate`; n pieces take O(n (log n + log T)) comparisons.
    Source: Ding et al. 2024, "Fewer truncations improve language modeling" (arXiv 2404.10830), section 3.

    >>> packed = best_fit([[1, 2, 3], [4, 5], [6], [7, 7]], length=4)
    >>> packed.ids.tolist(), packed.n_cut
    ([[1, 2, 3, 6], [4, 5, 7, 7]], 0)
    """
    _check(documents, length)
    pieces = [
        (number, start, min(start + length, len(document)))
        for number, document in enumerate(documents)
        for start in range(0, len(document), length)
    ]
    rows: list[list[Piece]] = []
    with_space: dict[int, deque[int]] = defaultdict(deque)  # space -> numbers of the rows that have just so much
    spaces: list[int] = []  # which spaces there are, sorted
    for piece in sorted(pieces, key=lambda piece: piece[1] - piece[2]):
        size = piece[2] - piece[1]
        at = bisect_left(spaces, size)  # the smallest space that is enough
        if at == len(spaces):
            row, space = len(rows), length
            rows.append([])
        else:
            space = spaces[at]
            row = with_space[space].popleft()
            if not with_space[space]:
                del spaces[at]
        rows[row].append(piece)
        if space - size and not with_space[space - size]:
            insort(spaces, space - size)
        with_space[space - size].append(row)
    return _packed(documents, rows, length, pad_id)


def mark_documents(ids: Tensor, targets: Tensor, eos_id: int) -> tuple[Tensor, Tensor]:
    """What a stretch of tokens lacks until documents are told apart: (targets, documents), both shaped as ids.

    ids         (..., T), rows that documents of any number and length lie in, each followed by eos_id
    targets     (..., T), the tokens that come one later
    eos_id      the token that ends a document, and belongs to it

    The targets come back with -100 at each end token, because what comes next there is another text. documents are
    int64, counted from 0 in each row, 0 also where a row begins in the middle of a document.

    >>> targets, documents = mark_documents(torch.tensor([5, 6, 9, 7, 9]), torch.tensor([6, 9, 7, 9, 8]), eos_id=9)
    >>> targets.tolist(), documents.tolist()
    ([6, 9, -100, 9, -100], [0, 0, 0, 1, 1])
    """
    ends = ids == eos_id  # (..., T)
    return targets.masked_fill(ends, IGNORE), ends.cumsum(-1) - ends.long()


def _check(documents: Sequence[Sequence[int]], length: int) -> None:
    if length < 1:
        raise ValueError(f"a row has at least 1 token, got length {length}")
    if not len(documents):
        raise ValueError("there is no document to pack")
    for number, document in enumerate(documents):
        if not len(document):
            raise ValueError(f"document {number} is empty: leave it out")


def _packed(documents: Sequence[Sequence[int]], rows: list[list[Piece]], length: int, pad_id: int) -> Packed:
    ids = torch.full((len(rows), length), pad_id)
    targets = torch.full((len(rows), length), IGNORE)
    numbers = torch.full((len(rows), length), PADDING)
    lies_in = [0] * len(documents)
    for row, pieces in enumerate(rows):
        at = 0
        for number, start, end in pieces:
            place, after = slice(at, at + end - start), documents[number][start + 1 : end + 1]
            ids[row, place] = torch.as_tensor(documents[number][start:end], dtype=torch.int64)
            targets[row, at : at + len(after)] = torch.as_tensor(after, dtype=torch.int64)
            numbers[row, place] = number
            lies_in[number] += 1
            at = place.stop
    return Packed(ids, targets, numbers, sum(n > 1 for n in lies_in))
