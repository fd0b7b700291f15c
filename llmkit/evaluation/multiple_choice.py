"""Questions with given answers: which one does the model find most probable, and what is that divided by?

A long text is less probable than a short one because it is long, so rules divide, each by something else; and which
rule is best hangs on how the wrong answers were made. Source: lm-evaluation-harness, `lm_eval/api/task.py`
(`process_results`: acc is the sum, acc_norm divides by characters, acc_bytes by bytes, acc_mutual_info subtracts what
the answer has without its context); by tokens: Brown et al. 2020 (GPT-3), section 2.4.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmkit.data.batches import pad
from llmkit.tokenizers.base import Tokenizer


class Scored(NamedTuple):
    """An answer's log P (nats) after its context, its length, and its log P at the beginning of a text."""

    log_prob: float
    n_tokens: int
    n_bytes: int
    unconditional: float


RULES: dict[str, Callable[[Scored], float]] = {
    "sum": lambda answer: answer.log_prob,
    "token": lambda answer: answer.log_prob / answer.n_tokens,
    "byte": lambda answer: answer.log_prob / answer.n_bytes,
    "unconditional": lambda answer: answer.log_prob - answer.unconditional,
}


def continuation_log_probs(logits: Tensor, ids: Tensor, start: int) -> Tensor:
    """log P (nats) of each token from place `start` on, given all before it.

    logits   (T, V): row t is about the token that comes *after* token t
    ids      (T,)
    start    how many tokens the context has, 1 … T
    result   (T - start,) float32; empty for start = T

    Raises ValueError for a start outside 1 … T: the first token of all has nothing before it, so no row is about it.

    >>> continuation_log_probs(torch.tensor([[0.0, 9.0], [0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1, 0]), 2)
    tensor([-0.6931])
    """
    if not 1 <= start <= len(ids):
        raise ValueError(f"the context must have from 1 to {len(ids)} tokens, got {start}")
    log_probs = logits[start - 1 : len(ids) - 1].float().log_softmax(-1)  # (T - start, V)
    return log_probs.gather(-1, ids[start:, None]).squeeze(-1)


@torch.no_grad()
def score_choices(
    model: nn.Module, tokenizer: Tokenizer, context: str, choices: Sequence[str], start_id: int
) -> list[Scored]:
    """Score each answer after the context, and alone.

    choices    texts that follow the context directly: they begin with a space where one belongs there
    start_id   the token that stands before every text, such as the end of the one before

    Context and answer are cut into tokens apart (lm-evaluation-harness cuts both together and takes what is left after
    the context): the same wherever no token reaches across. Raises ValueError for no choices or an empty one.
    """
    if not choices or not all(choices):
        raise ValueError("a question needs choices, and each at least one character")
    answers = [tokenizer.encode(choice) for choice in choices]
    sums = []
    for before in ([start_id, *tokenizer.encode(context)], [start_id]):
        ids, _ = pad([before + answer for answer in answers])  # (K, T); what stands right of an answer changes nothing
        for logits, row, answer in zip(model(ids), ids, answers, strict=True):
            n = len(before) + len(answer)
            sums.append(float(continuation_log_probs(logits[:n], row[:n], len(before)).sum()))
    return [
        Scored(sums[k], len(answer), len(choices[k].encode("utf-8")), sums[len(choices) + k])
        for k, answer in enumerate(answers)
    ]


def choose(answers: Sequence[Scored], rule: str = "sum") -> int:
    """The number of the answer that a rule of RULES prefers; of equal ones the first.

    Raises ValueError for another rule, for no answers and for one whose score is NaN.

    >>> answers = [Scored(-6.0, 3, 12, -6.0), Scored(-4.0, 1, 4, -7.0)]
    >>> [choose(answers, rule) for rule in RULES]
    [1, 0, 0, 1]
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(RULES)}")
    if not answers:
        raise ValueError("there are no answers to choose from")
    scores = [RULES[rule](answer) for answer in answers]
    if any(map(math.isnan, scores)):
        raise ValueError(f"the scores by {rule!r} have NaN among them: {scores}")
    return max(range(len(scores)), key=scores.__getitem__)
