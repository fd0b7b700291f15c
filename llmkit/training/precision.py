"""Which numbers a machine computes fast with."""

import torch


def bf16_is_fast(device: torch.device) -> bool:
    """Has the device instructions for bfloat16? GPUs since 2020, Apple's, and CPUs with AVX512-BF16 or AMX have.

    Elsewhere it works too, but every product is taken in float32 with a conversion before and after.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "mps"
