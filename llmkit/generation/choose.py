"""Choose among given answers instead of writing one: the probability of each, as a whole text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llmkit.data.batches import pad
from llmkit.layers.seq2seq import Seq2SeqLM
from llmkit.training.losses import IGNORE, shift_right


def answer_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log P of whole answers, in nats: the sum over their tokens, in float32.

    logits  (B, T, V); logits[:, t] predict labels[:, t]
    labels  (B, T); -100 is padding and does not count. An answer that is all padding has log P 0.
    result  (B,)

    >>> answer_log_probs(torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]).log(), torch.tensor([[1, 0]])).exp()
    tensor([0.1250])
    """
    counted = labels != IGNORE
    log_probs = logits.float().log_softmax(-1)  # (B, T, V)
    of_labels = log_probs.gather(-1, labels.masked_fill(~counted, 0)[..., None]).squeeze(-1)  # (B, T)
    return of_labels.masked_fill(~counted, 0.0).sum(-1)


@torch.no_grad()
def score_answers(
    model: Seq2SeqLM, ids: Tensor, attention_mask: Tensor | None, answers: Sequence[Sequence[int]]
) -> Tensor:
    """log P of each of N answers to each of B texts, (B, N); argmax(-1) is the model's choice among them.

    ids, attention_mask  (B, S) texts
    answers              N lists of ids, the end token among them: else "A" is never less probable than "A B"
    """
    labels, real = pad(answers)
    labels = labels.masked_fill(~real, IGNORE).to(ids.device)  # (N, T)
    decoder_ids = shift_right(labels, model.config.start_id, model.config.pad_id)
    B, N = len(ids), len(labels)
    logits = model.given(ids, attention_mask)(decoder_ids.repeat(B, 1))  # (B * N, T, V), a text's answers side by side
    return answer_log_probs(logits, labels.repeat(B, 1)).unflatten(0, (B, N))
