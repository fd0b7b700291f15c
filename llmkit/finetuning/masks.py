"""What is learnt from a conversation: which tokens are the assistant's, and how much each of them counts."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from llmkit.training.losses import IGNORE


def assistant_targets(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    """The target at t is the token at t + 1 where the assistant wrote *that* token, else -100.

    ids, mask   of the same length, as `encode_chat` gives them: mask 1 where the assistant wrote, end of turn included
    result      as many targets; the last is -100, because nothing comes after it

    The first token of an answer is predicted from the last token of the header, so that one has a target.
    Raises ValueError where the lengths differ.

    >>> assistant_targets([7, 8, 5, 6, 9], [0, 0, 1, 1, 0])
    [-100, 5, 6, -100, -100]
    """
    if len(ids) != len(mask):
        raise ValueError(f"{len(ids)} ids and {len(mask)} entries of the mask: each token needs one")
    return [token if mine else IGNORE for token, mine in zip(ids[1:], mask[1:], strict=True)] + [IGNORE] * bool(ids)


def mask_after_header(ids: Sequence[int], header: Sequence[int], end_id: int) -> list[int]:
    """The assistant's mask from ids alone: 1 from behind each header up to the next end of turn, which counts too.

    header   the ids that begin an assistant's turn, in ChatML "<|im_start|>assistant\\n"; not part of the mask
    end_id   the end of a turn; the user's turns have it too, and there it is not the assistant's
    result   as many entries as ids; an answer that is cut off is the assistant's up to the last id

    A header inside an answer is text of the answer. Raises ValueError for an empty header. Where the mask can be made
    with the template, as `encode_chat` does, that is safer: a tokenizer may cut a header differently in its context.

    >>> mask_after_header([1, 7, 5, 9, 1, 8, 6, 6, 9, 4], header=[1, 8], end_id=9)
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]
    """
    ids, header = list(ids), list(header)
    if not header:
        raise ValueError("the header is empty: then nothing tells where the assistant begins")
    mask, at = [0] * len(ids), 0
    while at < len(ids):
        if ids[at : at + len(header)] != header:
            at += 1
            continue
        at += len(header)
        while at < len(ids):
            mask[at], at = 1, at + 1
            if ids[at - 1] == end_id:
                break
    return mask


def packed_targets(ids: Tensor, assistant: Tensor, documents: Tensor) -> Tensor:
    """Targets of rows that are packed already: the next token, where it is the assistant's and of the same document.

    ids         (N, T)
    assistant   (N, T), true or 1 where the assistant wrote; a text that is learnt whole has it everywhere
    documents   (N, T), the number of the document that each token is of; -1 is padding
    result      (N, T) int64, -100 where nothing is learnt: in padding, and at the last token of a document too

    >>> ids, mask = torch.tensor([[5, 6, 7, 8, 0]]), torch.tensor([[0, 1, 1, 1, 0]])
    >>> packed_targets(ids, mask, torch.tensor([[0, 0, 1, 1, -1]])).tolist()
    [[6, -100, 8, -100, -100]]
    """
    learnt = assistant[:, 1:].bool() & (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)  # (N, T - 1)
    return F.pad(ids[:, 1:].masked_fill(~learnt, IGNORE), (0, 1), value=IGNORE)


def loss_weights(targets: Tensor, per: str = "token") -> Tensor:
    """How much each target's -log P counts in the loss: the weights sum to 1.

    targets   (B, T), one conversation a row, -100 where nothing is counted: weight 0
    per       "token": all targets of the batch count alike; "sequence": all conversations do, so that a target counts
              the less, the longer its answer. A row without a target does not count as a conversation.
    result    (B, T) float32

    Raises ValueError where there is no target at all, and for another `per`.

    >>> loss_weights(torch.tensor([[7, 8, 9], [7, -100, -100]]), per="sequence")
    tensor([[0.1667, 0.1667, 0.1667],
            [0.5000, 0.0000, 0.0000]])
    """
    if per not in ("token", "sequence"):
        raise ValueError(f"per is 'token' or 'sequence', got {per!r}")
    counted = (targets != IGNORE).float()
    if not counted.any():
        raise ValueError("every target is -100, so there is nothing to weigh")
    if per == "token":
        return counted / counted.sum()
    of_rows = counted.sum(1, keepdim=True)  # (B, 1)
    return counted / of_rows.clamp(min=1) / (of_rows > 0).sum()
