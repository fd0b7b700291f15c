"""Small pretraining runs in toyland's village, for questions about data and schedules that a laptop can answer.

One small LLaMA-like model, whole stories packed into rows, the real trainer. benchmarks/results/pretraining.py runs
them many times and keeps what comes out in llmkit/results/; lesson 13 repeats a small part and compares.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmkit.data import toyland
from llmkit.data.packing import best_fit
from llmkit.data.sampler import PackedRows, Sampler
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.evaluate import Validation
from llmkit.training.muon import Muon
from llmkit.training.schedules import warmup_cosine, warmup_stable_decay
from llmkit.training.settings import Settings
from llmkit.training.trainer import Trainer

START = "<start>"
CONTEXT, BATCH = 128, 4  # tokens in a row, rows in a batch
HELD_OUT = 48  # stories to measure on
LR, WARMUP = 0.04, 10  # Muon's rate, and half of it for embeddings and norms; steps


class Village(NamedTuple):
    """Stories as ids: <start>, the words, toyland's end token."""

    vocabulary: list[str]
    texts: tuple[str, ...]
    train: list[list[int]]
    held_out_texts: tuple[str, ...]
    held_out: list[list[int]]

    @property
    def token_bytes(self) -> Tensor:
        """(V,): bytes of UTF-8 that each token adds to a text; none for the two special ones."""
        special = (START, toyland.END)
        return torch.tensor([0 if token in special else len(token.encode("utf-8")) for token in self.vocabulary])


@cache
def village() -> Village:
    """About 1,300 stories to train on, 48 to measure on, none in both."""
    corpus = toyland.corpus(train_bytes=700_000, validation_bytes=40_000, world=toyland.VILLAGE)
    texts, held_out = corpus.train, corpus.validation[:HELD_OUT]
    words = sorted({token for text in texts + held_out for token in toyland.split(text)})
    vocabulary = [START, toyland.END, *words]
    id_of = {token: i for i, token in enumerate(vocabulary)}

    def ids(text: str) -> list[int]:
        return [id_of[token] for token in (START, *toyland.split(text), toyland.END)]

    return Village(vocabulary, texts, [ids(text) for text in texts], held_out, [ids(text) for text in held_out])


def entropy(n: int = HELD_OUT) -> float:
    """Nats a token of the perfect model on the first n held-out stories: what no model can be below."""
    texts = village().held_out_texts[:n]
    nats = -math.fsum(toyland.VILLAGE.log_prob(text) for text in texts)
    return nats / sum(len(toyland.split(text)) + 1 for text in texts)


def fresh(n_tokens: int) -> list[list[int]]:
    """The first training stories that have so many tokens together (the last may go beyond).

    Raises ValueError for more than there are.
    """
    stories, total = [], 0
    for story in village().train:
        if total >= n_tokens:
            return stories
        stories.append(story)
        total += len(story)
    if total < n_tokens:
        raise ValueError(f"the village's stories have {total} tokens, {n_tokens} were asked for")
    return stories


def new_trainer(
    stories: Sequence[Sequence[int]], schedule: Callable[[int], float], n_steps: int, seed: int = 0,
    folder: str | Path | None = None, evaluate_every: int = 0, save_every: int = 0,
) -> Trainer:  # fmt: skip
    """A model of 56,000 parameters about to read these stories; the seed is that of weights and order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = llama(LlamaConfig(len(village().vocabulary), 32, n_layers=2, n_heads=2, d_ff=64, tie=True))
        torch.nn.init.normal_(model.transformer.embed.tokens.weight, std=0.2)  # see lesson 05
    held_out = PackedRows(best_fit(village().held_out, 256))  # longer than the longest story: none is cut
    return Trainer(
        model, Muon(model, LR, adamw_lr=LR / 2), Sampler(PackedRows(best_fit(stories, CONTEXT)), BATCH, seed), schedule,
        Settings(n_steps, seed=seed, log_every=1, evaluate_every=evaluate_every, save_every=save_every, keep=100),
        folder, Validation(held_out, 8, token_bytes=village().token_bytes), progress=False,
    )  # fmt: skip


def curves(trainer: Trainer) -> dict[str, list]:
    """What its log says: one training loss a step, and the held-out losses as [step, nats a token]."""
    lines = trainer.log.lines
    held_out = [[line["step"], line["validation_loss"]] for line in lines if "validation_loss" in line]
    return {"losses": [line["loss"] for line in lines if "loss" in line], "held_out": held_out}


def repeated(times: int, n_steps: int = 300, seed: int = 0) -> Trainer:
    """A run that reads as many tokens whatever `times` is, from 1 / times as many different stories."""
    stories = fresh(n_steps * BATCH * CONTEXT // times)
    return new_trainer(stories, cosine(n_steps), n_steps, seed, evaluate_every=n_steps // 5)


def cosine(n_steps: int, lr: float = LR, floor: float = 0.1) -> Callable[[int], float]:
    """warmup_cosine of a run of this length."""
    return lambda step: warmup_cosine(step, n_steps, lr, WARMUP, floor)


def stable_decay(n_steps: int, lr: float = LR, share: float = 0.2) -> Callable[[int], float]:
    """warmup_stable_decay of a run of this length, the way down being the last `share` of it."""
    return lambda step: warmup_stable_decay(step, n_steps, lr, WARMUP, round(share * n_steps))


def one_run_many_lengths(lengths: Sequence[int], seed: int = 0, lr: float = LR, share: float = 0.2) -> dict[int, dict]:
    """WSD: one plateau, left at (1 - share) of each length for the way down; length -> `curves` of that run.

    Lengths ascend. Each branch begins at a checkpoint of the plateau, read back from a temporary folder.
    """
    found: dict[int, dict] = {}
    stories, last = village().train, lengths[-1]
    with tempfile.TemporaryDirectory() as folder:
        plateau = new_trainer(stories, stable_decay(last, lr, share), last, seed, folder)
        for length in lengths:
            plateau.fit(until=length - round(share * length))
            plateau.save()
        for length in reversed(lengths):  # resume drops what the log has of later steps
            branch = new_trainer(stories, stable_decay(length, lr, share), length, seed, folder)
            branch.resume(length - round(share * length))
            branch.folder = branch.log.path = None  # nothing of a branch is to be found by the next
            branch.fit()
            found[length] = curves(branch)
    return {length: found[length] for length in lengths}


def many_runs(lengths: Sequence[int], seed: int = 0, lr: float = LR, floor: float = 0.1) -> dict[int, dict]:
    """The control: a cosine run from the beginning for each length; length -> `curves`."""
    found = {}
    for length in lengths:
        trainer = new_trainer(village().train, cosine(length, lr, floor), length, seed)
        trainer.fit()
        found[length] = curves(trainer)
    return found


def measured(run: dict[str, Any]) -> float:
    """The last held-out loss of `curves`."""
    return run["held_out"][-1][1]
