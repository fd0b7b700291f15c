"""The families: each file holds its config (`from_hf`, `to_hf`), its builder and its table of weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from llmkit.checkpoints.tables import Copy
from llmkit.models import bart, bert, gpt2, llama, mixtral, palm, roberta, t5


@dataclass(frozen=True)
class Family:
    """What from_pretrained needs to know; `ignore` is a pattern for names in files that are no weights."""

    config: type
    build: Callable[[Any], nn.Module]
    weights: Callable[[Any], Mapping[str, Copy]]
    ignore: str = ""


# keyed by model_type in config.json
FAMILIES = {
    "gpt2": Family(gpt2.GPT2Config, gpt2.gpt2, gpt2.weights, gpt2.IGNORE),
    "llama": Family(llama.LlamaConfig, llama.llama, llama.weights, llama.IGNORE),
    "mistral": Family(llama.LlamaConfig, llama.llama, llama.weights, llama.IGNORE),
    "mixtral": Family(mixtral.MixtralConfig, mixtral.mixtral, mixtral.weights, llama.IGNORE),
    "cohere": Family(palm.PalmConfig, palm.palm, palm.weights, llama.IGNORE),
    "bert": Family(bert.BertConfig, bert.bert, bert.weights, bert.IGNORE),
    "roberta": Family(roberta.RobertaConfig, roberta.roberta, roberta.weights, roberta.IGNORE),
    "t5": Family(t5.T5Config, t5.t5, t5.weights, t5.IGNORE),
    "bart": Family(bart.BartConfig, bart.bart, bart.weights, bart.IGNORE),
}


def family_of(config: Any) -> Family:
    """The family whose config this is; raises ValueError for anything else."""
    for family in FAMILIES.values():
        if type(config) is family.config:
            return family
    raise ValueError(f"{type(config).__name__} is the config of no family: {', '.join(FAMILIES)}")
