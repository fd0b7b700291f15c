"""The trainer: global batches, exact resume, one process or many. `loop.train` is its idea in forty lines."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llmkit.data.hashing import derive
from llmkit.training import distributed
from llmkit.training.checkpoint import CheckpointError, clean_up, load_newest, save_checkpoint
from llmkit.training.losses import IGNORE, Summed, packed_loss
from llmkit.training.optim import clip_gradients
from llmkit.training.progress import tqdm
from llmkit.training.runlog import RunLog
from llmkit.training.settings import Settings
from llmkit.training.snapshot import load_snapshot, snapshot


class Batches(Protocol):
    """What the trainer asks of its data: `llmkit.data.sampler.Sampler` does it."""

    def next_batch(self, part: int = 0, of: int = 1) -> tuple[Tensor, ...]: ...
    def advance(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Trainer:
    """Train a model, step by step, so that a killed run goes on as if nothing had happened.

    model       in training, with its config in .config if it is to be saved for use
    optimizer   with .lr, step(), zero_grad() and slots(): AdamW, Muon
    batches     gives (ids, targets, …) of this rank's part of a global batch, and remembers its place
    schedule    step -> learning rate
    folder      for checkpoints/ and metrics.jsonl; None keeps nothing
    evaluate    model -> figures by name; called in evaluation mode on all ranks
    loss        (model, *batch) -> Summed; by default packed_loss
    forward     what is called instead of the model: distributed.parallelize(model)
    mfu         tokens a second -> share of the machine's arithmetic in use, for the log (see mfu.py)

    The loss of a step is the mean over the tokens of the *global* batch, however it is cut into ranks and
    micro-batches: sums are added up and divided once, because a mean of means weighs tokens unequally.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        batches: Batches,
        schedule: Callable[[int], float],
        settings: Settings,
        folder: str | Path | None = None,
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        loss: Callable[..., Summed] = packed_loss,
        forward: nn.Module | None = None,
        mfu: Callable[[float], float] | None = None,
        progress: bool = True,
    ):
        self.model, self.forward = model, forward or model
        self.optimizer, self.batches, self.schedule, self.loss = optimizer, batches, schedule, loss
        self.settings, self.evaluate, self.mfu, self.progress = settings, evaluate, mfu, progress
        self.folder = Path(folder) if folder is not None else None
        self.log = RunLog(self.folder if distributed.rank() == 0 else None)
        self.step, self.tokens, self.skipped = 0, 0, 0
        self.saved: int | None = None  # the step whose checkpoint this trainer wrote or read last
        self.stopping = False
        self.ema: dict[str, Tensor] = {}
        if settings.ema is not None:
            self.ema = {name: p.detach().clone() for name, p in model.named_parameters()}

    def fit(self, until: int | None = None) -> list[dict[str, float]]:
        """Train up to step `until` (by default all); gives this call's log lines.

        Their tokens_per_second is the mean since the call began, evaluations and saves left out. Checkpoints are
        written at every save_every-th step and after the last of all, not at `until`: save() does that. The model is
        left in evaluation mode. Raises FloatingPointError after more than max_skips steps in a row that were not
        finite.
        """
        end = self.settings.n_steps if until is None else min(until, self.settings.n_steps)
        first_line, rank = len(self.log.lines), distributed.rank()
        quiet = None if self.progress and rank == 0 else True
        with tqdm(total=self.settings.n_steps, initial=self.step, disable=quiet, leave=False, unit="step") as bar:
            started, tokens = time.perf_counter(), self.tokens
            while self.step < end and not distributed.any_rank(self.stopping):
                line = self.train_step()
                last = self.step == self.settings.n_steps
                speed = (self.tokens - tokens) / (time.perf_counter() - started)
                pace = {"tokens_per_second": round(speed)} | ({"mfu": round(self.mfu(speed), 4)} if self.mfu else {})
                if _due(self.step, self.settings.log_every) or last or "skipped" in line:
                    self.log.write({**line, **pace})
                bar.set_postfix(loss=f"{line['loss']:.3f}", **pace, refresh=False)
                paused = time.perf_counter()
                if self.evaluate is not None and (_due(self.step, self.settings.evaluate_every) or last):
                    self.log.write({"step": self.step, **self._evaluate()})
                if _due(self.step, self.settings.save_every) or last:
                    self.save()
                started += time.perf_counter() - paused
                bar.update()
        self.model.eval()
        return self.log.lines[first_line:]

    def stop(self) -> None:
        """Let fit end after the step that is running: for a signal handler. Any rank may ask."""
        self.stopping = True

    def train_step(self) -> dict[str, float]:
        """One global batch, one update; gives step, loss (nats a token), gradient_norm, lr and tokens so far."""
        rank, world = distributed.rank(), distributed.world_size()
        device = next(self.model.parameters()).device
        torch.manual_seed(
            derive(self.settings.seed, self.step, rank) % 2**63
        )  # mixed: a CPU reads the low 32 bits alone
        parts = self._parts(rank, world, device)
        n_tokens = int(distributed.all_sum(sum((part[1] != IGNORE).sum() for part in parts)))
        if n_tokens == 0:
            raise ValueError(f"the batch of step {self.step} has no token to predict")
        self.model.train()
        self.optimizer.zero_grad()
        nats = torch.zeros((), device=device)
        for i, part in enumerate(parts):
            with distributed.gradients_kept_back(self.forward, i + 1 < len(parts)):
                with self._precision(device):
                    summed = self.loss(self.forward, *part)
                (summed.objective * (world / n_tokens)).backward()  # DDP and FSDP divide by world
            nats += summed.nats.detach()
        distributed.forget_idle_experts(self.model)
        self.batches.advance()
        loss = float(distributed.all_sum(nats)) / n_tokens
        lr = self.schedule(self.step)
        line = {"step": self.step + 1, "loss": loss, "lr": lr, "tokens": self.tokens + n_tokens}
        line.update(self._update(loss, lr))
        self.step, self.tokens = self.step + 1, self.tokens + n_tokens
        return line

    def _parts(self, rank: int, world: int, device: torch.device) -> list[tuple[Tensor, ...]]:
        """This rank's share of the global batch, cut into as many parts as it accumulates."""
        n = self.settings.accumulate
        parts = [self.batches.next_batch(rank * n + i, world * n) for i in range(n)]
        return [tuple(rows.to(device, non_blocking=True) for rows in part) for part in parts]

    def _update(self, loss: float, lr: float) -> dict[str, float]:
        """Move the weights, unless the numbers are broken: then leave them, and count."""
        try:
            norm = clip_gradients(self.model.parameters(), self.settings.max_norm)
        except FloatingPointError:
            norm = math.nan
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.skipped += 1
            if self.skipped > self.settings.max_skips:
                raise FloatingPointError(
                    f"{self.skipped} steps in a row were not finite, the last is step {self.step} with loss {loss}: "
                    "rewind to an earlier checkpoint and skip these batches, or lower the learning rate"
                )
            return {"gradient_norm": norm, "skipped": self.skipped}
        self.skipped = 0
        self.optimizer.lr = lr
        self.optimizer.step()
        if self.ema:
            parameters = [p.detach() for p in self.model.parameters()]
            torch._foreach_lerp_(list(self.ema.values()), parameters, 1 - self.settings.ema)
        return {"gradient_norm": norm}

    def _precision(self, device: torch.device) -> Any:
        return torch.autocast(device.type, torch.bfloat16) if self.settings.bf16 else nullcontext()

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """The figures of the weights, and with ema_ before their names those of their running mean."""
        self.model.eval()
        figures = dict(self.evaluate(self.forward))
        distributed.put_back(self.model)
        if self.ema:
            with self.averaged():
                figures |= {f"ema_{name}": value for name, value in self.evaluate(self.forward).items()}
        self.model.train()
        return figures

    @contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[None]:
        """The running mean of the weights in the model's place for a while; needs Settings.ema."""
        own = [p.detach().clone() for p in self.model.parameters()]
        try:
            self._set_weights(self.ema.values())
            yield
        finally:  # also when a notebook is interrupted
            distributed.put_back(self.model)
            self._set_weights(own)

    @torch.no_grad()
    def _set_weights(self, values: Iterable[Tensor]) -> None:
        for p, value in zip(self.model.parameters(), values, strict=True):
            p.copy_(value)

    def save(self) -> Path | None:
        """Write a checkpoint; a disk that is full is told of, and the run goes on with the one before.

        At the last step it raises OSError instead: there is no later save that could succeed.
        """
        if self.folder is None:
            return None
        tensors = snapshot(self.model, self.optimizer, self.ema)
        path, error = None, None
        if distributed.rank() == 0:
            state = {"tokens": self.tokens, "skipped": self.skipped, "seed": self.settings.seed}
            state["batches"] = self.batches.state_dict()
            try:
                path = save_checkpoint(self._checkpoints, self.step, tensors, state, self.settings.keep)
            except OSError as problem:
                error = problem
                self.log.warn(f"step {self.step}: no checkpoint was written ({problem}). The one before stays.")
        failed = distributed.agree_on(error is not None)
        if failed and self.step == self.settings.n_steps:
            raise error or OSError("rank 0 could not write the last checkpoint")
        self.saved = self.saved if failed else self.step
        return path

    def resume(self, step: int | None = None) -> int:
        """Go back to the newest whole checkpoint, at most `step`; gives the step, 0 where there is none.

        The log's later lines are dropped; later checkpoints stay until the next save. Raises CheckpointError for a
        checkpoint of another model or data, or of a step after this run's last.
        """
        if self.folder is None:
            raise ValueError("a trainer without a folder has no checkpoints to resume from")
        if distributed.rank() == 0 and self._checkpoints.exists():
            clean_up(self._checkpoints)
        distributed.wait_for_all()
        found = load_newest(self._checkpoints, step, self.log.warn if distributed.rank() == 0 else lambda text: None)
        stored = found[1]["step"] if found else None
        if distributed.agree_on(stored) != stored:
            raise CheckpointError(
                f"rank {distributed.rank()} finds step {stored} in {self._checkpoints}, rank 0 another: "
                "all machines must see the same files"
            )
        if found is None:
            self.log.cut_after(self.step)  # of a run that was killed before its first checkpoint
            return self.step
        tensors, state = found
        if state["seed"] != self.settings.seed:
            raise CheckpointError(f"the checkpoint was trained with seed {state['seed']}, not {self.settings.seed}")
        if stored > self.settings.n_steps:
            raise CheckpointError(
                f"{self._checkpoints} holds step {stored}, but this run ends at {self.settings.n_steps}: "
                "take more steps, an earlier checkpoint or another folder"
            )
        before = self.batches.state_dict()
        try:
            self.batches.load_state_dict(state["batches"])
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        try:
            load_snapshot(tensors, self.model, self.optimizer, self.ema)
        except CheckpointError:
            self.batches.load_state_dict(before)
            raise
        self.step, self.tokens, self.skipped = stored, state["tokens"], state["skipped"]
        self.saved = stored
        self.log.cut_after(self.step)
        return self.step

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
