"""What lesson 19 and benchmarks/results/reasoning.py share: a model that adds badly, its judge, GRPO on additions."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llmkit.alignment.grpo import GRPOSettings, GRPOStats, grpo_step
from llmkit.alignment.rollout import sample_rollout
from llmkit.alignment.verifiers import WORK_ENDS, exact_answer, lenient_answer, right_form
from llmkit.data.arithmetic import ALPHABET, EOS, Problem, decode, encode, problems
from llmkit.finetuning.masks import assistant_targets
from llmkit.finetuning.sft import Encoded, collate, sft_loss
from llmkit.generation.generate import generate_batch
from llmkit.generation.logits import GREEDY, Sampler
from llmkit.layers.heads import CausalLM
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.loop import train
from llmkit.training.muon import Muon
from llmkit.training.optim import AdamW

Reward = Callable[[str, str], float]  # (what the model wrote, the right answer) -> what it is paid
MAX_NEW_TOKENS = 28  # a worked sum of two digits takes 22, its end included
SETTINGS = GRPOSettings(group_size=16)


def encode_problem(problem: Problem) -> Encoded:
    """Prompt, solution and line break; only what stands after the prompt is learnt."""
    prompt, solution = encode(problem.prompt), [*encode(problem.solution), EOS]
    ids = prompt + solution
    return Encoded(ids, assistant_targets(ids, [0] * len(prompt) + [1] * len(solution)))


def solved_batches(worked: float, batch_size: int, seed: int = 0, digits: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches for `sft_loss`, ids and targets (B, T): training problems with gold solutions.

    worked   the share of each batch that shows its work, "7+5+0=12,4+8+1=13;132"; the rest has the bare answer
    """
    if not 0 <= worked <= 1:
        raise ValueError(f"worked is a share from 0 to 1, got {worked}")
    rng, n_worked = random.Random(seed), round(worked * batch_size)
    bare, shown = (problems(8000, digits, seed, scratchpad=scratchpad) for scratchpad in (False, True))
    while True:
        rows = rng.sample(range(len(bare)), batch_size)
        chosen = [shown[i] for i in rows[:n_worked]] + [bare[i] for i in rows[n_worked:]]
        yield collate([encode_problem(problem) for problem in chosen], EOS)


def base_model(seed: int = 0, n_steps: int = 400, n_last_steps: int = 60) -> CausalLM:
    """A LLaMA of 27,744 numbers that adds two digits badly, in evaluation mode: about nine seconds on one core.

    First it reads worked sums, and a few bare ones; then mostly bare ones, so that it shows its work in about one
    answer of five, and is right mostly there. The random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = llama(LlamaConfig(len(ALPHABET), d_model=32, n_layers=2, n_heads=1, d_ff=96, max_len=64))
        torch.nn.init.normal_(model.transformer.embed.tokens.weight, std=0.5)
        optimizer = Muon(model, 0.01, adamw_lr=0.015)
        train(model, solved_batches(0.9, 32, seed), n_steps, 0.01, loss=sft_loss, optimizer=optimizer, progress=False)
        last = solved_batches(0.15, 32, seed + 1)
        train(model, last, n_last_steps, 1e-3, weight_decay=0.0, loss=sft_loss, progress=False)
    return model.eval()


def solve(
    model: CausalLM, some: Sequence[Problem], sampler: Sampler = GREEDY, seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:  # fmt: skip
    """What the model writes after each prompt, without the line break that ends it."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    ids = generate_batch(
        model, [encode(problem.prompt) for problem in some], max_new_tokens, EOS, sampler=sampler, stop_tokens=(EOS,),
        generator=generator,
    )  # fmt: skip
    return [decode(row) for row in ids]


class Judged(NamedTuple):
    """Shares of the test problems; all but `greedy` are of answers drawn at temperature 1."""

    greedy: float  # right, where the likeliest token is taken each time
    strict: float  # right, character for character
    lenient: float  # the last number is right
    form: float  # a number stands where the answer belongs
    worked: float  # the work is shown
    length: float  # characters an answer


def judge(model: CausalLM, tests: Sequence[Problem], seed: int = 0, max_new_tokens: int = MAX_NEW_TOKENS) -> Judged:
    """How the model answers `tests`, one greedy answer and one drawn answer a problem."""

    def share(texts: list[str], reward: Reward) -> float:
        return sum(reward(text, problem.answer) for text, problem in zip(texts, tests, strict=True)) / len(tests)

    drawn = solve(model, tests, Sampler(1.0), seed, max_new_tokens)
    return Judged(
        share(solve(model, tests, max_new_tokens=max_new_tokens), exact_answer),
        share(drawn, exact_answer),
        share(drawn, lenient_answer),
        share(drawn, lambda text, answer: right_form(text)),
        share(drawn, lambda text, answer: float(WORK_ENDS in text)),
        share(drawn, lambda text, answer: len(text)),
    )


def coin(seed: int = 0) -> Reward:
    """A reward that does not look: 1 or 0, by chance."""
    rng = random.Random(f"coin {seed}")
    return lambda completion, answer: float(rng.random() < 0.5)


class Trained(NamedTuple):
    """A policy, the statistics of each step, and (step, Judged) before, between and after."""

    policy: CausalLM
    stats: list[GRPOStats]
    judged: list[tuple[int, Judged]]


def train_grpo(
    start: CausalLM,
    reward: Reward,
    n_steps: int,
    tests: Sequence[Problem] = (),
    judge_every: int = 10,
    seed: int = 0,
    n_prompts: int = 8,
    digits: int = 2,
    lr: float = 3e-4,
    settings: GRPOSettings = SETTINGS,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Trained:
    """GRPO on a copy of `start`, which is the reference too: each step n_prompts new training problems.

    reward   of a text, given the right answer
    tests    what the policy is judged by every judge_every steps, and at the end; without any it is not judged
    """
    policy = copy.deepcopy(start).requires_grad_(True)
    reference = copy.deepcopy(start).requires_grad_(False)
    optimizer = AdamW([{"params": policy.parameters()}], lr, betas=(0.9, 0.99))
    generator, trained = torch.Generator().manual_seed(seed), Trained(policy, [], [])
    for step in range(n_steps):
        if tests and step % judge_every == 0:
            trained.judged.append((step, judge(policy, tests, max_new_tokens=max_new_tokens)))
        asked = problems(n_prompts, digits, seed=1_000_000 * (seed + 1) + step)
        many = [problem for problem in asked for _ in range(settings.group_size)]
        rollout = sample_rollout(
            policy, reference, [encode(problem.prompt) for problem in many], max_new_tokens, EOS, settings.temperature,
            generator=generator,
        )  # fmt: skip
        texts = [decode(answer) for answer in rollout.answers()]
        rewards = torch.tensor([reward(text, problem.answer) for text, problem in zip(texts, many, strict=True)])
        trained.stats.append(grpo_step(policy, optimizer, rollout, rewards, settings, generator))
    if tests:
        trained.judged.append((n_steps, judge(policy, tests, max_new_tokens=max_new_tokens)))
    return trained
