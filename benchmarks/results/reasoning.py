"""GRPO on additions under several rewards, each with three seeds, and SFT on the same base for as many sequences.

Run: python benchmarks/results/reasoning.py     about 2 minutes on one core, less on three
"""

import copy
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch
from store import arguments, store

from llmkit.alignment.reasoning import base_model, coin, judge, solve, solved_batches, train_grpo
from llmkit.alignment.verifiers import (
    contains_answer,
    exact_answer,
    final_answer,
    part_of_answer,
    right_form,
    right_work,
)
from llmkit.data.arithmetic import problems
from llmkit.evaluation.pass_at_k import mean_pass_at_k
from llmkit.finetuning.sft import sft_loss
from llmkit.generation.logits import Sampler
from llmkit.training.loop import train

KS = (1, 2, 4, 8, 16, 32, 64, 128)
REWARDS = {
    "verifier": lambda seed: exact_answer,
    "random": coin,
    "form": lambda seed: lambda text, answer: right_form(text),
    "work": lambda seed: right_work,
    "contains": lambda seed: contains_answer,
    "part": lambda seed: part_of_answer,
}
VERIFIERS = (exact_answer, contains_answer, part_of_answer, right_work)


def main() -> None:
    chosen = arguments(__doc__, steps=40, seeds=3, tests=200, tries=128)
    base, tests = base_model(chosen.seed), problems(chosen.tests, 2, seed=9, held_out=True)
    with ProcessPoolExecutor(chosen.seeds, get_context("spawn")) as pool:
        one = partial(one_seed, base, tests, chosen.steps, chosen.tries)
        rows, rates, seconds = zip(*pool.map(one, range(chosen.seeds)), strict=True)
    measured = {
        "rows": [row for some in rows for row in some],
        "base": paid_by_each(base, tests),
        "pass_at_k": {"k": list(KS), "base": pass_rates(base, tests[:100], chosen.tries), "verifier": list(rates)},
        "cpu_seconds": round(time.process_time() + sum(seconds)),
    }
    store("reasoning", chosen, measured)


def one_seed(base, tests, n_steps: int, tries: int, seed: int) -> tuple[list[dict], list[float], float]:
    """All rewards with one seed: rows, pass@k of the policy with the verifier, CPU seconds."""
    torch.set_num_threads(1)
    rows, rates = [], []
    for name, reward in REWARDS.items():
        run = train_grpo(base, reward(seed), n_steps, tests, seed=seed)
        rows.append(row(name, seed, run) | {"end": paid_by_each(run.policy, tests)})
        if name == "verifier":
            rates = pass_rates(run.policy, tests[:100], tries)
        if name == "work":
            rows.append(row("mended after", seed, train_grpo(run.policy, exact_answer, n_steps, tests, seed=seed + 10)))
    three = problems(len(tests), 3, seed=9, held_out=True)
    run = train_grpo(base, exact_answer, n_steps // 2, three, 20, seed, digits=3, max_new_tokens=40)
    rows.append(row("three digits", seed, run))
    rows += [continued(base, worked, n_steps, tests, seed) for worked in (0.15, 1.0)]
    return rows, rates, time.process_time()


def row(name: str, seed: int, run) -> dict:
    judged = [{"step": step, **rounded(j._asdict())} for step, j in run.judged]
    stats = [rounded({"reward": s.reward, "kl": s.kl, "zero_variance": s.zero_variance}) for s in run.stats]
    print(name, seed, judged[-1], flush=True)
    return {"name": name, "seed": seed, "judged": judged, "stats": {k: [s[k] for s in stats] for k in stats[0]}}


def paid_by_each(model, tests, n: int = 4) -> dict:
    """What share of the same held-out answers each verifier pays, greedy and drawn (n a problem).

    "longer" is the share of drawn answers whose final number holds the right one and other digits too; "examples" are
    answers that contains_answer pays and exact_answer does not, one to each of the first three sums that have one.
    """
    many = [problem for problem in tests for _ in range(n)]
    drawn = list(zip(solve(model, many, Sampler(1.0), seed=1), many, strict=True))
    greedy = list(zip(solve(model, tests), tests, strict=True))
    cheats = [(text, p) for text, p in drawn if contains_answer(text, p.answer) > exact_answer(text, p.answer)]
    by_sum = {p.prompt: p.prompt + text for text, p in cheats}
    longer = [text for text, p in cheats if right_form(text) and p.answer in final_answer(text)]
    return {
        "greedy": shares(greedy),
        "drawn": shares(drawn) | {"longer": round(len(longer) / len(drawn), 4)},
        "examples": list(by_sum.values())[:3],
    }


def shares(answered: list[tuple]) -> dict[str, float]:
    """The share of (text, problem) that each verifier pays."""
    paid = {v.__name__: sum(v(text, p.answer) for text, p in answered) for v in VERIFIERS}
    return rounded({name: total / len(answered) for name, total in paid.items()})


def continued(base, worked: float, n_steps: int, tests, seed: int) -> dict:
    """SFT instead of GRPO: as many sequences a step, all with gold solutions."""
    model = copy.deepcopy(base).requires_grad_(True)
    batches = solved_batches(worked, 128, 1000 + seed)
    history = train(
        model, batches, n_steps, 1e-3, weight_decay=0.0, loss=sft_loss, progress=False,
        evaluate=lambda model: judge(model, tests), evaluate_at=range(0, n_steps, 10),
    )  # fmt: skip
    judged = [{"step": step, **rounded(j._asdict())} for step, j in history.evaluations]
    print("SFT", worked, seed, judged[-1], flush=True)
    return {"name": f"SFT {worked}", "seed": seed, "judged": judged}


def pass_rates(model, tests, n: int) -> list[float]:
    """pass@k for each k, from n drawn answers a problem."""
    texts = solve(model, [problem for problem in tests for _ in range(n)], Sampler(1.0), seed=1)
    right = [exact_answer(text, tests[i // n].answer) for i, text in enumerate(texts)]
    tries = [right[i : i + n] for i in range(0, len(right), n)]
    return [round(mean_pass_at_k(tries, k), 4) for k in KS if k <= n]


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}


if __name__ == "__main__":
    main()
