"""One run in many processes: data parallel (DDP) and sharded (FSDP2), through torch.distributed and torchrun.

All of it also works in one process that never heard of torchrun: then there is one rank, and nothing is sent.
Sources: Li et al. 2020 (DDP); Rajbhandari et al. 2020 (ZeRO); torch.distributed.fsdp.fully_shard.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def rank() -> int:
    """The number of this process, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device | None = None, timeout_s: int = 600) -> Iterator[torch.device]:
    """Join the processes that torchrun started (it sets RANK, WORLD_SIZE, LOCAL_RANK); gives this one's device.

    timeout_s   how long a rank waits for the others before it gives up with an error: what a rank that died costs

    Without torchrun it only gives the device: CUDA if there is one, else the CPU.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device is None:
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    backend, timeout = "nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout_s)
    store, number, size = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun's store outlives a restart, with the addresses of the dead in it. On several machines, which count
        # restarts differently, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun instead.
        store = dist.PrefixStore(f"life {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timeout)
    try:
        yield device
        dist.barrier()  # where one leaves early, gloo may abort another that is about to ("terminate called …")
    finally:
        dist.destroy_process_group()


def parallelize(model: nn.Module, kind: str, dtype: torch.dtype | None = None) -> nn.Module:
    """Make a model one of many copies ("ddp") or of many parts ("fsdp"); gives what is to be called instead of it.

    dtype   in "fsdp", what parameters are gathered in; gradients are summed in float32 all the same

    DDP: every rank holds all weights; gradients are averaged while the backward pass still runs.
    FSDP: every rank holds 1/n of each weight, its gradient and its optimiser state (ZeRO stage 3); a block's weights
    are gathered just before it runs. The model's own parameters become DTensors, so make the optimiser afterwards.
    All ranks must have built the same weights (one seed). Experts may be idle on some ranks or on all; in "fsdp" call
    `forget_idle_experts` after the backward pass. Raises ValueError for another kind, and for experts in "fsdp" where
    torch is too old for them.
    """
    if kind not in ("ddp", "fsdp"):
        raise ValueError(f"parallel must be 'ddp' or 'fsdp', got {kind!r}")
    if not dist.is_initialized():
        return model
    if kind == "ddp":
        device = next(model.parameters()).device
        return nn.parallel.DistributedDataParallel(
            model, [device] if device.type == "cuda" else None, find_unused_parameters=bool(_experts(model))
        )
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    mesh = dist.init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if _experts(model):  # else ranks with unlike idle experts would add up gradients of unlike weights
        if not hasattr(model, "set_reduce_scatter_unused_params"):
            raise ValueError(
                f"FSDP of torch {torch.__version__} cannot leave experts idle: use 'ddp', or a newer torch"
            )
        model.set_reduce_scatter_unused_params(True)
    return model


def _experts(model: nn.Module) -> list[Tensor]:
    """The weights that some batches do not touch: those below module lists named `experts`."""
    return [p for name, p in model.named_parameters() if ".experts." in name]


def forget_idle_experts(model: nn.Module) -> None:
    """After FSDP's backward pass, which sends zeros for them: no gradient for experts that are idle on all ranks.

    So the optimiser leaves them alone, as it does in one process and under DDP.
    """
    experts = [p for p in _experts(model) if isinstance(p.grad, DTensor)]
    if not experts:
        return
    used = all_sum(torch.stack([p.grad.to_local().any() for p in experts]).float())
    for p, n_ranks in zip(experts, used.tolist(), strict=True):
        if not n_ranks:
            p.grad = None


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model: the entries of its module lists named `blocks`."""
    return [
        block
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.split(".")[-1] == "blocks"
        for block in module
    ]


@contextmanager
def gradients_kept_back(model: nn.Module, yes: bool) -> Iterator[None]:
    """While yes: backward only adds to this rank's own gradients; the last micro-batch of a step sends them."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and yes:
        with model.no_sync():
            yield
        return
    if hasattr(model, "set_requires_gradient_sync"):  # FSDP2
        model.set_requires_gradient_sync(not yes)
    yield


def put_back(model: nn.Module) -> None:
    """After a forward pass without a backward: let go of the weights that FSDP still holds gathered."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def all_sum(values: Tensor) -> Tensor:
    """The sum over all ranks, the same on each."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def any_rank(flag: bool) -> bool:
    """True on every rank as soon as it is true on one."""
    return bool(all_sum(torch.tensor(float(flag), device=_wire()))) if dist.is_initialized() else flag


def _wire() -> str:
    """Where small tensors must lie to be sent: NCCL reads from the GPU only."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def agree_on(value: object) -> object:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    """Go on when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a part, a copy on the CPU, for checkpoints. Every rank has to ask, only rank 0 keeps it."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().to("cpu", copy=True) if rank() == 0 else torch.empty(0)


def part_like(full: Tensor, example: Tensor) -> Tensor:
    """What this rank holds of a full tensor, if `example` is sharded; else a copy of it on example's device.

    A copy, because safetensors maps files: the optimiser's state would lie in a checkpoint that is removed later.
    """
    full = full.to(example.device, copy=True)
    if not isinstance(example, DTensor):
        return full
    return distribute_tensor(full, example.device_mesh, example.placements)
