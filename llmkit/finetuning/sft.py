"""Supervised fine-tuning (SFT): conversations become ids and targets, and only what the assistant wrote is learnt.

    conversations -> encode_conversations -> batches of like lengths, or rows packed full -> sft_loss -> training.loop

The loss is L = -1/N Σ log p(token | all before it) over the N tokens of the assistant in the whole batch, its end of
turn among them. B rows of T tokens.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from llmkit.data.batches import index_batches, pad
from llmkit.data.packing import Packed, best_fit
from llmkit.finetuning.masks import assistant_targets
from llmkit.layers.heads import CausalLM
from llmkit.tokenizers.base import Tokenizer
from llmkit.tokenizers.chat import Message, encode_chat
from llmkit.training.losses import IGNORE, cross_entropy


class Encoded(NamedTuple):
    """A conversation: its ids, and for each the token that is to be written next, -100 where nothing is learnt."""

    ids: list[int]
    targets: list[int]


def encode_conversations(
    conversations: Sequence[Sequence[Message]],
    tokenizer: Tokenizer,
    template: str = "chatml",
    max_len: int | None = None,
    too_long: str = "error",
    on_prompt: bool = False,
) -> list[Encoded]:
    """Ids and targets of every conversation, checked.

    template    a key of llmkit.tokenizers.chat.TEMPLATES
    max_len     the model's context in tokens
    too_long    "error", or "drop" to leave longer conversations out; none is ever cut, because what is cut off is the
                end of the answer
    on_prompt   learn the user's words and the headers too: the control that lesson 16 compares with

    Raises ValueError, with the number of the conversation, for one without an assistant's message, with an empty
    message or an unknown role, or longer than max_len (by how much); for a template whose assistant has no end of
    turn; and where nothing is left.
    """
    if too_long not in ("error", "drop"):
        raise ValueError(f"too_long is 'error' or 'drop', got {too_long!r}")
    found = []
    for number, messages in enumerate(conversations):
        try:
            ids, mask = _encode(messages, tokenizer, template)
        except ValueError as error:
            raise ValueError(f"conversation {number}: {error}") from None
        if max_len is not None and len(ids) > max_len:
            if too_long == "drop":
                continue
            raise ValueError(
                f"conversation {number} has {len(ids)} tokens, {len(ids) - max_len} more than the context of {max_len}"
                ": shorten it, or leave such out with too_long='drop'"
            )
        found.append(Encoded(ids, assistant_targets(ids, [1] * len(ids) if on_prompt else mask)))
    if not found:
        raise ValueError(f"of {len(conversations)} conversations none is left to learn from")
    return found


def _encode(messages: Sequence[Message], tokenizer: Tokenizer, template: str) -> tuple[list[int], list[int]]:
    ids, mask = encode_chat(messages, tokenizer, template)
    for i, message in enumerate(messages):
        if not message["content"].strip():
            raise ValueError(f"message {i}, from {message['role']!r}, is empty: leave the conversation out")
    if not any(mask):
        raise ValueError("no message is from the assistant, so there is nothing to learn")
    ends = set(tokenizer.special_tokens.values())
    for t, mine in enumerate(mask):
        if mine and not (t + 1 < len(mask) and mask[t + 1]) and ids[t] not in ends:
            raise ValueError(
                f"the template {template!r} does not end the assistant's turn with a control token of the assistant's: "
                "a model trained so would never stop"
            )
    return ids, mask


def end_of_turn(tokenizer: Tokenizer, template: str = "chatml") -> int:
    """The id of the token that ends the assistant's turn: where generation stops.

    Raises ValueError for a template that has none.
    """
    ids, mask = _encode([{"role": r, "content": "a"} for r in ("user", "assistant")], tokenizer, template)
    return max((t, token) for t, (token, mine) in enumerate(zip(ids, mask, strict=True)) if mine)[1]


def collate(examples: Sequence[Encoded], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Examples side by side -> ids (B, T) filled with pad_id on the right, targets (B, T) filled with -100.

    What is padding is known from the lengths and never from the ids: pad_id may be a token that texts have too, such
    as the end of turn, whose real targets must stay.

    >>> ids, targets = collate([Encoded([5, 6, 9], [6, 9, -100]), Encoded([5], [-100])], pad_id=9)
    >>> ids.tolist(), targets.tolist()
    ([[5, 6, 9], [5, 9, 9]], [[6, 9, -100], [-100, -100, -100]])
    """
    ids, _ = pad([example.ids for example in examples], pad_id)
    targets, _ = pad([example.targets for example in examples], IGNORE)
    return ids, targets


def conversation_batches(
    examples: Sequence[Encoded], batch_size: int, seed: int = 0, pad_id: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of `collate`, shuffled anew in every epoch; conversations of like length share a batch."""
    for batch in index_batches([len(example.ids) for example in examples], batch_size, seed):
        yield collate([examples[i] for i in batch], pad_id)


def pack(examples: Sequence[Encoded], length: int, pad_id: int = 0) -> Packed:
    """Conversations fitted whole into rows of `length` tokens; with `documents` none of them sees another.

    Raises ValueError for a conversation longer than a row: its second part would not have its beginning.
    """
    longest = max(len(example.ids) for example in examples) if examples else 0
    if longest > length:
        raise ValueError(f"a conversation has {longest} tokens and a row {length}: make rows longer or leave it out")
    rows = best_fit([example.ids for example in examples], length, pad_id)
    # Where a text goes depends on lengths alone, so the targets come to lie exactly under their ids.
    targets = best_fit([example.targets for example in examples], length, IGNORE).ids
    return Packed(rows.ids, targets, rows.documents, rows.n_cut)


def packed_batches(packed: Packed, batch_size: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of packed rows: ids, targets and documents (B, T), shuffled anew in every epoch."""
    for batch in index_batches([packed.ids.size(1)] * len(packed.ids), batch_size, seed):
        yield packed.ids[batch], packed.targets[batch], packed.documents[batch]


def sft_loss(model: CausalLM, ids: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
    """Mean nats a target over the whole batch: what `training.loop.train` takes as `loss`.

    Logits are computed only where there is a target, often one place in eight; the value and its gradients are those of
    `training.losses.packed_loss` divided by the number of targets. A batch that does not fit into memory in one piece
    goes through `accumulated_gradients` there. Raises ValueError for a batch without a target.
    """
    counted = targets != IGNORE  # (B, T)
    if not counted.any():
        raise ValueError("every target of the batch is -100, so there is nothing to learn")
    hidden = model.transformer(ids) if documents is None else model.transformer(ids, documents=documents)
    return cross_entropy(model.lm_head(hidden[counted]), targets[counted])  # (N, V), (N,)
