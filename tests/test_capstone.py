"""The capstone at a size that learns nothing: every stage runs, resumes, and the report says what was stored."""

import copy
import dataclasses
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from llmkit import from_pretrained, load_gguf
from llmkit.checkpoints.safetensors import read_json
from llmkit.models.llama import LlamaConfig, count_params
from llmkit.training.run import RunError
from llmkit.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.capstone import __main__ as capstone  # noqa: E402
from benchmarks.capstone import export, pretrain, report  # noqa: E402
from benchmarks.capstone.plan import TINY, Plan  # noqa: E402


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of one whole run."""
    folder = tmp_path_factory.mktemp("capstone")
    capstone.walk(TINY, folder)
    return folder


def stored(out):
    return {name: read_json(out / name / "result.json") for name in capstone.STAGES}


def test_every_stage_leaves_a_model_and_each_training_moved_it(out):
    weights = {}
    for name in list(capstone.STAGES)[:-1]:
        model, tokenizer = from_pretrained(out / name / "model")
        assert tokenizer.vocab_size == model.config.vocab_size
        weights[name] = model.transformer.blocks[0].attn.q_proj.weight
    names = list(weights)
    for i, name in enumerate(names):
        assert not any(torch.equal(weights[name], weights[other]) for other in names[:i]), name
    saved = [path.name for path in (out / "4_prefer" / "reward").iterdir()]
    assert saved == ["model.safetensors"]  # the reward model, by llmkit's own save, which writes aside


def test_the_files_hold_the_last_model(out):
    ids = torch.tensor([[5, 6, 7]])
    model, _ = from_pretrained(out / "5_reinforce" / "model", dtype=torch.float32)
    for kind, tolerance in (("f32", 1e-5), ("f16", 2e-2), ("q8_0", 2e-1)):
        path = out / "6_export" / f"capstone-{kind}.gguf"
        torch.testing.assert_close(load_gguf(path)[0](ids), model(ids), atol=tolerance, rtol=0)
        assert stored(out)["6_export"]["files"][kind.upper()]["bytes"] == path.stat().st_size


def test_figures_that_must_hold_at_any_size(out):
    base, tuned, _, prefer, ppo, export = stored(out).values()
    assert base["curve"][-1][1] < base["curve"][0][1]  # it learns
    assert base["all"]["exact"] < base["all"]["model"]  # and is not below the entropy of all sources together
    assert tuned["merged_difference"] < 1e-4
    assert prefer["dpo"]["first_loss"] == pytest.approx(0.693147, abs=1e-4)  # log 2: policy and reference are equal
    assert prefer["measured"]["sft"]["kl"] == 0 and prefer["measured"]["dpo"]["kl"] != 0
    assert prefer["measured"]["sft again"]["proxy"] != prefer["measured"]["sft"]["proxy"]  # other answers
    assert ppo["curve"][0][3] == pytest.approx(0, abs=1e-5)  # the policy begins as the SFT model
    f32, f16, q8 = (export["files"][kind]["bytes"] for kind in ("F32", "F16", "Q8_0"))
    assert f32 > 1.5 * f16 > 2 * q8
    assert export["files"]["F32"]["llmkit"] == {"replies": 1, "tokens": 1}


def test_the_report_holds_what_the_stages_stored(out):
    """A figure that is changed in the stored results is found, changed, in its row and column."""
    results = stored(out)
    assert (out / "report.md").read_text(encoding="utf-8") == report.page(results)
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    cells = {
        ("1_pretrain", "sources", "scenes", "model"): ("scenes", "model", 7.125, "7.125"),
        ("1_pretrain", "all", "exact"): ("all", "exact entropy", 7.125, "7.125"),
        ("2_domain", "before", "domain"): ("stories about moods", "before", 7.125, "7.125"),
        ("2_domain", "after", "general"): ("what the base had read", "after", 7.125, "7.125"),
        ("2_domain", "exact", "domain"): ("stories about moods", "exact entropy", 7.125, "7.125"),
        ("3_instruct", "before", "phrasings", "all", 2): ("before SFT (control)", "new phrasings", 0.625, "62.5%]"),
        ("3_instruct", "after", "instances", "all", 0): ("after SFT", "known phrasings", 0.625, "62.5% ["),
        ("5_reinforce", "instructions", "phrasings", "all", 1): ("after PPO", "new phrasings", 0.625, "[62.5%"),
        ("4_prefer", "wins", "sft again", 0): ("sft again", "win rate", 0.625, "62.5% ["),
        ("4_prefer", "wins", "dpo", 2): ("dpo", "win rate", 0.625, "62.5%]"),
        ("4_prefer", "measured", "dpo", "score"): ("dpo", "true score", 7.125, "7.12"),
        ("4_prefer", "measured", "sft", "grammatical"): ("sft", "grammatical", 0.62, "62%"),
        ("5_reinforce", "wins", "sft", 1): ("ppo", "win rate", 0.625, "[62.5%"),
        ("5_reinforce", "measured", "kl"): ("ppo", "KL, nats", 71.5, "71.5"),
        ("5_reinforce", "measured", "proxy"): ("ppo", "proxy", 7.5, "+7.50"),
        ("6_export", "files", "Q8_0", "bytes"): ("Q8_0", "MB", 71_250_000, "71.25"),
        ("6_export", "files", "F16", "story_bits"): ("F16", "bits a byte, stories", 7.125, "7.1250"),
        ("6_export", "int8", "llmkit", "tokens"): ("int8 in memory", "llmkit: replies, tokens", 0.62, ", 62%"),
        ("6_export", "speed", "llmkit, int8"): ("llmkit, int8", "tokens a second", 7125, "7125"),
        ("5_reinforce", "cpu_seconds"): ("5_reinforce", "of CPU", 7125, "7125"),
    }
    for place, (row, column, value, shown) in cells.items():
        before, after = table_cell(report.page(results), row, column), changed(results, place, value)
        assert shown not in before and shown in table_cell(report.page(after), row, column), place
    prose = {
        ("1_pretrain", "all", "ngram"): (7.125, "reaches 7.125"),
        ("3_instruct", "before", "bare", "all", 0): (0.625, "right in 62.5% ["),
        ("4_prefer", "reward", "labels", 0): (0.625, "agrees with 62.5% ["),
        ("4_prefer", "reward", "ceiling"): (0.625, "best possible judge would with 62.5%"),
        ("5_reinforce", "wins", "dpo", 0): (0.625, "wins 62.5% ["),
        ("3_instruct", "after", "story_bits"): (7.125, "to 7.125 bits"),
        ("5_reinforce", "story_bits"): (7.125, "cost it 7.125 bits"),
        ("6_export", "threads"): (7, f"threads: llmkit 7, llama.cpp {export.LLAMA_THREADS};"),
    }
    for place, (value, shown) in prose.items():
        assert shown not in report.page(results), place
        assert shown in report.page(changed(results, place, value)), place


def test_the_time_is_that_of_the_last_calls(out):
    results = stored(out)
    for i, one in enumerate(results.values()):
        one["seconds"] = 60 * 10**i
    said = report.page(results)
    assert "The last call of each stage together took 111111.0 minutes" in said and "from nothing in" not in said


def test_llama_cpp_has_the_threads_that_the_report_says(monkeypatch, tmp_path):
    class Started(Exception):
        pass

    def server(parameters):
        raise Started(parameters.cpuparams.n_threads)

    fake = ModuleType("xllamacpp")
    fake.__spec__, fake.Server = ModuleSpec("xllamacpp", None), server
    fake.CommonParams = lambda: SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "xllamacpp", fake)
    monkeypatch.setattr(export, "LLAMA_THREADS", 5)
    with pytest.raises(Started, match="5"):
        export._llama_cpp(tmp_path / "x.gguf", [], [], set(), TINY, {}, "F32")


def changed(results, place, value):
    """The results with one figure changed."""
    copied = copy.deepcopy(results)
    holder = copied
    for key in place[:-1]:
        holder = holder[key]
    assert isinstance(holder[place[-1]], (int, float)), place
    holder[place[-1]] = value
    return copied


def table_cell(page, row, column):
    """The cell of a row, by its first cell, in the table that has both."""
    head = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")][1:-1]
        head = cells if not head else head
        if column in head and cells and cells[0] == row:
            return cells[head.index(column)]
        head = head if cells else []
    raise AssertionError(f"no table has a row {row!r} and a column {column!r}")


def test_a_policy_that_says_nothing_has_a_page(out):
    results = stored(out)
    results["5_reinforce"]["measured"]["distinct_2"] = None
    assert table_cell(report.page(results), "ppo", "distinct-2") == "none"


def test_failures_are_said():
    def interval(share):
        return [share, share - 0.05, share + 0.05]

    def right(share):
        return {"all": interval(share), "families": {"count": interval(share)}, "stop_rate": 1.0, "n": 13}

    start = {"grammatical": 0.8, "distinct_2": 0.5}
    good = {
        "1": {"all": {"model": 1.0, "ngram": 2.0}},
        "2": {"before": {"general": 1.0}, "after": {"general": 1.0}},
        "3": {"after": {"instances": right(0.8), "phrasings": right(0.8)}},
        "4": {"reward": {"labels": interval(0.7), "ceiling": 0.71}, "wins": {"dpo": interval(0.6)},
              "measured": {"sft": dict(start), "dpo": dict(start)}},
        "5": {"wins": {"sft": interval(0.6)}, "measured": dict(start), "instructions": {"instances": right(0.8)}},
        "6": {"files": {"F16": {"llama.cpp": {"replies": 1.0}}}},
    }  # fmt: skip
    assert report.failures(good) == []
    for stage, place, value, said in (
        ("1", ("all", "model"), 3.0, "worse than counting"), ("2", ("after", "general"), 1.1, "0.100 bits"),
        ("3", ("after", "phrasings"), right(0.4), "New phrasings: 40%"),
        ("3", ("after", "instances"), right(0.3), "count 30%"), ("4", ("reward", "labels"), interval(0.6), "11.0%"),
        ("4", ("wins", "dpo"), interval(0.52), "DPO is not shown"),
        ("4", ("wins", "dpo"), interval(0.4), "DPO is worse"), ("5", ("wins", "sft"), interval(0.4), "PPO is worse"),
        ("5", ("measured", "distinct_2"), None, "PPO says nothing"),
        ("5", ("measured", "grammatical"), 0.5, "PPO writes less"), ("5", ("measured", "distinct_2"), 0.3, "repeats"),
        ("5", ("instructions", "instances"), right(0.5), "from 80.0% to 50.0%"),
        ("6", ("files", "F16"), {"llama.cpp": None}, "not installed"),
        ("6", ("files", "F16"), {"llama.cpp": {"replies": 0.9}}, "another in 10%"),
    ):  # fmt: skip
        bad = copy.deepcopy(good)
        bad[stage][place[0]][place[1]] = value
        assert any(said in line for line in report.failures(bad)), said


def test_a_stage_that_was_killed_ends_with_the_same_weights(out, tmp_path, monkeypatch):
    whole = Trainer.fit

    def killed(trainer):
        whole(trainer, until=3)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(TINY, tmp_path)
    monkeypatch.setattr(Trainer, "fit", whole)
    step, steps = Trainer.train_step, []
    monkeypatch.setattr(Trainer, "train_step", lambda trainer: steps.append(trainer.step) or step(trainer))
    again = pretrain.run(TINY, tmp_path)
    assert steps == list(range(3, TINY.pretrain_steps))  # from where it stood
    assert again["curve"] == stored(out)["1_pretrain"]["curve"]
    files = [folder / "1_pretrain" / "model" / "model.safetensors" for folder in (out, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_done_is_not_done_again_and_what_follows_is(out, monkeypatch, capsys):
    calls = []

    def fake(name):
        def stage(plan, folder):
            calls.append(name)
            (folder / name).mkdir(exist_ok=True)
            return {}

        return stage

    monkeypatch.setattr(capstone, "STAGES", {name: fake(name) for name in "abc"})
    monkeypatch.setattr(report, "write", lambda results, folder: folder / "report.md")
    here = out / "fake"
    here.mkdir()
    for _ in range(2):  # once done, it is stopped after all the same
        capstone.walk(TINY, here, until="b")
        assert calls == ["a", "b"]
    capstone.walk(TINY, here)
    assert calls == ["a", "b", "c"]
    (here / "a" / "kept").touch()
    (here / "a" / "result.json").unlink()  # as if stopped in its middle
    capstone.walk(TINY, here)
    assert calls == ["a", "b", "c", "a", "b", "c"]
    assert (here / "a" / "kept").exists() and "a: done" not in capsys.readouterr().out.splitlines()[-5:]
    with pytest.raises(RunError, match="other sizes"):
        capstone.walk(dataclasses.replace(TINY, ppo_steps=3), here)


def test_the_model_has_between_two_and_six_million_parameters():
    plan = Plan()
    sizes = LlamaConfig(plan.vocab_size, plan.d_model, plan.n_layers, plan.d_model // 32, d_ff=3 * plan.d_model)
    assert 2e6 <= count_params(sizes) <= 6e6
