"""Mixtral (Jiang et al. 2024): LLaMA with a mixture of experts in the MLP's place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from llmkit.checkpoints.tables import Copy
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import GatedMLP
from llmkit.layers.moe import MoE, SoftmaxRouter
from llmkit.models import llama


@dataclass(frozen=True)
class MixtralConfig(llama.LlamaConfig):
    """The defaults are Mixtral 8x7B: 46,702,792,704 parameters, 12,879,925,248 of them active for a token."""

    n_kv_heads: int | None = 8
    d_ff: int = 14336
    max_len: int = 32768
    norm_eps: float = 1e-5
    rope_theta: float = 1e6
    n_experts: int = 8
    top_k: int = 2

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "MixtralConfig":
        """From config.json; raises KeyError for a missing size, ValueError for a variant not built here."""
        if hf.get("hidden_act", "silu") != "silu":
            raise ValueError(f"Mixtral with {hf['hidden_act']} instead of silu is not built here")
        own = {"d_ff": "intermediate_size", "n_experts": "num_local_experts", "top_k": "num_experts_per_tok"}
        return cls(**llama.llama_fields(hf), **{ours: hf[theirs] for ours, theirs in own.items()})

    def to_hf(self) -> dict[str, Any]:
        return {
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], **llama.hf_fields(self),
            "intermediate_size": self.d_ff, "num_local_experts": self.n_experts, "num_experts_per_tok": self.top_k,
            "sliding_window": self.window,
        }  # fmt: skip


SIZES = {
    "mixtral-8x7b": MixtralConfig(),
    "mixtral-8x22b": MixtralConfig(d_model=6144, n_layers=56, n_heads=48, d_ff=16384, max_len=65536),
}


def mixtral(config: MixtralConfig) -> CausalLM:
    """LLaMA with one part swapped."""

    def experts() -> MoE:
        router = SoftmaxRouter(config.d_model, config.n_experts, config.top_k)
        return MoE(router, [GatedMLP(config.d_model, config.d_ff) for _ in range(config.n_experts)])

    return llama.llama(config, mlp=experts)


def active_params(model: nn.Module) -> int:
    """Parameters that take part in one token's forward pass: of each layer's experts only top_k."""
    idle = 0
    for layer in model.modules():
        if hasattr(layer, "experts"):  # not by class: a lesson that shows MoE in a cell has another class of that name
            expert = sum(parameter.numel() for parameter in layer.experts[0].parameters())
            idle += (len(layer.experts) - layer.router.top_k) * expert
    return sum(parameter.numel() for parameter in model.parameters()) - idle


def weights(config: MixtralConfig) -> dict[str, Copy]:
    """LLaMA's table with experts for the MLP. In the files w1 is the gate, w2 goes down, w3 goes up."""
    block, there = "transformer.blocks.{}.", "model.layers.{}.block_sparse_moe."
    table = {name: entry for name, entry in llama.weights(config).items() if ".mlp." not in name}
    table[block + "mlp.router.weight"] = Copy(there + "gate.weight")
    for ours, theirs in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
        table[block + f"mlp.experts.{{}}.{ours}.weight"] = Copy(there + f"experts.{{}}.{theirs}.weight")
    return table
