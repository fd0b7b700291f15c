"""Training on many GPUs, by arithmetic: memory, traffic, idle time and broken machines. Units: bytes, seconds.

Nothing here is measured; each function is one formula with its source, to be put together into a table.
"""

from typing import NamedTuple

HOUR, DAY = 3600.0, 86400.0


class Memory(NamedTuple):
    """Bytes on one GPU that hold the model's state; activations come on top."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return sum(self)


def memory(n_params: float, n_ranks: int = 1, zero_stage: int = 0, weight_bytes: int = 2, gradient_bytes: int = 2,
           optimizer_bytes: int = 12) -> Memory:  # fmt: skip
    """What one of n_ranks data-parallel GPUs keeps of a model that is trained with Adam in mixed precision.

    zero_stage                     what is cut into n_ranks parts: 0 nothing, 1 the optimiser's state, 2 the gradients
                                   too, 3 the weights too (FSDP)
    weight_bytes, gradient_bytes   a parameter's 16-bit copy, and its gradient
    optimizer_bytes                Adam's, a parameter: a 32-bit master copy, mean and square

    16 bytes a parameter on each GPU without ZeRO. llmkit's trainer with autocast keeps 32-bit weights instead, and no
    16-bit copy: weight_bytes 4, gradient_bytes 4, optimizer_bytes 8, 16 as well.
    Raises ValueError for another stage or no rank. Source: Rajbhandari et al. 2020, "ZeRO", section 3.1 and figure 1.

    >>> [round(memory(7.5e9, 64, stage).total / 1e9, 1) for stage in range(4)]     # figure 1: gigabytes
    [120.0, 31.4, 16.6, 1.9]
    """
    if zero_stage not in (0, 1, 2, 3) or n_ranks < 1:
        raise ValueError(f"ZeRO has stages 0 to 3 on at least 1 rank, got stage {zero_stage} on {n_ranks}")
    parts = [weight_bytes * n_params, gradient_bytes * n_params, optimizer_bytes * n_params]
    cut = (zero_stage >= 3, zero_stage >= 2, zero_stage >= 1)
    return Memory(*(part / n_ranks if is_cut else part for part, is_cut in zip(parts, cut, strict=True)))


def all_reduce_bytes(n_bytes: float, n_ranks: int) -> float:
    """What each rank sends when n_bytes are summed over all ranks in a ring, and as much it receives: 2 (n - 1) / n.

    A reduce-scatter and an all-gather, of n - 1 messages of n_bytes / n each; it hardly grows with the number of ranks.
    Data parallelism and ZeRO 1 and 2 send so much a step; ZeRO 3 half as much again, since the weights are gathered
    both forward and backward. Source: Patarasuk and Yuan 2009; Rajbhandari et al. 2020, section 7.

    >>> all_reduce_bytes(100, 4)
    150.0
    """
    if n_ranks < 1:
        raise ValueError(f"there must be at least 1 rank, got {n_ranks}")
    return 2 * (n_ranks - 1) / n_ranks * n_bytes


def tensor_parallel_bytes(d_model: int, n_layers: int, n_tokens: int, n_ranks: int, activation_bytes: int = 2) -> float:
    """What each rank sends a step when every layer's matrices are split over n_ranks.

    n_tokens   of the batch that one group of ranks works on

    Each layer sums (n_tokens, d_model) activations four times, after attention and MLP, forward and backward; and a
    layer cannot go on before it has the sum, which is why tensor parallelism stays within one machine.
    Source: Shoeybi et al. 2019, "Megatron-LM", section 3, figure 4.

    >>> tensor_parallel_bytes(d_model=10, n_layers=1, n_tokens=10, n_ranks=2)
    800.0
    """
    return 4 * n_layers * all_reduce_bytes(n_tokens * d_model * activation_bytes, n_ranks)


def pipeline_bubble(n_stages: int, n_microbatches: int) -> float:
    """The share of a step in which a stage of the pipeline waits: (p - 1) / (m + p - 1).

    A stage is idle while the first micro-batch comes to it and after the last has left. Without cutting the batch
    (m = 1) only one stage works at a time. Source: Huang et al. 2019, "GPipe", section 2.3.

    >>> pipeline_bubble(4, 1), round(pipeline_bubble(4, 32), 3)
    (0.75, 0.086)
    """
    if n_stages < 1 or n_microbatches < 1:
        raise ValueError(f"stages and micro-batches are at least 1, got {n_stages} and {n_microbatches}")
    return (n_stages - 1) / (n_microbatches + n_stages - 1)


def time_between_failures(n_gpus: int, of_one_gpu: float) -> float:
    """Mean time between interruptions of a job that stops when any of its GPUs does: of_one_gpu / n_gpus.

    >>> round(time_between_failures(16_384, LLAMA3_GPU) / HOUR, 1)
    3.1
    """
    if n_gpus < 1:
        raise ValueError(f"a job has at least 1 GPU, got {n_gpus}")
    return of_one_gpu / n_gpus


# Llama Team 2024, "The Llama 3 herd of models", section 3.3.4: 419 unexpected interruptions in 54 days on 16,384 GPUs.
# The time of one GPU that goes with it, some 5.8 years; not all of them were the GPUs' own fault.
LLAMA3_GPU = 16_384 * 54 * DAY / 419


def checkpoint_interval(seconds_to_save: float, between_failures: float) -> float:
    """How often to save so that the least time is lost: sqrt(2 * time to save * mean time between failures).

    Saving costs seconds_to_save each time, a failure on average half of what was computed since the last save. Holds
    while saving is quick against the time between failures. Source: Young 1974.

    >>> checkpoint_interval(60, 3 * HOUR)
    1138.4199576606165
    """
    if seconds_to_save <= 0 or between_failures <= 0:
        raise ValueError(f"both times must be above 0, got {seconds_to_save} and {between_failures}")
    return (2 * seconds_to_save * between_failures) ** 0.5


def lost_share(seconds_to_save: float, every: float, between_failures: float, seconds_to_restart: float = 0.0) -> float:
    """The share of time that saving, repeating lost work and restarting take: to first order in each.

    >>> round(lost_share(60, checkpoint_interval(60, 3 * HOUR), 3 * HOUR, seconds_to_restart=600), 3)
    0.161
    """
    return seconds_to_save / every + (every / 2 + seconds_to_restart) / between_failures


def training_days(flops: float, n_gpus: int, peak_flops: float, utilization: float) -> float:
    """Days that a training budget takes, at so much of the GPUs' peak FLOPs a second (MFU).

    >>> round(training_days(3.8e25, 16_384, 989e12, 0.4))     # Llama 3 405B, H100 in bf16; table 4: 38 to 43%
    68
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization is a share between 0 and 1, got {utilization}")
    return flops / (n_gpus * peak_flops * utilization) / DAY
