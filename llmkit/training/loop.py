"""One readable training loop; lesson 13 deepens it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.training.losses import next_token_loss
from llmkit.training.optim import AdamW, clip_gradients, decay_groups
from llmkit.training.progress import tqdm
from llmkit.training.schedules import warmup_cosine

Batch = tuple[Tensor | None, ...]  # ids (B, T), attention_mask (B, T) or None, and what else the loss takes


@dataclass
class History:
    """What a run left behind; lists have one entry a step, `evaluations` (step, value) pairs."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, Any]] = field(default_factory=list)


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    n_steps: int,
    lr: float,
    warmup: int | None = None,
    weight_decay: float = 0.1,
    max_norm: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.95),
    loss: Callable[..., Tensor] | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    evaluate_at: Iterable[int] = (),
    optimizer: Any = None,
    progress: bool = True,
) -> History:
    """Train for n_steps: one batch, one gradient, one step.

    batches      gives (ids, attention_mask), or what else the loss takes, at least n_steps times
    lr           at the peak of warmup_cosine; warmup in steps, by default 5% of them
    loss         (model, *batch) -> scalar; by default next_token_loss
    evaluate     called on the model, in evaluation mode, before the steps in evaluate_at and after the last
    optimizer    anything with .lr, step() and zero_grad(); by default AdamW over decay_groups

    Raises ValueError when the batches run out, FloatingPointError when loss or gradients are not finite.
    """
    loss = loss or language_model_loss
    optimizer = optimizer or AdamW(decay_groups(model, weight_decay), lr, betas)
    warmup = max(1, n_steps // 20) if warmup is None else warmup
    history, stops, stream = History(), set(evaluate_at), iter(batches)
    model.train()
    with tqdm(total=n_steps, disable=None if progress else True, leave=False) as bar:
        for step in range(n_steps):
            if evaluate is not None and step in stops:
                history.evaluations.append((step, _evaluate(model, evaluate)))
            try:
                batch = next(stream)
            except StopIteration:
                raise ValueError(f"the batches ran out after {step} of {n_steps} steps") from None
            value = loss(model, *batch)
            if not math.isfinite(value.item()):
                raise FloatingPointError(f"the loss of step {step} is {value.item()}: lower the learning rate")
            optimizer.zero_grad()
            value.backward()
            history.gradient_norms.append(clip_gradients(model.parameters(), max_norm))
            optimizer.lr = warmup_cosine(step, n_steps, lr, warmup)
            optimizer.step()
            history.losses.append(value.item())
            bar.update()
            bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
    model.eval()
    if evaluate is not None:
        history.evaluations.append((n_steps, _evaluate(model, evaluate)))
    return history


def language_model_loss(model: nn.Module, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """next_token_loss of a batch; right padding needs no mask in a causal model, only its targets are left out."""
    return next_token_loss(model(ids), ids, attention_mask)


@torch.no_grad()
def _evaluate(model: nn.Module, evaluate: Callable[[nn.Module], Any]) -> Any:
    was_training = model.training
    model.eval()
    value = evaluate(model)
    model.train(was_training)
    return value
