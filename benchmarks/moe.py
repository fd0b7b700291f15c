"""Mixture of experts against transformers, as ratios of one run: python benchmarks/moe.py [THREADS]

Forward and backward of one sparse block: llmkit's grouped dispatch, its loop, and transformers' MixtralSparseMoeBlock
with each of its own ways to run the experts. The contestants take turns and each keeps its fastest turn, so that a
machine that is busy for a while slows all of them alike.
"""

from collections.abc import Callable

import torch
import transformers
from timing import interleaved, report, whole_numbers
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from llmkit.layers.mlp import GatedMLP
from llmkit.layers.moe import MoE, SoftmaxRouter, dispatch_grouped, dispatch_loop

REQUIRED = 1.0  # of transformers' fastest
SIZES = {  # d_model, d_ff, experts, top_k, tokens
    "a training batch, 8 experts": (256, 512, 8, 2, 2048),
    "the same, 32 experts of which 4": (256, 128, 32, 4, 2048),
    "the lesson's batch": (64, 64, 8, 2, 1024),
    "16 tokens (decoding)": (256, 512, 8, 2, 16),
}


def blocks(d_model: int, d_ff: int, n_experts: int, top_k: int) -> tuple[MixtralSparseMoeBlock, MoE]:
    """The same block twice, the second with the first one's weights."""
    config = transformers.MixtralConfig(
        hidden_size=d_model, intermediate_size=d_ff, num_local_experts=n_experts, num_experts_per_tok=top_k
    )
    theirs = MixtralSparseMoeBlock(config)
    ours = MoE(SoftmaxRouter(d_model, n_experts, top_k), [GatedMLP(d_model, d_ff) for _ in range(n_experts)])
    with torch.no_grad():
        theirs.gate.weight.normal_(std=0.1)
        theirs.experts.gate_up_proj.normal_(std=0.05)
        theirs.experts.down_proj.normal_(std=0.05)
        ours.router.weight.copy_(theirs.gate.weight)
        for expert, gate_up, down in zip(
            ours.experts, theirs.experts.gate_up_proj, theirs.experts.down_proj, strict=True
        ):
            expert.gate_proj.weight.copy_(gate_up[:d_ff])
            expert.up_proj.weight.copy_(gate_up[d_ff:])
            expert.down_proj.weight.copy_(down)
    return theirs, ours


def compare(name: str, d_model: int, d_ff: int, n_experts: int, top_k: int, n_tokens: int) -> float:
    theirs, ours = blocks(d_model, d_ff, n_experts, top_k)
    x = torch.randn(1, n_tokens, d_model)

    def ours_with(dispatch: Callable) -> Callable[[], torch.Tensor]:
        def step() -> torch.Tensor:
            flat = x.flatten(0, 1).requires_grad_()
            weights, chosen, _ = ours.router(flat)
            out = dispatch(flat, weights, chosen, ours.experts)
            out.sum().backward()
            return out.detach()

        return step

    def theirs_with(implementation: str) -> Callable[[], torch.Tensor]:
        def step() -> torch.Tensor:
            theirs.experts.config._experts_implementation = implementation
            out = theirs(x.detach().requires_grad_())
            out.sum().backward()
            return out.detach()[0]

        return step

    contestants = {"grouped": ours_with(dispatch_grouped), "loop": ours_with(dispatch_loop)}
    for implementation in ("eager", "grouped_mm"):
        contestants[implementation] = theirs_with(implementation)
    expected = contestants["eager"]()
    for other, step in contestants.items():
        assert torch.allclose(step(), expected, rtol=1e-4, atol=1e-4), f"{other} computes something else"
    times = interleaved(*contestants.values(), repeats=60 if n_tokens > 100 else 300)
    best = dict(zip(contestants, times, strict=True))
    fastest = min("eager", "grouped_mm", key=best.get)
    report(f"experts: {name}", best["grouped"], best[fastest], REQUIRED, ("llmkit", f"transformers ({fastest})"))
    print(
        f"{'':44} {best['eager'] / best['grouped']:.2f}x its eager one, {best['loop'] / best['grouped']:.2f}x our loop"
    )
    return best[fastest] / best["grouped"]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(*whole_numbers(__doc__) or [1])
    print(f"forward and backward, {torch.get_num_threads()} thread(s), required {REQUIRED:g}x transformers\n")
    ratios = {name: compare(name, *size) for name, size in SIZES.items()}
    slow = [name for name, ratio in ratios.items() if ratio < REQUIRED]
    if slow:
        raise SystemExit(f"\nslower than transformers: {', '.join(slow)}")


if __name__ == "__main__":
    main()
