"""What lesson 15 added besides adapters: code split by module, replay, the stored base and its sweeps."""

import itertools
import subprocess
import sys

import pytest
import torch

from llmkit import results
from llmkit.data.text import python_modules
from llmkit.finetuning import experiments
from llmkit.finetuning.lora import LoRAConfig


def test_modules_are_split_by_name_alone():
    train, held_out = python_modules("train"), python_modules("held_out")
    assert not set(train) & set(held_out) and len(train) > 3 * len(held_out) > 30
    assert {"ast", "heapq", "random"} <= set(train) and {"dataclasses", "shlex", "inspect"} <= set(held_out)
    assert "class" in held_out["shlex"] and list(train) == sorted(train)
    program = "from llmkit.data.text import python_modules; print(*python_modules('held_out'))"
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert there == list(held_out), "another process splits otherwise"
    everything = python_modules("train", 0.0)
    assert set(everything) == {*train, *held_out} and not python_modules("held_out", 0.0)
    assert set(python_modules("held_out", 0.1)) < set(held_out)
    for bad in (("test", 0.2), ("train", 1.5), ("train", -0.1)):
        with pytest.raises(ValueError, match="held_out a share from 0 to 1"):
            python_modules(*bad)


def test_replay_is_the_share_of_rows_that_are_stories():
    row, stories = list(range(1000, 1100)), [[1, 2, 3], [4, 5]]
    for replay in (0.0, 0.3, 1.0):
        batches = itertools.islice(experiments.mixed_batches(row, stories, replay, 0, 4, 10), 500)
        rows = [ids[mask].tolist() for batch in batches for ids, mask in zip(*batch, strict=True)]
        is_story = [ids in stories for ids in rows]
        assert abs(sum(is_story) / len(rows) - replay) < 0.04
        windows = [ids for ids, story in zip(rows, is_story, strict=True) if not story]
        assert all(ids == list(range(ids[0], ids[0] + 10)) for ids in windows)
        if windows:
            assert {ids[0] for ids in windows} == set(range(1000, 1091)), "the last window, or the first, is never read"
    one, two = (next(experiments.mixed_batches(row, stories, 0.3, 0, 4, 10))[0] for _ in range(2))
    assert torch.equal(one, two)
    for bad in ((row, 1.5, 10), (row, -0.1, 10), (row[:9], 0.3, 10)):
        with pytest.raises(ValueError, match="replay is a share"):
            next(experiments.mixed_batches(bad[0], stories, bad[1], 0, 4, bad[2]))


def test_the_stored_base_knows_stories_and_no_code():
    base, tokenizer = experiments.load_base()
    bits, stored = experiments.bits_per_byte(base), results.load("finetuning")
    assert abs(bits["stories"] - stored["base"]["stories"]) < 1e-3
    assert abs(bits["code"] - stored["base"]["code"]) < 0.2  # another Python has other code
    assert stored["perfect"] == pytest.approx(experiments.perfect_bits_per_byte(), abs=1e-6)
    assert bits["stories"] > stored["perfect"] and tokenizer.vocab_size == experiments.VOCAB
    assert next(base.parameters()).dtype == torch.float32
    stories = {text for kind in ("stories", "held_out_stories") for text in experiments.texts()[kind]}
    assert len(stories) == sum(len(experiments.texts()[kind]) for kind in ("stories", "held_out_stories"))


def test_tuning_leaves_the_base_and_what_is_frozen():
    base, _ = experiments.load_base()
    before = {name: p.clone() for name, p in base.named_parameters()}
    full, point = experiments.tune_on_code(base, 1e-3, n_steps=2)
    held, held_point = experiments.tune_on_code(base, 1e-3, n_steps=2, freeze="transformer.embed")
    tuned, lora_point = experiments.tune_on_code(base, 1e-2, LoRAConfig(rank=2), n_steps=2)
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())
    embedding = "transformer.embed.tokens.weight"
    assert not torch.equal(dict(full.named_parameters())[embedding], before[embedding])
    assert torch.equal(dict(held.named_parameters())[embedding], before[embedding])
    assert (point["n_trainable"], held_point["n_trainable"]) == (338_400, 240_096)
    assert lora_point["n_trainable"] == 30_720 // 4
    assert set(experiments.rounded(point)) == {"lr", "seed", "replay", "warmup", "n_trainable", "stories", "code"}
