"""What lesson 19 added besides GRPO itself: careless verifiers, the base model's batches, its judge, train_grpo."""

import itertools

import pytest
import torch

from llmkit import results
from llmkit.alignment.grpo import GRPOSettings
from llmkit.alignment.reasoning import base_model, coin, encode_problem, judge, solve, solved_batches, train_grpo
from llmkit.alignment.verifiers import exact_answer, part_of_answer, right_form, right_work
from llmkit.data.arithmetic import addition, decode, encode, is_held_out, problems
from llmkit.training.losses import IGNORE


@pytest.fixture(scope="module")
def base():
    return base_model(n_steps=2, n_last_steps=1)


@pytest.mark.parametrize("text, part, work", [
    ("7+5+0=12,4+8+1=13;132", 1, 1), ("7+5+0=13,4+8+1=13;132", 1, 0), ("7+5+0=12,4+8+1=13;999", 0, 1),
    ("13", 1, 1), ("", 1, 1), ("1+1=2;132", 1, 0), (";132", 1, 0), ("1+1+0=2;5;132", 1, 0), ("12+0+0=12;1321", 0, 1),
    ("１+1+0=2;132", 1, 0), (f"{'9' * 5000}+0+0={'9' * 5000};132", 1, 0), (f"1+1+0={'2' * 5000};132", 1, 0),
])  # fmt: skip
def test_careless_verifiers(text, part, work):
    assert part_of_answer(text, "132") == part and right_work(text, "132") == work


def test_only_solutions_are_learnt():
    ids, targets = encode_problem(addition(4, 8))
    assert decode(ids) == "4+8=12" and [t for t in targets if t != IGNORE] == encode("12\n")
    assert targets.index(encode("1")[0]) == len("4+8=") - 1  # what is to be written next stands under the "="
    for worked in (0.0, 0.25, 1.0):
        for batch_ids, batch_targets in itertools.islice(solved_batches(worked, 8, seed=3), 4):
            texts = [decode(row) for row in batch_ids.tolist()]
            assert sum(";" in text for text in texts) == 8 * worked and batch_ids.shape == batch_targets.shape
            for text in texts:
                prompt, _, solution = text.partition("=")
                a, b = map(int, prompt.split("+"))
                assert exact_answer(solution, str(a + b)) and not is_held_out(a, b)
    with pytest.raises(ValueError, match="share from 0 to 1"):
        next(solved_batches(1.5, 8))


def test_base_is_the_same_every_time_and_leaves_torch_alone(base):
    state = torch.random.get_rng_state()
    again = base_model(n_steps=2, n_last_steps=1)
    assert torch.equal(state, torch.random.get_rng_state()) and not again.training
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), again.parameters(), strict=True))
    assert base.n_params() == 27744


def test_judge_counts_right_answers(base, monkeypatch):
    tests = problems(4, 2, seed=9, held_out=True)
    right = [problem.answer for problem in tests]
    drawn = [addition(*map(int, tests[0].prompt[:-1].split("+")), scratchpad=True).solution, "0" + right[1], "x", ""]
    answers = iter([drawn, right])  # what is drawn is asked for first
    monkeypatch.setattr("llmkit.alignment.reasoning.solve", lambda *args, **options: next(answers))
    judged = judge(base, tests)
    assert judged[:5] == (1.0, 0.25, 0.5, 0.25, 0.25) and judged.length == sum(map(len, drawn)) / 4


def test_solve_is_seeded_and_ends(base):
    from llmkit.generation.logits import Sampler

    some = problems(3, 2, seed=1)
    first, again, other = (solve(base, some, Sampler(1.0), seed, 12) for seed in (0, 0, 1))
    assert first == again != other and all(len(text) <= 12 and "\n" not in text for text in first + other)


def test_coin_is_fair_and_does_not_look():
    reward = coin(0)
    paid = [reward("132", "132") for _ in range(2000)]
    assert set(paid) == {0.0, 1.0} and abs(sum(paid) / 2000 - 0.5) < 0.05
    assert [coin(1)("1", "2") for _ in range(3)] == [coin(1)("132", "132") for _ in range(3)]


def test_train_grpo_learns_what_is_paid_and_leaves_the_start_alone(base):
    kept = [p.clone() for p in base.parameters()]
    tests, settings = problems(40, 2, seed=9, held_out=True), GRPOSettings(group_size=8)
    run = train_grpo(
        base, lambda text, answer: float(text.count("7") > 0), 25, tests, 10, 0, 4, lr=3e-3, settings=settings,
        max_new_tokens=6,
    )  # fmt: skip
    assert [step for step, _ in run.judged] == [0, 10, 20, 25] and len(run.stats) == 25
    assert run.stats[-1].reward > run.stats[0].reward + 0.3
    assert all(torch.equal(a, b) for a, b in zip(kept, base.parameters(), strict=True))
    again = train_grpo(base, lambda text, answer: right_form(text), 1, seed=1, settings=settings, max_new_tokens=6)
    twice = train_grpo(base, lambda text, answer: right_form(text), 1, seed=1, settings=settings, max_new_tokens=6)
    other = train_grpo(base, lambda text, answer: right_form(text), 1, seed=2, settings=settings, max_new_tokens=6)
    assert again.stats == twice.stats != other.stats and not again.judged


def test_nothing_paid_moves_nothing(base):
    run = train_grpo(base, lambda text, answer: 0.0, 2, settings=GRPOSettings(group_size=4), max_new_tokens=4)
    assert all(torch.equal(a, b) for a, b in zip(run.policy.parameters(), base.parameters(), strict=True))
    assert [step.zero_variance for step in run.stats] == [1.0, 1.0]


def test_training_sums_are_never_held_out(base):
    asked = []

    def reward(text, answer):
        asked.append(answer)
        return 0.0

    train_grpo(base, reward, 3, settings=GRPOSettings(group_size=2), n_prompts=5, max_new_tokens=2)
    shown = [p.answer for step in range(3) for p in problems(5, 2, seed=1_000_000 + step) for _ in range(2)]
    assert asked == shown  # problems(…) without held_out


def test_stored_run_has_every_arm():
    stored = results.load("reasoning")
    seeds = {(row["name"], row["seed"]) for row in stored["rows"]}
    names = ["verifier", "random", "form", "work", "contains", "part", "mended after", "three digits"]
    names += ["SFT 0.15", "SFT 1.0"]
    assert seeds == {(name, seed) for name in names for seed in range(3)}
    drawn = {(row["name"], row["seed"]): row["end"]["drawn"] for row in stored["rows"] if "end" in row}
    for seed in range(3):  # what the lesson says of the cheated verifier, and of its control
        cheated, honest = drawn["contains", seed], drawn["verifier", seed]
        unearned, by_chance = (one["contains_answer"] - one["exact_answer"] for one in (cheated, honest))
        assert 0 <= by_chance < 0.005 and unearned > 0.01, "ten or more of 800 drawn answers, against one or two"
    rates = stored["pass_at_k"]
    for curve in (rates["base"], *rates["verifier"]):
        assert len(curve) == len(rates["k"]) and curve == sorted(curve) and 0 <= curve[0] <= curve[-1] <= 1


def test_figures_refuse_curves_that_do_not_match():
    from matplotlib import pyplot as plt

    from llmkit.viz.reasoning import draw_pass_at_k, draw_seeds

    fig, (left, right) = plt.subplots(1, 2)
    two = [([0, 1], [0.0, 0.5]), ([0, 1], [0.5, 1.0])]
    draw_seeds(left, {"a": two, "b": [([0, 1], [0.2, 0.76])]}, {"a": "k", "b": "r"})
    assert list(left.lines[2].get_ydata()) == [0.25, 0.75]  # after two thin lines the mean
    heights = [text.get_position()[1] for text in left.texts]
    assert heights[1] - heights[0] >= 0.07
    draw_pass_at_k(right, {"base": ([1, 2, 4], [0.1, 0.2, 0.3])}, {"base": "k"})
    assert [label.get_text() for label in right.get_xticklabels()] == ["1", "2", "4"]
    with pytest.raises(ValueError, match="a: the curves of an arm must have the same x"):
        draw_seeds(left, {"a": [([0, 1], [0.0, 0.5]), ([0, 2], [0.5, 1.0])]}, {"a": "k"})
    plt.close(fig)
