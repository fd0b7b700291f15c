"""How to train, in numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How to train, beside model, data, optimiser and schedule.

    n_steps         steps of the whole run, each of one global batch
    accumulate      parts that each process cuts its share of a global batch into, one forward pass each
    max_norm        gradients are scaled down to this joint length
    bf16            autocast: products in bfloat16, weights and their updates in float32
    ema             keep a running mean of the weights, this share of it a step (0.999); None: none is kept
    seed            of the dropout; step n of rank r draws from a function of (seed, n, r), so nothing is to be saved
    evaluate_every, save_every, log_every   in steps; 0 for never (the last step is always saved and evaluated)
    keep            checkpoints that stay
    max_skips       steps in a row with a loss or gradient that is not finite, before the run gives up
    """

    n_steps: int
    accumulate: int = 1
    max_norm: float = 1.0
    bf16: bool = False
    ema: float | None = None
    seed: int = 0
    evaluate_every: int = 0
    save_every: int = 0
    log_every: int = 10
    keep: int = 2
    max_skips: int = 3

    def __post_init__(self) -> None:
        for name in ("n_steps", "accumulate", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("evaluate_every", "save_every", "log_every", "max_skips"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.max_norm > 0:
            raise ValueError(f"max_norm must be more than 0, got {self.max_norm}; inf clips nothing")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in 0 … 1, got {self.ema}: 0.999 keeps 99.9% of the mean a step")
