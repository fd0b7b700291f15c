"""How well a model follows instructions: its replies, judged by rule, family by family."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from llmkit.data.toyland.instructions import Instruction
from llmkit.evaluation.bootstrap import Interval, bootstrap_interval
from llmkit.finetuning.sft import end_of_turn
from llmkit.generation.generate import generate_batch
from llmkit.tokenizers.base import Tokenizer
from llmkit.tokenizers.chat import encode_chat


class Reply(NamedTuple):
    """What a model wrote, and whether it ended its turn itself or ran into the limit of tokens."""

    text: str
    stopped: bool


class Scores(NamedTuple):
    """Shares of right replies with their 95% intervals, and the share of replies that ended by themselves."""

    families: dict[str, Interval]
    all: Interval
    stop_rate: float


def replies(
    model: nn.Module,
    tokenizer: Tokenizer,
    items: Sequence[Instruction],
    template: str = "chatml",
    max_new_tokens: int = 40,
    batch_size: int = 64,
    **options: Any,
) -> list[Reply]:
    """What the model says to each instruction, greedily unless `options` (generate's) say otherwise.

    template   a key of TEMPLATES; it should be the one that the model was trained with
    """
    prompts = [encode_chat(item.messages, tokenizer, template, prompt=True)[0] for item in items]
    return replies_to(
        model, tokenizer, prompts, end_of_turn(tokenizer, template), max_new_tokens, batch_size, **options
    )


def replies_to(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    end_id: int,
    max_new_tokens: int = 40,
    batch_size: int = 64,
    **options: Any,
) -> list[Reply]:
    """The same for prompts of ids; prompts of like length are run together. A reply is what stands before end_id."""
    found: dict[int, Reply] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        written = generate_batch(model, [prompts[i] for i in some], max_new_tokens, stop_tokens=[end_id], **options)
        for i, ids in zip(some, written, strict=True):
            stopped = bool(ids) and ids[-1] == end_id
            found[i] = Reply(tokenizer.decode(ids[: len(ids) - stopped]), stopped)
    return [found[i] for i in range(len(prompts))]


def score(items: Sequence[Instruction], found: Sequence[Reply], seed: int = 0) -> Scores:
    """How many replies are right, by family and in all; the intervals are `bootstrap_interval`'s.

    Raises ValueError where the numbers of instructions and replies differ, or are 0.
    """
    if len(items) != len(found) or not len(items):
        raise ValueError(f"{len(items)} instructions and {len(found)} replies: one reply to each was expected")
    right = np.array([item.correct(reply.text) for item, reply in zip(items, found, strict=True)])
    of = np.array([item.family for item in items])
    families = {family: bootstrap_interval(right[of == family], seed=seed) for family in dict.fromkeys(of.tolist())}
    return Scores(families, bootstrap_interval(right, seed=seed), float(np.mean([reply.stopped for reply in found])))


def followed(reply: str, rules: dict[str, int | str | list[str]]) -> dict[str, bool]:
    """Which rules a reply keeps, each judged alone, in the order of `rules`; a reply follows a prompt if it keeps all.

    max_words, min_words   at most, at least so many words; words are parted by white space
    ends_with              the reply's last characters, white space at its end not counted
    keywords               every one of these words is there, as a whole word, in capitals or not
    without                none of these words is there, read in the same way
    json_keys              the reply is a JSON object with exactly these keys

    Raises ValueError for another rule. Source: Zhou et al. 2023, "Instruction-following evaluation for large language
    models" (IFEval), which has 25 kinds, and counts both: rules kept, and prompts of which all rules are kept.

    >>> followed("Mia has the lamp. Done.", {"max_words": 4, "ends_with": "Done.", "keywords": ["lamp"]})
    {'max_words': False, 'ends_with': True, 'keywords': True}
    """
    words = {word.lower() for word in re.findall(r"\w+", reply)}
    try:
        value = json.loads(reply)
    except json.JSONDecodeError:
        value = None
    its_keys = set(value) if isinstance(value, dict) else None
    checks = {
        "max_words": lambda n: len(reply.split()) <= n,
        "min_words": lambda n: len(reply.split()) >= n,
        "ends_with": lambda end: reply.rstrip().endswith(end),
        "keywords": lambda wanted: all(word.lower() in words for word in wanted),
        "without": lambda unwanted: not any(word.lower() in words for word in unwanted),
        "json_keys": lambda keys: its_keys == set(keys),
    }
    if unknown := [rule for rule in rules if rule not in checks]:
        raise ValueError(f"there is no rule {unknown[0]!r}; there are {', '.join(checks)}")
    return {rule: checks[rule](value) for rule, value in rules.items()}
