"""Learning rates as functions of the step."""

import math


def warmup_cosine(step: int, n_steps: int, peak: float, warmup: int = 0, floor: float = 0.1) -> float:
    """The learning rate of step 0, 1, …: a straight line up to `peak`, then half a cosine down to floor * peak.

    Step `warmup` is the first at the peak, step `n_steps` would be the first at the floor.

    >>> [round(warmup_cosine(s, 10, 1.0, warmup=2, floor=0.0), 2) for s in (0, 1, 2, 6, 10)]
    [0.33, 0.67, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def warmup_stable_decay(
    step: int, n_steps: int, peak: float, warmup: int = 0, decay: int | None = None, floor: float = 0.0
) -> float:
    """WSD: a straight line up to `peak`, a long plateau, and in the last `decay` steps down to floor * peak.

    decay   by default a fifth of n_steps; the way down is 1 - sqrt(share done)

    On the plateau nothing depends on n_steps, so one run serves many lengths: take a checkpoint of the plateau, and
    decay from there. Step n_steps would be the first at the floor. Sources: Hu et al. 2024 (MiniCPM), section 4;
    Haegele et al. 2024, section 4, where this form of the way down is best.

    >>> [round(warmup_stable_decay(s, 10, 1.0, warmup=1, decay=4), 2) for s in (0, 1, 6, 7, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    decay = max(1, n_steps // 5) if decay is None else decay
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = min(1.0, max(0, step - (n_steps - decay)) / max(1, decay))
    return peak * (floor + (1 - floor) * (1 - math.sqrt(done)))
