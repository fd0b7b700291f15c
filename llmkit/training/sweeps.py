"""One trained point of a sweep, small enough for a laptop: stories of the village, LLaMA-like models of one depth.

The scripts in benchmarks/results/ call these functions many times and keep what comes out in llmkit/results/; a lesson
calls them once or twice and compares. Every story is read once (the source never runs dry), so that D counts fresh
tokens, and every story stands whole in its row, so that the village's entropy is the line that no model can cross.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache, partial
from itertools import count, islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.data import toyland
from llmkit.data.batches import index_batches, pad
from llmkit.layers.transformer import init_weights
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.flops import training_flops
from llmkit.training.loop import History, train
from llmkit.training.losses import next_token_loss
from llmkit.training.muon import Muon, split_parameters
from llmkit.training.mup import mup
from llmkit.training.optim import AdamW, decay_groups

START, UNKNOWN = "<start>", "<unknown>"
CHUNK = 128  # stories that are written at once and share batches by length
N_LAYERS, N_HEADS, BASE_WIDTH = 2, 4, 64
STD = 0.1  # of all matrices at BASE_WIDTH: GPT-2's 0.02 is for 768 numbers, and starts a narrow model too small
WARMUP = 0.2  # share of the steps


def config(width: int) -> LlamaConfig:
    """Two layers, four heads, a gated MLP of 3 * width, tied embeddings."""
    return LlamaConfig(len(vocabulary()), width, N_LAYERS, N_HEADS, d_ff=3 * width, max_len=512, tie=True)


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Word -> id: the words of the first 2,048 stories and of the held-out ones; what comes later is <unknown>."""
    stories = [text for chunk in range(16) for text in written(0, chunk)] + list(held_out())
    words = sorted({token for text in stories for token in toyland.split(text)})
    return {token: i for i, token in enumerate([START, toyland.END, UNKNOWN, *words])}


@cache
def written(seed: int, chunk: int) -> tuple[str, ...]:
    """Stories number 128 * chunk … of the endless stream called `seed`."""
    rng = random.Random(f"{seed}, {chunk}")
    return tuple(toyland.VILLAGE.sample(rng).text for _ in range(CHUNK))


def held_out(n: int = 400) -> tuple[str, ...]:
    """The first n of 400 stories that no stream holds, to measure on."""
    return tuple(text for chunk in range(-4, 0) for text in written(-1, chunk))[:n]


def encode(text: str) -> list[int]:
    """<start>, the words, <end>: one target for each number in World.word_log_probs."""
    ids = vocabulary()
    return [ids[START], *(ids.get(token, ids[UNKNOWN]) for token in toyland.split(text)), ids[toyland.END]]


@cache
def _chunk_batches(seed: int, chunk: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    documents = [encode(text) for text in written(seed, chunk)]
    order = index_batches([len(document) for document in documents], batch_size, seed=chunk)
    return [pad([documents[i] for i in batch]) for batch in islice(order, CHUNK // batch_size)]


def batches(batch_size: int = 8, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, attention_mask) of stories that are each read once; batch_size divides 128."""
    for chunk in count():
        yield from _chunk_batches(seed, chunk, batch_size)


def steps_for(budget: float, sizes: LlamaConfig, batch_size: int = 8, seed: int = 0) -> tuple[int, int, int]:
    """How many batches it takes until a training budget in FLOPs is spent: steps, predicted tokens, FLOPs.

    FLOPs are counted batch by batch, with padding, by `training_flops`.
    """
    spent, tokens = 0, 0
    for step, (ids, mask) in enumerate(batches(batch_size, seed), start=1):
        spent += ids.size(0) * training_flops(sizes, ids.size(1))
        tokens += int(mask[:, 1:].sum())
        if spent >= budget:
            return step, tokens, spent


def build(width: int, parametrization: str = "mup", seed: int = 0) -> tuple[nn.Module, list[dict]]:
    """A model and AdamW's groups, in the standard parametrisation ("sp") or muP ("mup"), the same at BASE_WIDTH.

    Both start a matrix inside blocks at a std of 1 / sqrt(width), so that they differ in what muP adds: its learning
    rates, its output multiplier and its scale of scores. Nothing decays.
    """
    if parametrization not in ("sp", "mup"):
        raise ValueError(f"parametrization is 'sp' or 'mup', got {parametrization!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = llama(config(width))
        init_weights(model, N_LAYERS, STD)
    if parametrization == "sp":
        with torch.no_grad():
            for p in split_parameters(model)[0]:
                p.mul_((BASE_WIDTH / width) ** 0.5)
        return model, decay_groups(model, 0.0)
    with torch.device("meta"):
        base = llama(config(BASE_WIDTH))
    return model, mup(model, base)


@torch.no_grad()
def held_out_loss(model: nn.Module, n: int = 400) -> float:
    """Nats a token on the first n held-out stories."""
    documents = sorted((encode(text) for text in held_out(n)), key=len)
    nats, tokens = 0.0, 0
    for start in range(0, len(documents), 20):
        ids, mask = pad(documents[start : start + 20])
        n_tokens = int(mask[:, 1:].sum())
        nats += float(next_token_loss(model(ids), ids, mask)) * n_tokens
        tokens += n_tokens
    return nats / tokens


def entropy(n: int = 400) -> float:
    """What the perfect model loses on them, in the same unit."""
    losses = [-math.fsum(toyland.VILLAGE.word_log_probs(text)) for text in held_out(n)]
    return math.fsum(losses) / sum(len(toyland.split(text)) + 1 for text in held_out(n))


def _train(
    model: nn.Module, stream: Iterator, n_steps: int, lr: float, optimizer: Any, evaluate: Any = None,
    evaluate_at: Iterable[int] = (),
) -> History:  # fmt: skip
    return train(model, stream, n_steps, lr, warmup=round(WARMUP * n_steps), optimizer=optimizer, evaluate=evaluate,
                 evaluate_at=evaluate_at, progress=False)  # fmt: skip


def train_isoflop(width: int, budget: float, lr: float, seed: int = 0) -> dict[str, Any]:
    """One point of the IsoFLOP sweep: a muP model of this width trained until the budget (FLOPs) is spent."""
    model, groups = build(width, "mup", seed)
    n_steps, n_tokens, flops = steps_for(budget, model.config, seed=seed)
    history = _train(model, batches(seed=seed), n_steps, lr, AdamW(groups, lr))
    last = history.losses[-50:]
    return {"width": width, "budget": budget, "lr": lr, "seed": seed, "n_params": model.n_params(),
            "n_tokens": n_tokens, "n_steps": n_steps, "flops": flops, "loss": held_out_loss(model),
            "training_loss": math.fsum(last) / len(last)}  # fmt: skip


def train_transfer(width: int, parametrization: str, lr: float, n_steps: int = 150, seed: int = 0) -> dict[str, Any]:
    """One point of the learning-rate sweep: this width and parametrization after a fixed number of steps."""
    model, groups = build(width, parametrization, seed)
    _train(model, batches(seed=seed), n_steps, lr, AdamW(groups, lr))
    return {"width": width, "parametrization": parametrization, "lr": lr, "n_steps": n_steps, "seed": seed,
            "loss": held_out_loss(model, 100)}  # fmt: skip


def train_optimizer(
    optimizer: str, lr: float, adamw_lr: float | None = None, n_steps: int = 300, every: int = 10, seed: int = 0
) -> dict[str, Any]:
    """One run of AdamW against Muon at BASE_WIDTH, with the held-out loss (50 stories) every so many steps.

    lr, adamw_lr   Muon's for matrices inside blocks, and AdamW's for the rest; AdamW has one for all
    """
    model, groups = build(BASE_WIDTH, "sp", seed)
    rule = AdamW(groups, lr) if optimizer == "adamw" else Muon(model, lr, adamw_lr, weight_decay=0.0)
    evaluate = partial(held_out_loss, n=50)
    history = _train(model, batches(seed=seed), n_steps, lr, rule, evaluate, range(0, n_steps, every))
    return {"optimizer": optimizer, "lr": lr, "adamw_lr": adamw_lr, "seed": seed, "n_steps": n_steps,
            "losses": history.evaluations, "loss": history.evaluations[-1][1]}  # fmt: skip


def steps_to(losses: Sequence[tuple[int, float]], target: float) -> float | None:
    """The step at which a curve of (step, loss) first is at the target, between evaluations by a straight line.

    None if it never gets there.

    >>> steps_to([(0, 4.0), (10, 3.0), (20, 2.0)], 2.5)
    15.0
    """
    if losses and losses[0][1] <= target:
        return float(losses[0][0])
    for (step0, loss0), (step1, loss1) in pairwise(losses):
        if loss1 <= target:
            return step0 + (step1 - step0) * (loss0 - target) / (loss0 - loss1)
    return None


def tune(run: Callable[[float], dict[str, Any]], grid: Sequence[float], most: int = 4) -> list[dict[str, Any]]:
    """Run every value of a geometric grid, and go on at its end while the best value lies there.

    run     value -> a point with its "loss"
    most    values to add at most; ValueError if the best still lies at the edge then

    >>> points = tune(lambda lr: {"lr": lr, "loss": abs(math.log2(lr) - 5)}, [2, 4, 8])
    >>> [point["lr"] for point in points]
    [2, 4, 8, 16.0, 32.0, 64.0]
    """
    grid = sorted(grid)
    ratio, points = grid[1] / grid[0], [run(value) for value in grid]
    for added in range(most + 1):
        best = min(range(len(points)), key=lambda i: points[i]["loss"])
        if 0 < best < len(points) - 1:
            return points
        if added == most:
            raise ValueError(f"the best of {[round(value, 6) for value in grid]} lies at the edge: begin elsewhere")
        value = grid[0] / ratio if best == 0 else grid[-1] * ratio
        place = 0 if best == 0 else len(grid)
        grid.insert(place, value)
        points.insert(place, run(value))
