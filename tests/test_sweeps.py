"""The sweeps: what a point is trained on, how a grid is widened, and the stored results."""

import math
import sys
from pathlib import Path

import pytest
import torch

from llmkit import results
from llmkit.data import toyland
from llmkit.models.llama import llama
from llmkit.training import sweeps
from llmkit.training.flops import training_flops


def test_a_grid_is_widened_until_its_best_lies_inside():
    def run(lr):
        return {"lr": lr, "loss": (math.log2(lr) - 5) ** 2}

    assert [point["lr"] for point in sweeps.tune(run, [16, 32, 64])] == [16, 32, 64]
    assert [point["lr"] for point in sweeps.tune(run, [128, 64])] == [16, 32, 64, 128]
    with pytest.raises(ValueError, match="edge"):
        sweeps.tune(run, [2**12, 2**13], most=3)
    assert sweeps.steps_to([(0, 5.0), (4, 3.0), (8, 1.0)], 2.5) == 5
    assert sweeps.steps_to([(0, 5.0)], 2.5) is None and sweeps.steps_to([(0, 2.0)], 2.5) == 0


def test_a_sweep_reads_each_story_once_and_none_that_is_held_out():
    assert toyland.VILLAGE.log_prob(sweeps.held_out(1)[0]) > -math.inf
    chunks = [set(sweeps.written(0, chunk)) for chunk in range(2)]
    assert len(chunks[0] | chunks[1]) == 256 and not set(sweeps.held_out()) & (chunks[0] | chunks[1])
    batches = sweeps.batches(8)
    rows = {tuple(row[kept].tolist()) for _ in range(32) for row, kept in zip(*next(batches), strict=True)}
    assert rows == {tuple(sweeps.encode(text)) for chunk in chunks for text in chunk}
    config = sweeps.config(16)
    steps, tokens, spent = sweeps.steps_for(5e9, config)
    first = [next(stream) for stream in [sweeps.batches(8)] for _ in range(steps)]
    assert spent == sum(8 * training_flops(config, ids.size(1)) for ids, _ in first)
    assert spent - 8 * training_flops(config, first[-1][0].size(1)) < 5e9 <= spent
    assert tokens == sum(int(mask.sum()) - 8 for _, mask in first)


def test_held_out_loss_of_the_uniform_model():
    model = llama(sweeps.config(16))
    torch.nn.init.zeros_(model.lm_head.weight)
    assert sweeps.held_out_loss(model, 30) == pytest.approx(math.log(len(sweeps.vocabulary())), rel=1e-5)


def test_the_stored_points_come_out_again():
    """The cheapest of each sweep; other machines add in another order, so that losses differ a little."""
    point = min(results.load("isoflop")["points"], key=lambda p: p["n_steps"])
    again = sweeps.train_isoflop(point["width"], point["budget"], point["lr"], point["seed"])
    assert {key: again[key] for key in ("n_params", "n_tokens", "flops")} == {
        key: point[key] for key in ("n_params", "n_tokens", "flops")
    }
    assert again["loss"] == pytest.approx(point["loss"], abs=0.05)


def test_stored_results_say_where_they_come_from():
    for name in ("isoflop", "transfer", "optimizers"):
        result = results.load(name)
        assert result["command"].startswith(f"python benchmarks/results/{name}.py --seed {result['seed']}")
        assert result["torch"] and result["python"]
    with pytest.raises(FileNotFoundError, match="isoflop, optimizers, "):
        results.load("isoflops")


def test_results_are_written_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks" / "results"))
    monkeypatch.setattr(sys, "argv", ["isoflop.py", "--seed", "3", "--out", str(tmp_path / "new")])
    import store

    threads = torch.get_num_threads()
    store.store("x", store.arguments("a sweep"), {"points": [1.5]})
    torch.set_num_threads(threads)
    text = (tmp_path / "new" / "x.json").read_text()
    assert '"points": [' in text and "isoflop.py --seed 3" in text and len(list((tmp_path / "new").iterdir())) == 1
