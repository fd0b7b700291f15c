"""The way from a base model to one that pleases a judge, in toyland, where the judge itself can be judged.

    base -> SFT -> pairs with known noise -> reward model -> best of n, PPO;  pairs -> DPO

benchmarks/results/alignment.py walks all of it with three seeds; lessons 17 and 18 walk a few steps of it live, from
the SFT model and the reward model that it stored. Prompts and answers are ids; see toyland_truth.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmkit.alignment.dpo import DPOStep, dpo, pair_log_probs, reference_log_probs
from llmkit.alignment.ppo import PPOSettings, ppo_step
from llmkit.alignment.reward import RewardModel, normalise, reward_loss, reward_model
from llmkit.alignment.rollout import Rollout, sample_rollout
from llmkit.alignment.toyland_truth import Ids, end_id, true_scores
from llmkit.alignment.value import ValueModel
from llmkit.checkpoints.pretrained import from_pretrained
from llmkit.checkpoints.safetensors import SafetensorsFolder
from llmkit.data.batches import pad
from llmkit.data.toyland.preferences import mood_stories, noisy_labels, openings
from llmkit.data.toyland.scenes import scene
from llmkit.finetuning.sft import Encoded
from llmkit.finetuning.toyland_chat import SPECIAL, base_model, fine_tune, pretrain
from llmkit.layers.heads import CausalLM
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.training.loop import train
from llmkit.training.optim import AdamW

MAX_ANSWER = 48  # tokens; a true continuation has about thirty
BETA = 0.1  # price of a nat, in spreads of the proxy over the SFT model's answers
PPO_STEPS = 40
SFT, REWARD = "alignment_sft", "alignment_reward"  # folders in llmkit/results


def train_tokenizer(vocab_size: int = 1536) -> ByteLevelBPE:
    """Byte-level BPE in which nearly every word of these stories is one token."""
    rng = random.Random(0)
    texts = [scene(rng).text for _ in range(2000)] + [a + b for a, b in mood_stories(3000)]
    return ByteLevelBPE.train(texts, vocab_size, special_tokens=SPECIAL)


def prompt_ids(tokenizer: ByteLevelBPE, texts: Sequence[str]) -> list[list[int]]:
    """Each opening after the mark that stands between texts."""
    return [[end_id(tokenizer), *tokenizer.encode(text)] for text in texts]


def demonstrations(prompts: Ids, answers: Ids) -> list[Encoded]:
    """Prompts with their answers for SFT: only the answers are learnt."""
    rows = zip(prompts, answers, strict=True)
    return [Encoded([*p, *answer], [-100] * (len(p) - 1) + [*answer, -100]) for p, answer in rows]


def train_sft(tokenizer: ByteLevelBPE, seed: int, base_steps: int = 100, sft_steps: int = 500, n: int = 12_000):
    """Base: scenes of the village, read whole. SFT: n openings with the true source's continuations."""
    rng = random.Random(f"base {seed}")
    model = base_model(tokenizer, d_model=64, n_layers=2, seed=seed)
    pretrain(model, tokenizer, [scene(rng).text for _ in range(32 * base_steps)], base_steps, 32, seed=seed)
    stories = mood_stories(n, seed + 1000)
    answers = [[*tokenizer.encode(answer), end_id(tokenizer)] for _, answer in stories]
    shown = demonstrations(prompt_ids(tokenizer, [opening for opening, _ in stories]), answers)
    fine_tune(model, shown, sft_steps, 64, seed=seed)
    return model


def load_sft() -> tuple[CausalLM, ByteLevelBPE]:
    """The stored SFT model, in float32, and its tokenizer."""
    return from_pretrained(str(files("llmkit.results") / SFT), dtype=torch.float32)


def load_reward(sft: CausalLM) -> RewardModel:
    """The stored reward model, of the most pairs and seed 0."""
    model = reward_model(sft)
    stored = SafetensorsFolder(str(files("llmkit.results") / REWARD))
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    return model.requires_grad_(False)


def many_answers(
    policy: nn.Module, prompts: Ids, end: int, generator: torch.Generator, at_once: int = 256
) -> list[list[int]]:
    """An answer to each of any number of prompts, at temperature 1."""
    parts = [prompts[i : i + at_once] for i in range(0, len(prompts), at_once)]
    return [a for part in parts for a in sample_answers(policy, policy, part, end, generator).answers()]


def sample_answers(
    policy: nn.Module, reference: nn.Module, prompts: Ids, end: int, generator: torch.Generator
) -> Rollout:
    """The same for one batch, with log-probabilities under both models."""
    return sample_rollout(policy, reference, prompts, MAX_ANSWER, end, generator=generator)


def policy_of(model: CausalLM) -> CausalLM:
    """A copy to be trained; the model itself stays as it is, the reference."""
    return copy.deepcopy(model).requires_grad_(True).eval()


class Comparisons(NamedTuple):
    """M pairs of answers to the same prompt; `ceiling` is how often the best possible judge agrees with the labels."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]
    lead: Tensor  # (M,) true score of the chosen one less that of the rejected one
    ceiling: float

    def first(self, n: int) -> "Comparisons":
        """The first n pairs; the ceiling stays that of all."""
        return Comparisons(*(part[:n] for part in self[:4]), self.ceiling)

    def batch(self, index: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (2m, T), the chosen ones first; their attention mask; the mask of the answers' tokens."""
        rows = [(self.prompts[i], side[i]) for side in (self.chosen, self.rejected) for i in index]
        ids, mask = pad([[*prompt, *answer] for prompt, answer in rows])
        starts = torch.tensor([len(prompt) for prompt, _ in rows])
        return ids, mask, mask & (torch.arange(ids.size(1)) >= starts[:, None])

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Endless random batches of `size` pairs."""
        rng = random.Random(seed)
        while True:
            yield self.batch([rng.randrange(len(self.prompts)) for _ in range(size)])


def compare(model: nn.Module, tokenizer: ByteLevelBPE, n: int, seed: int) -> Comparisons:
    """n openings, two answers of the model to each, and the noisy judge's choice.

    Of two numbers n the first 256 pairs, if both have so many, are the same.
    """
    prompts = prompt_ids(tokenizer, openings(n, seed))
    sides = [
        many_answers(model, prompts, end_id(tokenizer), torch.Generator().manual_seed(1000 * seed + i)) for i in (0, 1)
    ]
    a, b = (true_scores(tokenizer, prompts, side) for side in sides)
    labels = noisy_labels(a, b, generator=torch.Generator().manual_seed(1000 * seed + 2))
    rows = list(zip(*sides, labels.first_wins.tolist(), strict=True))
    chosen, rejected = [x if wins else y for x, y, wins in rows], [y if wins else x for x, y, wins in rows]
    return Comparisons(prompts, chosen, rejected, torch.where(labels.first_wins, a - b, b - a), labels.ceiling)


def train_reward(sft: CausalLM, pairs: Comparisons, n_steps: int, seed: int, lr: float = 2e-3) -> RewardModel:
    """A reward model of the pairs, 32 a step, its scores of mean 0 and spread 1 over the first 256 pairs' answers."""
    torch.manual_seed(seed)
    model = reward_model(sft)
    batches = ((ids, mask) for ids, mask, _ in pairs.batches(32, seed))
    train(model, batches, n_steps, lr, loss=reward_loss, weight_decay=0.0, progress=False)
    normalise(model, *pairs.batch(range(min(len(pairs.prompts), 256)))[:2])
    return model.requires_grad_(False)


def train_dpo(
    sft: CausalLM, pairs: Comparisons, n_steps: int, seed: int, lr: float = 1e-3, beta: float = BETA,
    watch: Callable[[int, CausalLM], None] | None = None,
) -> tuple[CausalLM, list[DPOStep]]:  # fmt: skip
    """A policy from the same pairs without a reward model, and every step's log.

    Each step's log is of its own mini-batch, so two steps are two sets of pairs: compare policies by `dpo_measure`.
    watch sees (step, policy) before each update.
    """
    policy, log = policy_of(sft), []

    def loss(model, ids, mask, answers):
        if watch is not None:
            watch(len(log), model)
        step = dpo(pair_log_probs(model, ids, mask, answers, reference_log_probs(sft, ids, mask, answers)), beta)
        log.append(step._replace(loss=step.loss.detach()))
        return step.loss

    train(policy, pairs.batches(32, seed), n_steps, lr, loss=loss, weight_decay=0.0, progress=False)
    return policy, log


def dpo_measure(sft: CausalLM, pairs: Comparisons, beta: float = BETA) -> Callable[[nn.Module], DPOStep]:
    """A function that measures a policy on all of these pairs, the same ones at each call, without gradients."""
    batch = pairs.batch(range(len(pairs.prompts)))
    fixed = reference_log_probs(sft, *batch)

    @torch.no_grad()
    def measure(policy: nn.Module) -> DPOStep:
        return dpo(pair_log_probs(policy, *batch, fixed), beta)

    return measure


def train_ppo(
    sft: CausalLM, prompts: Ids, end: int, reward: Callable[[Ids, Ids], Tensor], beta: float, seed: int,
    n_steps: int = PPO_STEPS, of_steps: int | None = None, n_answers: int = 64, lr: float = 1e-3,
    watch: Callable[[int, Ids, Rollout, Tensor], None] | None = None,
) -> CausalLM:  # fmt: skip
    """PPO against a reward of (prompts, answers) -> (B,).

    n_steps     how many to make of the schedule's of_steps, in which the learning rate falls to 0
    of_steps    None: as many as n_steps, the whole schedule
    watch       sees (step, prompts, rollout, scores) before each update

    Raises ValueError for more steps than the schedule has.
    """
    of_steps = n_steps if of_steps is None else of_steps
    if n_steps > of_steps:
        raise ValueError(f"{n_steps} steps of a schedule of {of_steps}: the learning rate would fall below 0")
    torch.manual_seed(seed)
    policy = policy_of(sft)
    values = ValueModel(policy.transformer)
    optimizer = AdamW([{"params": [*policy.parameters(), *values.parameters()]}], lr=lr)
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    settings = PPOSettings(beta=beta, n_epochs=2, n_minibatches=2)
    for step in range(n_steps):
        optimizer.lr = lr * (1 - step / of_steps)
        asked = rng.sample(prompts, n_answers)
        rollout = sample_answers(policy, sft, asked, end, generator)
        scores = reward(asked, rollout.answers())
        if watch is not None:
            watch(step, asked, rollout, scores)
        ppo_step(policy, values, optimizer, rollout, scores, settings, generator)
    return policy
