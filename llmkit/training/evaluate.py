"""Held-out loss in units that can be compared: nats a token, bits a byte."""

import math
import re

import torch
from torch import Tensor, nn

from llmkit.data.sampler import Rows
from llmkit.tokenizers.base import Tokenizer
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.sentencepiece import SentencePiece
from llmkit.training import distributed
from llmkit.training.losses import IGNORE, packed_loss


class Validation:
    """model -> {"validation_loss": nats a token, "bits_per_byte": …} on the first rows of a held-out set.

    rows          Windows, DocumentWindows or PackedRows
    n_rows        of them; None: all
    token_bytes   (V,) of `token_bytes(tokenizer)`; without it there are no bits a byte

    The same rows every time, so that two evaluations differ by the model alone. With several processes each takes
    its share.
    """

    def __init__(self, rows: Rows, batch_size: int, n_rows: int | None = None, token_bytes: Tensor | None = None):
        if batch_size < 1 or not len(rows) or (n_rows is not None and n_rows < 1):
            raise ValueError(
                f"batch_size and n_rows must be at least 1 and there must be rows, got {batch_size}, {n_rows} and "
                f"{len(rows)}"
            )
        self.rows, self.batch_size, self.token_bytes = rows, batch_size, token_bytes
        self.n_rows = min(n_rows or len(rows), len(rows))

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        rank, step = distributed.rank(), self.batch_size * distributed.world_size()
        sums = torch.zeros(3, dtype=torch.float64)  # nats, tokens, bytes
        for start in range(0, self.n_rows, step):
            first = start + rank * self.batch_size
            # A rank that has no row left runs one all the same: FSDP's ranks must gather weights together.
            numbers = list(range(first, min(first + self.batch_size, self.n_rows)))
            batch = [torch.stack(column) for column in zip(*(self.rows[i] for i in numbers or [0]), strict=True)]
            if not numbers:
                batch[1] = torch.full_like(batch[1], IGNORE)
            counted = batch[1][batch[1] != IGNORE]
            if self.token_bytes is not None and len(counted) and counted.max() >= len(self.token_bytes):
                raise ValueError(
                    f"the held-out rows hold the id {int(counted.max())}, the tokenizer ends at "
                    f"{len(self.token_bytes) - 1}: they were written with another"
                )
            n_bytes = self.token_bytes[counted].sum() if self.token_bytes is not None else 0
            nats = packed_loss(model, *(rows.to(device) for rows in batch)).nats
            sums += torch.tensor([float(nats), len(counted), float(n_bytes)], dtype=torch.float64)
        nats, tokens, n_bytes = distributed.all_sum(sums.to(device if device.type == "cuda" else "cpu")).tolist()
        if not tokens:
            raise ValueError(f"the first {self.n_rows} held-out rows have no token to predict")
        figures = {"validation_loss": nats / tokens}
        return figures | ({"bits_per_byte": nats / math.log(2) / n_bytes} if n_bytes else {})


def token_bytes(tokenizer: Tokenizer) -> Tensor:
    """(V,): how many bytes of UTF-8 each id adds to a text; special tokens add none.

    Raises ValueError for a tokenizer whose tokens are not the text itself (WordPiece loses spaces and accents).
    """
    special = set(tokenizer.special_tokens.values())
    if isinstance(tokenizer, ByteLevelBPE):
        lengths = [len(piece) for piece in tokenizer.bytes_of] + [0] * (tokenizer.vocab_size - len(tokenizer.bytes_of))
    elif isinstance(tokenizer, SentencePiece):
        one_byte = re.compile("<0x[0-9A-F]{2}>")
        lengths = [
            1 if one_byte.fullmatch(piece or "") else len((piece or "").replace("▁", " ").encode("utf-8"))
            for piece in tokenizer.pieces
        ]
    else:
        raise ValueError(f"the tokens of a {type(tokenizer).__name__} do not spell the text byte by byte")
    return torch.tensor([0 if i in special else length for i, length in enumerate(lengths)])
