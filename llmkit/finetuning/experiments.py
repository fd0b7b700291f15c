"""One point of lesson 15's sweeps: a model of the village's stories learns Python, small enough for a laptop.

benchmarks/results/finetuning.py calls `tune_on_code` many times and keeps what comes out in llmkit/results/; the lesson
calls it a few times and compares. The stories are toyland's; the code is the running Python's own library, cut by
module, so figures differ a little between Python versions.
"""

import copy
import math
import random
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.checkpoints.pretrained import from_pretrained
from llmkit.data import toyland
from llmkit.data.batches import pad
from llmkit.data.text import python_docs, python_modules
from llmkit.finetuning.adapters import add_lora, n_trainable
from llmkit.finetuning.lora import LoRAConfig
from llmkit.layers.transformer import init_weights
from llmkit.models.llama import LlamaConfig, llama
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.training.evaluate import token_bytes
from llmkit.training.loop import train
from llmkit.training.losses import IGNORE, packed_loss
from llmkit.training.optim import AdamW, decay_groups

VOCAB, WIDTH, N_LAYERS, N_HEADS = 1024, 96, 2, 4
BATCH, WINDOW = 4, 160  # rows; tokens of a window of code or docs
BASE_STEPS, BASE_LR, DOCS = 1500, 6e-3, 0.2  # DOCS: share of the base's rows that are Python's documentation
STEPS = 120
END = "<end>"
STD = 0.08  # GPT-2's 0.02 is for 768 numbers
BASE = "finetuning_base"  # the folder in llmkit/results


@lru_cache(maxsize=1)
def texts() -> dict[str, tuple[str, ...]]:
    """Documents by domain: "stories" to train on (and to replay), 60 others, "docs", "code", "held_out_code"."""
    stories = toyland.corpus(240_000, 40_000, 15, toyland.VILLAGE)
    code, held_out = python_modules("train"), python_modules("held_out")
    return {"stories": stories.train, "held_out_stories": stories.validation[:60], "docs": (python_docs(),),
            "code": tuple(code.values()), "held_out_code": tuple(held_out.values())}  # fmt: skip


def train_tokenizer() -> ByteLevelBPE:
    """Byte-level BPE learned on 100 kB of stories and 60 kB each of documentation and code: all three are covered."""
    mixed = [("stories", 100_000), ("docs", 60_000), ("code", 60_000)]
    return ByteLevelBPE.train("".join("\n".join(texts()[kind])[:n] for kind, n in mixed), VOCAB, special_tokens=(END,))


def load_base() -> tuple[nn.Module, ByteLevelBPE]:
    """The general model of the lesson and its tokenizer, which `train_base` made once: loading takes no training.

    In float32, though its file holds 16 bits a weight.
    """
    return from_pretrained(str(files("llmkit.results") / BASE), dtype=torch.float32)


@lru_cache(maxsize=1)
def tokenizer() -> ByteLevelBPE:
    """The stored base's, the same in every Python."""
    return load_base()[1]


def _end() -> int:
    return tokenizer().special_tokens[END]


@cache
def story_ids(kind: str) -> list[list[int]]:
    """Every story as <end>, its tokens, <end>: the mark stands between texts, so a text begins with it."""
    return [[_end(), *tokenizer().encode(text), _end()] for text in texts()[kind]]


@cache
def row_ids(kind: str) -> list[int]:
    """All texts in one row, an <end> after each."""
    return [i for text in texts()[kind] for i in (*tokenizer().encode(text), _end())]


def mixed_batches(
    row: Sequence[int], stories: Sequence[Sequence[int]], replay: float, seed: int = 0, batch_size: int = BATCH,
    window: int = WINDOW,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Endless (ids, attention_mask): each row a window of `row`, or with probability `replay` a whole story.

    row       ids of the new domain, cut at random places
    stories   ids of documents of the old domain

    Raises ValueError for a replay outside 0 to 1 and for a row that is shorter than a window.
    """
    if not 0 <= replay <= 1 or len(row) < window:
        raise ValueError(f"replay is a share from 0 to 1 and row holds at least {window} ids, got {replay}, {len(row)}")
    rng = random.Random(f"{seed}")
    while True:
        rows = []
        for _ in range(batch_size):
            start = rng.randrange(len(row) - window + 1)
            rows.append(rng.choice(stories) if rng.random() < replay else row[start : start + window])
        yield pad(rows)


@lru_cache(maxsize=1)
def held_out_rows() -> dict[str, list[list[int]]]:
    """What is measured: 60 stories, and 60 windows of code from all held-out modules."""
    code = row_ids("held_out_code")
    step = (len(code) - WINDOW) // 59
    return {"stories": story_ids("held_out_stories"), "code": [code[i * step :][:WINDOW] for i in range(60)]}


@torch.no_grad()
def bits_per_byte(model: nn.Module) -> dict[str, float]:
    """Held-out bits a byte, "stories" and "code"."""
    lengths, found, was_training = token_bytes(tokenizer()), {}, model.training
    model.eval()
    for domain, rows in held_out_rows().items():
        nats = n_bytes = 0.0
        for start in range(0, len(rows), 10):
            ids, mask = pad(sorted(rows, key=len)[start : start + 10])
            targets = torch.where(mask, ids, IGNORE)[:, 1:]
            nats += float(packed_loss(model, ids[:, :-1], targets).nats)
            n_bytes += float(lengths[targets[targets != IGNORE]].sum())
        found[domain] = nats / math.log(2) / n_bytes
    model.train(was_training)
    return found


def perfect_bits_per_byte() -> float:
    """What the village itself, the perfect model, loses on the same held-out stories."""
    held_out = texts()["held_out_stories"]
    nats = -math.fsum(toyland.VILLAGE.log_prob(text) for text in held_out)
    return nats / math.log(2) / sum(len(text.encode("utf-8")) for text in held_out)


def build(seed: int = 0) -> nn.Module:
    """An untrained LLaMA of two layers, width 96, tied embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = llama(LlamaConfig(VOCAB, WIDTH, N_LAYERS, N_HEADS, d_ff=3 * WIDTH, max_len=1024, tie=True))
        init_weights(model, N_LAYERS, STD)
    return model


def train_base(tokenizer: ByteLevelBPE, n_steps: int = BASE_STEPS, seed: int = 0) -> nn.Module:
    """The general model: four fifths of what it reads are stories, the rest documentation. It has seen no module."""
    model, end = build(seed), tokenizer.special_tokens[END]
    stories = toyland.corpus(1_700_000, 40_000, 15, toyland.VILLAGE).train
    stories = [[end, *tokenizer.encode(text), end] for text in stories]
    batches = mixed_batches(tokenizer.encode(python_docs()), stories, 1 - DOCS, seed)
    train(model, batches, n_steps, BASE_LR, warmup=n_steps // 10, progress=False)
    return model


def tune_on_code(
    base: nn.Module, lr: float, lora: LoRAConfig | None = None, replay: float = 0.0, warmup: float = 0.1, seed: int = 0,
    n_steps: int = STEPS, freeze: str = "",
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    """A copy of the base, tuned on code: the tuned model, and its held-out bits a byte on "stories" and "code".

    lora     None trains all weights
    replay   share of rows that are stories
    warmup   share of the steps in which the learning rate rises from 0
    seed     of the rows and of the adapter
    freeze   weights whose name begins with this are not trained, such as "transformer.embed"; "" freezes none
    """
    model = copy.deepcopy(base)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (freeze and name.startswith(freeze)))
    if lora is not None:
        add_lora(model, lora, seed)
    trained = n_trainable(model)
    optimizer = AdamW(decay_groups(model, 0.0), lr)
    batches = mixed_batches(row_ids("code"), story_ids("stories"), replay, seed)
    train(model, batches, n_steps, lr, warmup=round(warmup * n_steps), optimizer=optimizer, progress=False)
    settings = {"lr": lr, "seed": seed, "replay": replay, "warmup": warmup, "n_trainable": trained}
    return model, settings | bits_per_byte(model)


def rounded(point: dict[str, Any]) -> dict[str, Any]:
    """The point as it is stored."""
    return {key: round(value, 4) if key in ("stories", "code") else value for key, value in point.items()}
