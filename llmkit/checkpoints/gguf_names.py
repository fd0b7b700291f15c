"""What llama.cpp calls each tensor, as tables like those of the families. Source: gguf-py `gguf/tensor_mapping.py`.

llama.cpp rotates neighbouring pairs of q and k where we rotate halves (layers/rope.py), so its q and k have their rows
in another order: forget it, and the model still writes English, only worse.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.checkpoints.tables import Copy, PairsToHalves, Table, split_numbers, weight_and_bias
from llmkit.checkpoints.weights import stored_tensors

BLOCK, THERE = "transformer.blocks.{}.", "blk.{}."


class Part(Copy):
    """One of several tensors of ours that are one there, in the model's order: GPT-2's q, k and v."""

    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)


class Expert(Copy):
    """One expert's matrix; there a layer's experts are one tensor (E, …), which GGUFFile lists as name[0], name[1] …"""

    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.stack(parts)


def expert(name: str) -> Expert:
    """Read as `name[expert]`, written as `name`: layer and expert are the two numbers of our name."""
    return Expert(name + "[{}]")


def llama_weights(config: Any) -> Table:
    """LLaMA and Mistral."""
    n_kv_heads = config.n_kv_heads or config.n_heads
    table = {
        "transformer.embed.tokens.weight": Copy("token_embd.weight"),
        "transformer.norm.weight": Copy("output_norm.weight"),
        "lm_head.weight": Copy("output.weight"),
        BLOCK + "attn.q_proj.weight": PairsToHalves(THERE + "attn_q.weight", n_heads=config.n_heads),
        BLOCK + "attn.k_proj.weight": PairsToHalves(THERE + "attn_k.weight", n_heads=n_kv_heads),
    }
    plain = {"attn_norm": "attn_norm", "attn.v_proj": "attn_v", "attn.o_proj": "attn_output", "mlp_norm": "ffn_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
    return table | {f"{BLOCK}{ours}.weight": Copy(f"{THERE}{theirs}.weight") for ours, theirs in plain.items()}


def mixtral_weights(config: Any) -> Table:
    """Mixtral, which llama.cpp takes for a LLaMA with experts."""
    table = {name: entry for name, entry in llama_weights(config).items() if ".mlp." not in name}
    table[BLOCK + "mlp.router.weight"] = Copy(THERE + "ffn_gate_inp.weight")
    for part in ("gate", "up", "down"):
        table[BLOCK + f"mlp.experts.{{}}.{part}_proj.weight"] = expert(THERE + f"ffn_{part}_exps.weight")
    return table


def gpt2_weights(config: Any) -> Table:
    """GPT-2; matrices are (out, in), as in a Linear."""
    table = {
        "transformer.embed.tokens.weight": Copy("token_embd.weight"),
        "transformer.embed.positions.weight": Copy("position_embd.weight"),
        **weight_and_bias("transformer.norm", "output_norm"),
    }
    for name in ("q_proj", "k_proj", "v_proj"):
        table |= weight_and_bias(BLOCK + f"attn.{name}", THERE + "attn_qkv", how=Part)
    plain = {"attn_norm": "attn_norm", "attn.o_proj": "attn_output", "mlp_norm": "ffn_norm", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down"}  # fmt: skip
    for ours, theirs in plain.items():
        table |= weight_and_bias(BLOCK + ours, THERE + theirs)
    return table


def bert_weights(config: Any) -> Table:
    """BERT's stack. llama.cpp makes embeddings with it; the heads have no place in the file."""
    table = {
        "transformer.embed.tokens.weight": Copy("token_embd.weight"),
        "transformer.embed.positions.weight": Copy("position_embd.weight"),
        "transformer.embed.types.weight": Copy("token_types.weight"),
        **weight_and_bias("transformer.embed.norm", "token_embd_norm"),
    }
    plain = {"attn.q_proj": "attn_q", "attn.k_proj": "attn_k", "attn.v_proj": "attn_v", "attn.o_proj": "attn_output",
             "attn_norm": "attn_output_norm", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "mlp_norm": "layer_output_norm"}  # fmt: skip
    for ours, theirs in plain.items():
        table |= weight_and_bias(BLOCK + ours, THERE + theirs)
    return table


class Stored:
    """A tensor of the file to be: its shape, and its values when they are asked for."""

    def __init__(self, entry: Copy):
        self.entry, self.parts = entry, []

    @property
    def shape(self) -> tuple[int, ...]:
        with torch.device("meta"):
            return tuple(self._join([torch.empty(part.shape) for part in self.parts]).shape)

    def values(self) -> Tensor:
        """In float32."""
        return self._join([part.detach().float() for part in self.parts])

    def _join(self, parts: list[Tensor]) -> Tensor:
        return self.entry.join(parts) if isinstance(self.entry, (Part, Expert)) else self.entry.store(parts[0])


def stored_by_name(model: nn.Module, table: Table) -> Mapping[str, Stored]:
    """Their name -> tensor, in the order of our parameters. BERT's heads are left out.

    Raises WeightsError for a parameter that the table does not have.
    """
    stack = nn.Module()
    stack.transformer = model.transformer
    if hasattr(model, "lm_head") and "lm_head.weight" in table:
        stack.lm_head = model.lm_head
    stored: dict[str, Stored] = {}
    for name, parameter in stored_tensors(stack, table):
        template, numbers = split_numbers(name)
        entry = table[template]
        theirs = entry.names[0].removesuffix("[{}]").format(*numbers)
        stored.setdefault(theirs, Stored(entry)).parts.append(parameter)
    return stored
