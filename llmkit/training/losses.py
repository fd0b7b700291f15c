"""What training makes smaller. B texts of T tokens, V tokens in the vocabulary."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -100  # a target that is not counted: padding, prompts


def next_token_loss(logits: Tensor, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Mean nats a token of predicting each token from those before it.

    logits          (B, T, V); logits[:, t] predict ids[:, t + 1], so the last ones are not used
    ids             (B, T)
    attention_mask  (B, T), false for padding, which stands on the right and is not counted
    """
    # The targets are moved, not the logits: slicing (B, T, V) costs a copy of it, forward and backward.
    targets = F.pad(ids[:, 1:], (0, 1), value=IGNORE)  # (B, T): the last position has nothing to predict
    if attention_mask is not None:
        targets = targets.masked_fill(~attention_mask.bool().roll(-1, dims=1), IGNORE)
    return cross_entropy(logits, targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log P(target) in nats over the targets that are not -100; computed in float32.

    logits (..., V), targets (...) -> scalar. Raises ValueError when every target is -100, where the mean is 0 / 0, and
    for a target outside 0 … V - 1.
    """
    counted = targets[targets != IGNORE]
    if not len(counted):
        raise ValueError("every target is -100, so there is nothing to take a loss of")
    if counted.min() < 0 or counted.max() >= logits.size(-1):
        raise ValueError(
            f"targets reach from {int(counted.min())} to {int(counted.max())}, but there are logits for "
            f"0 … {logits.size(-1) - 1}: has the model's head as many labels as the data?"
        )
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORE)


class Summed(NamedTuple):
    """Two sums over the counted tokens of a batch, to be divided by their number when all parts are added up."""

    objective: Tensor  # what is made smaller: nats and penalties
    nats: Tensor  # what is reported


def packed_loss(
    model: nn.Module, ids: Tensor, targets: Tensor, documents: Tensor | None = None, z_weight: float = 0.0
) -> Summed:
    """-log P of the targets, summed, for rows that come with their targets: llmkit.data.sampler's.

    ids, targets (B, T), targets with -100 where nothing is counted; documents (B, T) for texts packed into one row.
    z_weight times `z_loss` is added to the objective (PaLM: 1e-4).
    """
    logits = model(ids) if documents is None else model(ids, documents=documents)
    logits, targets = logits.flatten(0, -2).float(), targets.flatten()
    nats = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    if not z_weight:
        return Summed(nats, nats)
    penalties = logits.logsumexp(-1).square().masked_fill(targets == IGNORE, 0.0)
    return Summed(nats + z_weight * penalties.sum(), nats)


def accumulated_gradients(model: nn.Module, parts: Sequence[tuple[Tensor, ...]]) -> tuple[float, list[Tensor]]:
    """One large batch that comes in parts, each small enough for the memory: its loss and its gradients.

    parts   batches as `packed_loss` takes them: (ids, targets) or (ids, targets, documents); targets of -100 are not
            counted, so that parts of one shape may count for very different numbers of tokens

    Gives the mean nats a token over *all* parts, and the gradients of that mean in the order of model.parameters(),
    None for a parameter that has none. So it does not matter how the batch is cut. Earlier gradients are forgotten; the
    new ones stay in p.grad too. Raises ValueError when no token is counted; a part without any is allowed.
    """
    n_tokens = sum(int((part[1] != IGNORE).sum()) for part in parts)
    if n_tokens == 0:
        raise ValueError("no token is counted in any part")
    model.zero_grad()
    total = 0.0
    for part in parts:
        nats = packed_loss(model, *part).nats
        (nats / n_tokens).backward()
        total += nats.item()
    return total / n_tokens, [p.grad for p in model.parameters()]


def shift_right(labels: Tensor, start_id: int, pad_id: int) -> Tensor:
    """What the decoder reads while it learns to write `labels` (B, T): the same, one place later.

    start_id stands first; -100 (padding of the labels) becomes pad_id.

    >>> shift_right(torch.tensor([[5, 6, 1, -100]]), start_id=0, pad_id=0)
    tensor([[0, 5, 6, 1]])
    """
    before = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, pad_id)
    return F.pad(before, (1, 0), value=start_id)


def label_loss(model: nn.Module, ids: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Tensor:
    """cross_entropy of a model that answers every token, (B, T) labels, or every text, (B,): encoders with a head."""
    return cross_entropy(model(ids, attention_mask), labels)


def seq2seq_loss(model: nn.Module, ids: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Tensor:
    """cross_entropy of an encoder-decoder that reads ids (B, S) and writes labels (B, T), given the right beginning.

    That is teacher forcing: every token is guessed from the true ones before it, not from the model's own.
    """
    decoder_ids = shift_right(labels, model.config.start_id, model.config.pad_id)
    return cross_entropy(model(ids, decoder_ids, attention_mask), labels)


def token_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, T, V), (B, T) -> (B, T - 1): log P of each token but the first, given those before it."""
    return logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def z_loss(logits: Tensor) -> Tensor:
    """Mean of log² Z, Z the softmax's denominator: pulls logits to where the denominator is 1.

    PaLM adds 1e-4 of it. Source: Chowdhery et al. 2022, section 5.
    """
    return logits.float().logsumexp(-1).square().mean()
