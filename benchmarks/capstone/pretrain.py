"""Lessons 05 and 13: texts become shards, a small LLaMA reads them, and is compared with the exact entropy."""

import math
from pathlib import Path
from typing import Any

from llmkit.data.packing import best_fit
from llmkit.data.shard_writer import ShardWriter
from llmkit.data.shards import TokenShards
from llmkit.finetuning.toyland_chat import END_OF_TEXT, base_model, chat_tokenizer, plain_texts
from llmkit.models.ngram import witten_bell_ngram

from . import common
from .plan import Plan

NAME = "1_pretrain"


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """Tokenizer, shards, base model."""
    folder = out / NAME
    tokenizer = chat_tokenizer(plan.vocab_size, plan.seed)
    end = tokenizer.special_tokens[END_OF_TEXT]
    if not (folder / "shards").exists():
        with ShardWriter(folder / "shards", tokenizer.vocab_size, end) as writer:
            for text in plain_texts(plan.texts, plan.seed):
                writer.add(tokenizer.encode(text))
    shards = TokenShards(folder / "shards")
    read = [[end, *document.tolist(), end] for document in shards.documents()]
    rows = best_fit(read, plan.context)
    model = base_model(tokenizer, plan.d_model, plan.n_layers, plan.seed)
    parts = common.general(tokenizer, plan)

    def evaluate(model: Any) -> dict[str, float]:
        return {"bits": common.over_all(parts, {name: part.bits(model) for name, part in parts.items()})}

    before = evaluate(model.eval())["bits"]
    lines = common.train(model, rows, plan.pretrain_steps, plan, folder, evaluate)
    common.save(model, tokenizer, folder)
    counted = witten_bell_ngram([document[1:] for document in read], plan.ngram, tokenizer.vocab_size)
    return {
        "parameters": model.n_params(), "layers": plan.n_layers, "width": plan.d_model,
        "texts": shards.n_documents, "tokens_on_disk": shards.n_tokens,
        "tokens_read": next(line["tokens"] for line in reversed(lines) if "tokens" in line),
        "curve": [[0, before]] + [[line["step"], line["bits"]] for line in lines if "bits" in line],
        "sources": {name: {"model": part.bits(model), "exact": part.exact, "texts": len(part.texts)}
                    for name, part in parts.items()},
        "all": {"model": evaluate(model)["bits"], "ngram": _ngram_bits(counted, tokenizer, parts),
                "exact": common.over_all(parts, {name: part.exact for name, part in parts.items()})},
        "ngram": plan.ngram,
    }  # fmt: skip


def _ngram_bits(counted: Any, tokenizer: Any, parts: dict[str, common.HeldOut]) -> float:
    """The control: counting, on the same tokens."""
    texts = [text for part in parts.values() for text in part.texts]
    nats = -math.fsum(sum(counted.log_probs(ids[1:])) for ids in common.documents(tokenizer, texts))
    return nats / math.log(2) / sum(part.n_bytes for part in parts.values())
