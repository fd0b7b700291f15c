"""What all metrics of llmkit.evaluation have in common: worked examples, the three counts, no library underneath."""

import ast
import doctest
import importlib
import inspect
import math
import random

import numpy as np
import pytest
import torch

from llmkit.evaluation.metrics import bits_per_byte, cross_entropy
from llmkit.evaluation.scores import Score, report, score

MODULES = [
    "metrics",
    "scores",
    "spans",
    "classification",
    "calibration",
    "overlap",
    "bleu",
    "chrf",
    "rouge",
    "bootstrap",
]


@pytest.mark.parametrize("name", MODULES)
def test_worked_examples(name):
    failed, attempted = doctest.testmod(importlib.import_module(f"llmkit.evaluation.{name}"))
    assert attempted >= 3 and failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_borrowed(name):
    tree = ast.parse(inspect.getsource(importlib.import_module(f"llmkit.evaluation.{name}")))
    imports = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imports |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {"collections", "dataclasses", "math", "re", "typing"}
    assert {i.split(".")[0] for i in imports} <= standard | {"torch", "numpy", "llmkit"}


def test_score_is_the_harmonic_mean():
    rng = random.Random(0)
    for _ in range(500):
        n_predicted, n_true = rng.randrange(9), rng.randrange(9)
        n_correct = rng.randint(0, min(n_predicted, n_true))
        got = score(n_correct, n_predicted, n_true)
        assert got.precision * n_predicted == pytest.approx(n_correct)
        assert got.recall * n_true == pytest.approx(n_correct)
        assert got.f1 == pytest.approx(2 * n_correct / (n_predicted + n_true) if n_predicted + n_true else 0)
        assert got.support == n_true


def test_log_probs_may_be_a_list_an_array_or_a_tensor():
    values = [-1.0, -2.0, -6.0]
    for log_probs in (values, np.array(values), torch.tensor(values)):
        assert cross_entropy(log_probs) == 3.0 and bits_per_byte(log_probs, "abc") == pytest.approx(3 / math.log(2))
        with pytest.raises(ValueError, match="at least one"):
            cross_entropy(log_probs[:0])


def test_report_of_nothing_is_zero():
    empty = report({})
    assert empty.per_class == {} and empty.micro == empty.macro == Score(0.0, 0.0, 0.0, 0)


def test_macro_leaves_out_what_never_occurs_but_not_what_is_never_right():
    counts = {"a": (1, 1, 1), "absent": (0, 0, 0), "only predicted": (0, 2, 0), "only true": (0, 0, 3)}
    got = report(counts)
    assert got.macro.f1 == pytest.approx(1 / 3) and got.per_class["absent"] == Score(0.0, 0.0, 0.0, 0)
    assert got.micro == score(1, 3, 4) and got.macro.support == 4
