"""From a run's description to its trainer."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from llmkit.data.sampler import DocumentWindows, Rows, Sampler, Windows
from llmkit.data.shards import TokenShards
from llmkit.models import FAMILIES
from llmkit.tokenizers.base import Tokenizer
from llmkit.tokenizers.files import load_tokenizer
from llmkit.training import distributed
from llmkit.training.evaluate import Validation, token_bytes
from llmkit.training.losses import packed_loss
from llmkit.training.mfu import utilisation
from llmkit.training.muon import Muon
from llmkit.training.optim import AdamW, decay_groups
from llmkit.training.recompute import recompute_blocks
from llmkit.training.run import Run, RunError
from llmkit.training.schedules import warmup_cosine, warmup_stable_decay
from llmkit.training.trainer import Trainer


def build_trainer(run: Run, device: torch.device) -> tuple[Trainer, Tokenizer | None]:
    """Everything that the file asks for, ready for resume() and fit().

    Raises RunError, which names the file, for shards, a tokenizer and sizes that are not there or do not fit together.
    """
    try:
        return _build(run, device)
    except (ValueError, OSError) as error:
        raise RunError(f"{run.path}: {error}") from error


def _build(run: Run, device: torch.device) -> tuple[Trainer, Tokenizer | None]:
    parts = distributed.world_size() * run.settings.accumulate
    if run.machine.batch_size < parts:
        raise ValueError(
            f"batch_size = {run.machine.batch_size} rows cannot be cut into processes * accumulate = {parts}"
        )
    tokenizer = load_tokenizer(run.file(run.data.tokenizer)) if run.data.tokenizer else None
    if tokenizer and tokenizer.vocab_size > run.model.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocabulary {run.model.vocab_size} entries"
        )
    torch.manual_seed(run.settings.seed)
    model = FAMILIES[run.family].build(run.model).to(device)
    longest = model.transformer.embed.max_len
    if longest is not None and run.data.context > longest:
        raise ValueError(
            f"context = {run.data.context}, but the model's table of positions ends at max_len = {longest}"
        )
    if run.machine.recompute:
        recompute_blocks(model)
    forward = distributed.parallelize(model, run.machine.parallel, torch.bfloat16 if run.settings.bf16 else None)
    if run.machine.compile:
        model.compile()
    evaluate = None
    if run.data.validation:
        rows, sizes = _rows(run, run.data.validation), token_bytes(tokenizer) if tokenizer else None
        evaluate = Validation(rows, max(1, run.machine.batch_size // 2), run.data.validation_rows, sizes)
    trainer = Trainer(
        model, _optimizer(run, model), Sampler(_rows(run, run.data.train), run.machine.batch_size, run.settings.seed),
        _schedule(run), run.settings, run.file(run.machine.folder), evaluate,
        partial(packed_loss, z_weight=run.machine.z_loss), forward, _mfu(run, device),
    )  # fmt: skip
    return trainer, tokenizer


def _mfu(run: Run, device: torch.device) -> Callable[[float], float] | None:
    if run.family == "mixtral":
        return None  # a token uses some of its weights only
    return utilisation(run.model, run.data.context, device, torch.bfloat16 if run.settings.bf16 else torch.float32)


def _rows(run: Run, folder: str) -> Rows:
    shards = TokenShards(run.file(folder))
    shards.check_model(run.model.vocab_size)
    try:
        return (DocumentWindows if run.data.documents else Windows)(shards, run.data.context)
    except ValueError as error:
        raise ValueError(f"{shards.folder}: {error}") from None


def _optimizer(run: Run, model: nn.Module) -> AdamW | Muon:
    given = run.optimizer
    if given.kind == "muon":
        return Muon(model, given.lr, given.adamw_lr, weight_decay=given.weight_decay)
    return AdamW(decay_groups(model, given.weight_decay), given.lr, tuple(given.betas))


def _schedule(run: Run) -> Callable[[int], float]:
    given = run.schedule
    shape, options = warmup_cosine, {}
    if given.kind == "wsd":
        shape, options = warmup_stable_decay, {"decay": given.decay}

    def rate(step: int) -> float:
        return shape(step, run.settings.n_steps, run.optimizer.lr, given.warmup, floor=given.floor, **options)

    return rate
