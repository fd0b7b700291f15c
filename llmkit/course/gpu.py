"""GPU sections: full size on a GPU, one line of explanation without, smoke size in the tests."""

import os
from collections.abc import Callable
from typing import Any

import torch


def gpu() -> torch.device | None:
    """CUDA, else an MPS that computes correctly, else None; also None with LLMKIT_GPU=off.

    MPS has returned silently wrong results in several torch releases, so it must pass a self-test first.
    """
    if os.environ.get("LLMKIT_GPU") == "off":  # stored outputs are the CPU's on every machine
        return None
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available() and _computes_correctly(torch.device("mps")):
        return torch.device("mps")
    return None


def _computes_correctly(device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 48, generator=generator)
    expected = torch.softmax(x @ x.T / 7, dim=-1).cumsum(0)
    try:
        y = x.to(device)
        got = torch.softmax(y @ y.T / 7, dim=-1).cumsum(0).cpu()
    except RuntimeError:
        return False
    return torch.allclose(got, expected, atol=1e-4)


def gpu_section(what: str, full: dict[str, Any], smoke: dict[str, Any]) -> Callable[[Callable], Any]:
    """Decorate a lesson's GPU section; the function runs at once as `function(device, **sizes)`.

    what    said when there is no GPU: what it would do and how long that takes, on which machine
    full    keyword arguments on a GPU
    smoke   keyword arguments on the CPU with LLMKIT_GPU_SMOKE=1, which the tests set: the code cannot rot

    The decorated name becomes what the function returned, or None where it did not run.

    >>> @gpu_section("train for an hour", full={"steps": 10_000}, smoke={"steps": 2})
    ... def losses(device, steps): return [1.0] * steps
    No GPU here, so this section is passed over. With one it would train for an hour.
    """

    def run(function: Callable) -> Any:
        if os.environ.get("LLMKIT_GPU_SMOKE") == "1":  # tests want the small size also where there is a GPU
            return function(torch.device("cpu"), **smoke)
        device = gpu()
        if device is not None:
            return function(device, **full)
        print(f"No GPU here, so this section is passed over. With one it would {what}.")
        return None

    return run
