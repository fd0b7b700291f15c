"""How much of the machine's arithmetic a run uses: model FLOPs utilisation (MFU).

Source: Chowdhery et al. 2022 (PaLM), appendix B, who divide by the data sheet's peak; here it is the measured one.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from llmkit.training import distributed
from llmkit.training.flops import training_flops


def utilisation(config: Any, context: int, device: torch.device, dtype: torch.dtype) -> Callable[[float], float]:
    """tokens a second (of all processes) -> MFU: FLOPs that training needs over FLOPs that the devices could do.

    What is done twice (activation checkpointing) counts once, as the paper has it.
    """
    flops_per_token = training_flops(config, context) / context
    peak = matmul_peak(device, dtype) * distributed.world_size()
    return lambda tokens_per_second: tokens_per_second * flops_per_token / peak


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int | None = None, seconds: float = 0.2) -> float:
    """FLOPs a second of a large square matrix product, the best that this device has been seen to do.

    A data sheet promises more (for GPUs a tenth to a third); nothing that is written in PyTorch gets above this.
    """
    size = size or (1024 if device.type == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    wait = getattr(torch, device.type).synchronize if device.type in ("cuda", "mps") else (lambda: None)
    best, begin = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < seconds:
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
