"""The capstone's controls: what was trained on is not asked, and four pairs judged by hand."""

import sys
from pathlib import Path

import pytest
import torch

from llmkit.alignment.toyland import load_sft, prompt_ids
from llmkit.data.toyland.preferences import openings

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.capstone import common, prefer, reinforce  # noqa: E402
from benchmarks.capstone.plan import TINY  # noqa: E402


@pytest.fixture
def same_openings(monkeypatch):
    """All seeds draw from one list, the test pairs after the pairs: where nothing is taken out, all overlap.

    Gives the openings of both kinds of pairs.
    """
    every = openings(100, 0)
    monkeypatch.setattr(prefer, "openings", lambda n, seed: every[TINY.pairs * (seed == prefer.TEST) :][:n])
    return every[: TINY.pairs + TINY.test_pairs]


def test_openings_of_the_test_are_in_no_pair(same_openings):
    fresh = prefer.fresh_openings(TINY, TINY.answers, prefer.ASKED)
    assert len(set(fresh)) == TINY.answers and not set(fresh) & set(same_openings)


def test_ppo_is_not_asked_what_is_tested(same_openings, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stopped(sft, prompts, *rest, **options):
        raise Stop(prompts)

    sft, tokenizer = load_sft()
    monkeypatch.setattr(common, "load", lambda folder: (sft, tokenizer))
    monkeypatch.setattr(prefer, "load_reward", lambda *_: None)
    monkeypatch.setattr(reinforce, "train_ppo", stopped)
    with pytest.raises(Stop) as stop:
        reinforce.run(TINY, tmp_path)
    asked = set(map(tuple, stop.value.args[0]))
    kept = [*same_openings, *prefer.fresh_openings(TINY, TINY.answers, prefer.ASKED)]
    assert len(asked) == TINY.openings and len(kept) == len(same_openings) + TINY.answers
    assert not asked & set(map(tuple, prompt_ids(tokenizer, kept)))


def test_held_out_texts_were_not_trained_on(monkeypatch):
    """Half of all texts are the same for every seed."""
    monkeypatch.setattr(common, "plain_texts", lambda n, seed: [f"{i} {seed * (i % 2)}" for i in range(n)])
    monkeypatch.setattr(common, "mood_stories", lambda n, seed: [(f"{i} ", f"{seed * (i % 2)}") for i in range(n)])
    held_out = common._general_texts.__wrapped__(TINY)
    assert sorted(sum(held_out.values(), [])) == sorted(f"{i} 1" for i in range(28) if i % 7 < 4 and i % 2)
    assert common._domain_texts.__wrapped__(TINY) == [f"{i} 1" for i in range(8) if i % 2]


def test_the_reward_model_is_judged_by_labels_and_by_the_truth():
    """Four pairs: in three the answers differ, and one label of those is right; the model says what two should be."""
    said, lead = torch.tensor([True, True, False, True]), torch.tensor([1.0, -1.0, -1.0, 0.0])
    found = prefer._reward_figures(said, lead, 0.8)
    assert (found["labels"][0], found["ceiling"], found["n_differ"]) == (0.75, 0.8, 3)
    assert found["truth"][0] == pytest.approx(2 / 3) and found["label_truth"] == pytest.approx(1 / 3)
