"""toyland's preferences: exact truth about continuations, labels of known noise, and the whole pipeline, very small."""

import doctest
import importlib
import json
import math
import random
import re
import sys
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch

from llmkit import results
from llmkit.alignment import toyland
from llmkit.alignment.reward import reward_model
from llmkit.alignment.rollout import Rollout
from llmkit.alignment.toyland_truth import (
    best_of_curve,
    end_id,
    judge,
    measure,
    method_table,
    proxy_scores,
    spread,
    true_scores,
    win_rate,
)
from llmkit.checkpoints.safetensors import SafetensorsFolder
from llmkit.data.toyland import preferences
from llmkit.data.toyland.preferences import EVENTS, MOODS, mood_stories, noisy_labels, openings, truth
from llmkit.data.toyland.words import split
from llmkit.evaluation.diversity import distinct_n
from llmkit.finetuning.toyland_chat import base_model
from llmkit.viz import figure
from llmkit.viz.rlhf import draw_paths, draw_runs, draw_two_measures

OPENING = "Mia and Tom had a red ball and a brave cat."


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("continuation", "sentiment"),
    [
        (" Mia was happy, so she smiled all day. Tom felt proud and told everybody. The cat sneezed.", 2 / 3),
        (" Because Tom was sad, he cried a little. Tom felt bored and yawned. Mia felt angry and kicked a stone.", -1),
        (" The cat sneezed. The cat sneezed. Tom was tired, so he yawned.", 0),
        (" Tom was curious, so he followed the cat. Mia was sad, so she cried a little. The cat sneezed.", 0),
        (" Mia was happy, so she danced around the ball. Mia felt curious and looked around. Mia felt proud and told "
         "everybody.", 1),
    ],
)  # fmt: skip
def test_the_truth_about_stories_made_by_hand(continuation, sentiment):
    found = truth(OPENING, continuation)
    assert found.grammatical and found.sentiment == pytest.approx(sentiment)
    assert found.score == pytest.approx(1 + sentiment)
    assert found.n_words == len(split(continuation))
    assert found.log_prob == pytest.approx(MOODS.log_prob(OPENING + continuation) - prefix_log_prob(OPENING))


def prefix_log_prob(text):
    return math.fsum(MOODS.word_log_probs(text)[:-1])


@pytest.mark.parametrize(
    "continuation",
    [
        "",
        " Mia was happy, so she smiled all day. Tom felt proud and told everybody.",  # two events
        " The cat sneezed. The cat sneezed. The cat sneezed. The cat sneezed.",  # four
        " Mia was happy, so he smiled all day. The cat sneezed. The cat sneezed.",  # whose?
        " Leo was happy, so he smiled all day. The cat sneezed. The cat sneezed.",  # not in this story
        " Mia felt happy and danced around the hat. The cat sneezed. The cat sneezed.",  # another thing
        " Mia was happy, so she kicked a stone. The cat sneezed. The cat sneezed.",  # not what the happy do
        " The cat sneezed. The cat sneezed. Mia was happy, so she smiled",
        "Mia was happy, so she smiled all day. The cat sneezed. The cat sneezed.",  # no space
        " happy happy happy",
    ],
)
def test_what_toyland_cannot_write_is_worth_nothing(continuation):
    found = truth(OPENING, continuation)
    assert (found.score, found.sentiment, found.grammatical, found.log_prob) == (0.0, 0.0, False, -math.inf)


def test_the_judge_agrees_with_what_the_source_had_in_mind():
    rng = random.Random(5)
    for _ in range(150):
        story = MOODS.sample(rng)
        first, mark, rest = story.text.partition(".")
        found = truth(first + mark, rest)
        assert found.grammatical and found.sentiment == pytest.approx(story.trace[-1].memory["mood"] / EVENTS)


def test_the_examples_in_docstrings():
    failed, n = doctest.testmod(preferences)
    assert n and not failed


def test_an_opening_of_another_world_is_refused():
    with pytest.raises(ValueError, match="no opening"):
        truth("Mia and Tom had a red whale.", " The cat sneezed.")


def test_openings_differ_and_begin_alike():
    many = openings(300, seed=1)
    assert len(set(many)) == 300 and many[:20] == openings(20, seed=1) and many[:20] != openings(20, seed=2)
    assert mood_stories(5, 3) == mood_stories(9, 3)[:5]


def test_labels_are_as_noisy_as_they_say():
    first = torch.tensor([1.0, 0.5, 0.0, 1.0]).repeat(20_000)
    second = torch.tensor([0.5, 1.0, 0.0, 0.0]).repeat(20_000)
    labels = noisy_labels(first, second, 0.25, 0.05, torch.Generator().manual_seed(0))
    expected = [0.05 + 0.9 / (1 + math.exp(-lead / 0.25)) for lead in (0.5, -0.5, 0, 1)]
    assert labels.win_probs[:4].tolist() == pytest.approx(expected)
    assert labels.first_wins.view(-1, 4).float().mean(0).tolist() == pytest.approx(expected, abs=0.012)
    assert labels.ceiling == pytest.approx(sum(max(p, 1 - p) for p in expected) / 4, abs=1e-6)
    best = (labels.first_wins == (first > second))[first != second].float().mean().item()
    assert best == pytest.approx(sum(max(p, 1 - p) for p in (expected[0], expected[1], expected[3])) / 3, abs=0.01)


def test_impossible_judges_are_refused():
    one = torch.ones(2)
    for change in ({"temperature": 0.0}, {"temperature": -1.0}, {"flip": 0.6}):
        with pytest.raises(ValueError, match="must be above 0|flip"):
            noisy_labels(one, one, **change)
    with pytest.raises(ValueError, match=r"\(M,\)"):
        noisy_labels(one, torch.ones(3))


def test_distinct_n():
    assert distinct_n([list("abab"), list("ab")], 2) == 0.5
    assert distinct_n([list("abab"), list("ab")], 1) == pytest.approx(2 / 6)
    assert distinct_n([list("a"), list("abc")], 3) == 1.0
    for texts, n in ((["a"], 2), ([], 2), (["ab"], 0)):
        with pytest.raises(ValueError, match="n-gram|nothing to count"):
            distinct_n(texts, n)


def test_best_of_n_over_all_choices():
    """Against all choices, one by one."""
    generator = torch.Generator().manual_seed(0)
    proxy, true = torch.rand(3, 6, generator=generator), torch.rand(3, 6, generator=generator)
    for n, point in zip((1, 2, 5, 6), best_of_curve(proxy, true, (1, 2, 5, 6)), strict=True):
        best = [(p, max(c, key=lambda i, p=p: proxy[p, i])) for p in range(3) for c in combinations(range(6), n)]
        for found, scores in zip(point, (proxy, true), strict=True):
            assert found == pytest.approx(sum(scores[p, i].item() for p, i in best) / len(best), abs=1e-6)
    with pytest.raises(ValueError, match="best of n"):
        best_of_curve(proxy, true, (7,))


def test_win_rate_counts_ties_half():
    assert win_rate([1.0, 0.0, 1 / 3], [0.0, 1.0, 0.1 + 0.7 / 3])[0] == pytest.approx(0.5)
    assert win_rate([1.0] * 40, [0.0] * 40) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="for each of b is needed, got 3 and 1"):
        win_rate([1.0, 0.0, 1.0], [0.5])
    for a, b in (([float("nan"), 1.0], [0.0, 0.0]), ([0.0, 1.0], [0.0, float("nan")])):
        with pytest.raises(ValueError, match="NaN"):
            win_rate(a, b)


def a_run(proxy, score, wins):
    found = {"proxy": proxy, "score": score, "grammatical": 0.5, "nats_per_word": 0.6, "distinct_2": 0.2, "words": 30.0,
             "kl": 1.0, "win_rate": wins}  # fmt: skip
    return {"methods": {"PPO": found}}


def test_the_table_holds_means_and_spreads():
    runs = [a_run(1.0, 0.5, [0.6, 0.5, 0.7]), a_run(2.0, 1.5, [0.8, 0.75, 0.9])]
    assert spread(runs, "PPO", "proxy") == (1.5, 1.0, 2.0)
    means, seeds = method_table(runs, ["PPO"]).splitlines()[1:]
    assert means.split()[1:4] == ["1.50", "1.00", "0.50"] and means.endswith("0.70 [0.50, 0.90]")
    assert seeds.split()[:3] == ["±0.50", "±0.50", "±0.00"]
    assert len(method_table(runs[:1], ["PPO"]).splitlines()) == 2  # one seed has no spread
    runs[1]["methods"]["PPO"]["distinct_2"] = None
    assert [line.split()[i] for line, i in zip(method_table(runs, ["PPO"]).splitlines()[1:], (5, 4), strict=True)] == [
        "nan", "±nan",
    ]  # fmt: skip


def test_figures_show_every_seed_and_their_mean():
    fig, axis = figure()
    draw_runs(axis, {"PPO": ([[(0, 1.0), (1, 2.0)], [(0, 3.0), (1, 6.0)]], "#000000")}, label=True)
    assert [list(line.get_ydata()) for line in axis.lines] == [[1, 2], [3, 6], [2, 4]]
    assert [text.get_text().strip() for text in axis.texts] == ["PPO"]
    fig, axis = figure()
    draw_two_measures(axis, {"SFT": ([0.0, 0.2], [0.7, 0.9], "#000000")})
    assert axis.lines[0].get_xdata().tolist() == [0.0, 0.2] and axis.lines[0].get_ydata().tolist() == [0.7, 0.9]
    fig, axis = figure()
    draw_paths(axis, {"PPO": ([[(0, 1), (2, 3)], [(4, 5), (6, 7)]], "#000000")})
    assert [line.get_ydata().tolist() for line in axis.lines] == [[1, 3], [3], [5, 7], [7]]  # each way and its end
    assert [text.get_text() for text in axis.texts] == ["PPO", "ends of\n● seed 0\n■ seed 1"]


def test_the_stored_results_say_where_they_come_from():
    result = results.load("alignment")
    assert result["command"].startswith("python benchmarks/results/alignment.py ")
    wanted = int(re.search(r"--seeds (\d+)", result["command"])[1])
    assert len(result["runs"]) == result["seeds_done"] == wanted, "a run that was stopped is no result"
    for run in result["runs"]:
        found = run["methods"]
        assert found["SFT"]["win_rate"] == [0.5, 0.5, 0.5] and found["SFT"]["kl"] == 0
        for one in found.values():
            assert one["score"] == pytest.approx(one["sentiment"] + one["grammatical"], abs=2e-4)
            assert one["win_rate"][1] <= one["win_rate"][0] <= one["win_rate"][2]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """benchmarks/results/alignment.py with seeds that take no time; the second one fails while `broken` is in it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks" / "results"))
    monkeypatch.setattr(sys, "argv", ["alignment.py", "--seeds", "2", "--out", str(tmp_path)])
    alignment = importlib.import_module("alignment")

    class Seed:
        def __init__(self, sft, tokenizer, seed, chosen):
            self.seed, self.kept = seed, {"weight": torch.tensor([float(seed)])}

        def run(self):
            if self.seed and alignment.broken:
                raise KeyboardInterrupt
            return {"seed": self.seed}

    monkeypatch.setattr(alignment, "Pipeline", Seed)
    monkeypatch.setattr(alignment, "source", lambda n: {})
    monkeypatch.setattr(alignment, "broken", True, raising=False)
    return alignment


def test_a_run_that_is_stopped_changes_no_result(script, tmp_path, monkeypatch):
    """Nor the reward model that goes with it; a whole run stores that of its first seed."""
    (tmp_path / "alignment.json").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alignment.json", "alignment.partial.json"]
    assert (tmp_path / "alignment.json").read_text() == "old"
    assert json.loads((tmp_path / "alignment.partial.json").read_text())["seeds_done"] == 1
    monkeypatch.setattr(script, "broken", False)
    script.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alignment.json", toyland.REWARD]
    assert json.loads((tmp_path / "alignment.json").read_text())["runs"] == [{"seed": 0}, {"seed": 1}]
    assert SafetensorsFolder(tmp_path / toyland.REWARD)["weight"].item() == 0


@pytest.fixture(scope="module")
def stored():
    return toyland.load_sft()


def test_the_stored_model_writes_what_toyland_can_write(stored):
    """And a fresh model does not."""
    sft, tokenizer = stored
    prompts = toyland.prompt_ids(tokenizer, openings(40, 4))

    def share(model):
        answers = toyland.many_answers(model, prompts, end_id(tokenizer), torch.Generator().manual_seed(0))
        return sum(found.grammatical for found in judge(tokenizer, prompts, answers)) / 40

    assert share(sft) > 0.5
    torch.manual_seed(0)
    assert share(base_model(tokenizer, 64, 2)) == 0


def test_pairs_hold_what_was_said_and_batches_count_answers_only(stored):
    sft, tokenizer = stored
    pairs = toyland.compare(sft, tokenizer, 20, 3)
    lead = true_scores(tokenizer, pairs.prompts, pairs.chosen) - true_scores(tokenizer, pairs.prompts, pairs.rejected)
    assert torch.equal(pairs.lead, lead) and 0.5 < pairs.ceiling < 1
    ids, mask, answers = pairs.batch([4, 7])
    for row, (i, side) in enumerate([(4, pairs.chosen), (7, pairs.chosen), (4, pairs.rejected), (7, pairs.rejected)]):
        assert ids[row][mask[row]].tolist() == pairs.prompts[i] + side[i]
        assert ids[row][answers[row]].tolist() == side[i]


def test_a_policy_that_only_ends_is_measured(stored):
    """It is worth nothing, and what it has no figure for is None where it is stored."""
    sft, tokenizer = stored
    prompts = toyland.prompt_ids(tokenizer, openings(3, 4))
    found = measure(tokenizer, prompts, [[end_id(tokenizer)]] * 3, reward_model(sft), 2.5)
    assert (found.score, found.words, found.kl) == (0, 0, 2.5) and math.isnan(found.distinct_2)
    kept = found.as_json()
    assert kept["distinct_2"] is kept["nats_per_word"] is None and kept["kl"] == 2.5
    json.dumps(kept, allow_nan=False)


def test_ppo_goes_through_its_schedule(stored, monkeypatch):
    """Its learning rates fall from lr towards 0 in of_steps, which are n_steps where nothing else is said."""
    sft, tokenizer = stored
    rates = []
    monkeypatch.setattr(toyland, "sample_answers", lambda *_: Rollout(*[None] * 7))
    monkeypatch.setattr(Rollout, "answers", lambda rollout: [])
    monkeypatch.setattr(toyland, "ppo_step", lambda policy, values, optimizer, *_: rates.append(optimizer.lr))
    prompts = toyland.prompt_ids(tokenizer, openings(4, 2))

    def rates_of(**steps):
        rates.clear()
        toyland.train_ppo(sft, prompts, 0, lambda p, a: None, 0.0, 0, n_answers=2, lr=1.0, **steps)
        return rates

    assert rates_of(n_steps=4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates_of(n_steps=2, of_steps=4) == pytest.approx([1, 0.75])
    with pytest.raises(ValueError, match="5 steps of a schedule of 4"):
        rates_of(n_steps=5, of_steps=4)


def test_the_pipeline_end_to_end(stored):
    """A few steps of everything: the reward model learns its pairs, DPO its margins, PPO the truth it is paid for."""
    sft, tokenizer = stored
    before = {name: tensor.clone() for name, tensor in sft.state_dict().items()}
    pairs = toyland.compare(sft, tokenizer, 32, 1)
    model = toyland.train_reward(sft, pairs, 12, 0)
    chosen, rejected = (proxy_scores(model, pairs.prompts, side) for side in (pairs.chosen, pairs.rejected))
    assert (chosen > rejected).float().mean() > 0.85
    assert torch.cat([chosen, rejected]).std().item() == pytest.approx(1, abs=0.02)

    on_these, seen = toyland.dpo_measure(sft, pairs), []
    policy, log = toyland.train_dpo(sft, pairs, 4, 0, watch=lambda step, policy: seen.append((step, on_these(policy))))
    assert log[0].margin == 0 and log[-1].margin > 0 and log[-1].loss < log[0].loss
    assert [step for step, _ in seen] == [0, 1, 2, 3] and not on_these(policy).loss.requires_grad
    assert seen[0][1].margin == 0 and seen[0][1].chosen_reward == 0
    for old, new in pairwise([one for _, one in seen] + [on_these(policy)]):  # the same pairs
        gained = (new.chosen - new.rejected) - (old.chosen - old.rejected)
        assert (new.margin - old.margin).item() == pytest.approx(toyland.BETA * gained.item(), abs=1e-4)
    again, _ = toyland.train_dpo(sft, pairs, 4, 0)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))

    prompts, path = toyland.prompt_ids(tokenizer, openings(48, 2)), []
    policy = toyland.train_ppo(
        sft, prompts, end_id(tokenizer), lambda p, a: proxy_scores(model, p, a), 0.0, 0, n_steps=3, of_steps=40,
        n_answers=24,
        watch=lambda step, asked, rollout, scores: path.append(
            ((rollout.log_probs - rollout.ref_log_probs).sum(1).mean().item(), scores.mean().item())
        ),
    )  # fmt: skip
    assert path[0][0] == 0 < path[-1][0] and len(path) == 3
    answers = toyland.many_answers(policy, prompts, end_id(tokenizer), torch.Generator().manual_seed(0))
    found = measure(tokenizer, prompts, answers, model, path[-1][0])
    assert found.proxy == pytest.approx(proxy_scores(model, prompts, answers).mean().item())
    assert found.score == pytest.approx(found.sentiment + found.grammatical)
    assert len(found.scores) == 48 and 0 < found.distinct_2 <= 1 and found.words > 10
    assert all(torch.equal(before[name], tensor) for name, tensor in sft.state_dict().items())
