"""The examples in docstrings: learners copy them, so they must say what comes out."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import llmkit

PARTS = (
    "alignment", "checkpoints", "data", "evaluation", "finetuning", "generation", "layers", "models", "tokenizers",
    "training", "viz",
)  # fmt: skip
MODULES = [
    module.name
    for part in PARTS
    for module in pkgutil.iter_modules([f"{llmkit.__path__[0]}/{part}"], prefix=f"llmkit.{part}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    flags = doctest.NORMALIZE_WHITESPACE  # how wide torch prints numbers differs between versions
    failed, _ = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch}, optionflags=flags)
    assert not failed
