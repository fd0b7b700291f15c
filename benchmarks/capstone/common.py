"""What the stages share: where models lie, a training run that can be killed, measures that are taken again."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from llmkit.checkpoints.pretrained import from_pretrained, save_pretrained
from llmkit.data.packing import Packed, best_fit
from llmkit.data.sampler import PackedRows, Sampler
from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.instruction_families import FAMILIES
from llmkit.data.toyland.instructions import Instruction, instructions
from llmkit.data.toyland.preferences import MOODS, mood_stories
from llmkit.data.toyland.reviews import REVIEWS
from llmkit.data.toyland.scenes import COUNTS, SCENES
from llmkit.evaluation.instructions import Reply, score
from llmkit.finetuning.toyland_chat import END_OF_TEXT, plain_texts
from llmkit.layers.heads import CausalLM
from llmkit.tokenizers.base import Tokenizer
from llmkit.training.evaluate import Validation, token_bytes
from llmkit.training.losses import Summed, packed_loss
from llmkit.training.muon import Muon
from llmkit.training.schedules import warmup_cosine
from llmkit.training.settings import Settings
from llmkit.training.trainer import Trainer

from .plan import Plan

LR = 0.02  # Muon's, as in lesson 16; embeddings, norms and the output learn at one and a half times as much
# plain_texts takes seven kinds in turn; of these the source's probabilities are known exactly.
WORLDS: dict[int, World] = {0: SCENES, 1: SCENES, 2: COUNTS, 3: REVIEWS}
KINDS = 7
SHARE = {"scenes": 2 / KINDS, "counts": 1 / KINDS, "reviews": 1 / KINDS}  # of the texts that the base reads
NAMES = {SCENES: "scenes", COUNTS: "counts", REVIEWS: "reviews"}


def load(folder: Path) -> tuple[CausalLM, Tokenizer]:
    """The model that a stage left in `folder`, in float32, and its tokenizer."""
    return from_pretrained(folder / "model", dtype=torch.float32)


def save(model: CausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    save_pretrained(model, folder / "model", tokenizer)


def documents(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Each text between two <|endoftext|>."""
    end = [tokenizer.special_tokens[END_OF_TEXT]]
    return [end + list(tokenizer.encode(text)) + end for text in texts]


def train(
    model: CausalLM, rows: Packed, n_steps: int, plan: Plan, folder: Path,
    evaluate: Callable[[Any], dict[str, float]] | None = None, loss: Callable[..., Summed] = packed_loss,
) -> list[dict[str, float]]:  # fmt: skip
    """Muon on packed rows with the trainer: killed at any step and started again, it ends with the same weights.

    Gives all log lines, also those of the calls before.
    """
    settings = Settings(
        n_steps, seed=plan.seed, log_every=max(1, n_steps // 50), evaluate_every=max(1, n_steps // 6),
        save_every=max(1, n_steps // 6), keep=1,
    )  # fmt: skip
    schedule = partial(warmup_cosine, n_steps=n_steps, peak=LR, warmup=max(1, n_steps // 20))
    sampler = Sampler(PackedRows(rows), plan.batch, plan.seed)
    trainer = Trainer(model, Muon(model, LR, 1.5 * LR), sampler, schedule, settings, folder, evaluate, loss,
                      progress=False)  # fmt: skip
    trainer.resume()
    trainer.fit()
    model.eval()
    return trainer.log.lines


# --- held-out texts whose entropy is known ---


class HeldOut:
    """Texts of one source: bits a byte of a model, and of the source itself.

    Over all sources together no model can be below that on average; on one of them it can, at the others' cost.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], world: World, share: float, context: int):
        rows = PackedRows(best_fit(documents(tokenizer, texts), context))
        self.measure = Validation(rows, 16, token_bytes=token_bytes(tokenizer))
        self.texts, self.n_bytes = list(texts), sum(len(text.encode("utf-8")) for text in texts)
        nats = -math.fsum(world.log_prob(text) for text in texts)
        # Who does not know which source a text is from learns it from the first words, for -log share on top.
        self.exact = (nats - len(texts) * math.log(share)) / math.log(2) / self.n_bytes

    def bits(self, model: CausalLM) -> float:
        return self.measure(model)["bits_per_byte"]


def general(tokenizer: Tokenizer, plan: Plan) -> dict[str, HeldOut]:
    """What the base has learnt, by source: none of these texts was trained on.

    In scenes no thing occurs twice, which their world would write in one of 200; so their line is 0.005 nats a text
    too high.
    """
    worlds, found = {name: world for world, name in NAMES.items()}, _general_texts(plan)
    return {name: HeldOut(tokenizer, texts, worlds[name], SHARE[name], plan.context) for name, texts in found.items()}


@cache
def _general_texts(plan: Plan) -> dict[str, list[str]]:
    seen, found = set(plain_texts(plan.texts, plan.seed)), {name: [] for name in SHARE}
    for i, text in enumerate(plain_texts(plan.held_out, plan.seed + 1)):
        world = WORLDS.get(i % KINDS)
        if world is not None and text not in seen:
            found[NAMES[world]].append(text)
    return found


def domain(tokenizer: Tokenizer, plan: Plan) -> HeldOut:
    """Stories about moods, which the base never reads: the domain that LoRA learns."""
    return HeldOut(tokenizer, _domain_texts(plan), MOODS, 1.0, plan.context)


@cache
def _domain_texts(plan: Plan) -> list[str]:
    seen = set(mood_stories(plan.stories, plan.seed))
    return ["".join(story) for story in mood_stories(plan.held_out // KINDS * 2, plan.seed + 1) if story not in seen]


def over_all(parts: dict[str, HeldOut], bits: dict[str, float]) -> float:
    """Bits a byte of all texts together."""
    return sum(bits[name] * part.n_bytes for name, part in parts.items()) / sum(p.n_bytes for p in parts.values())


# --- instructions ---


def test_items(plan: Plan, split: str) -> list[Instruction]:
    return instructions(len(FAMILIES) * plan.tests, plan.seed + 1, split)


def accuracy(items: Sequence[Instruction], found: Sequence[Reply]) -> dict[str, Any]:
    """Shares of right replies as (share, low, high), in all and by family."""
    scores = score(items, found)
    families = {name: list(interval) for name, interval in scores.families.items()}
    return {"all": list(scores.all), "families": families, "stop_rate": scores.stop_rate, "n": len(items)}
