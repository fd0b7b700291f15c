"""Sizes by arithmetic against what is really there: built models, filled caches."""

import pytest
import torch

from llmkit.models import llama as llama_file
from llmkit.models.llama import LlamaConfig, count_params, llama
from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.models.palm import PalmConfig, palm
from llmkit.models.sizes import kv_cache_bytes

TINY = {"vocab_size": 13, "d_model": 24, "n_layers": 3, "n_heads": 6, "d_ff": 20}
LLAMAS = {
    "plain": LlamaConfig(**TINY),
    "grouped": LlamaConfig(**TINY, n_kv_heads=2),
    "wide heads, tied": LlamaConfig(**TINY, n_kv_heads=3, head_dim=10, tie=True),
}


@pytest.mark.parametrize("config", [*LLAMAS.values(), *llama_file.SIZES.values()], ids=[*LLAMAS, *llama_file.SIZES])
def test_llamas_parameters(config):
    with torch.device("meta"):
        assert count_params(config) == llama(config).n_params()


@pytest.mark.parametrize(
    "build, config",
    [
        *((llama, config) for config in LLAMAS.values()),
        (palm, PalmConfig(13, 24, 3, 6, 10, 20)),
        (mixtral, MixtralConfig(vocab_size=13, d_model=24, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=20)),
    ],
    ids=[*LLAMAS, "palm", "mixtral"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_bytes_are_those_of_a_filled_cache(build, config, dtype):
    model = build(config).to(dtype).eval()
    cache = model.new_cache(max_len=None)
    with torch.no_grad():
        model(torch.randint(13, (1, 7)), cache=cache)
    filled = sum(t.numel() * t.element_size() for layer in cache for t in (layer.k, layer.v))
    assert kv_cache_bytes(config, 7, dtype.itemsize) == filled


def test_cache_of_published_models():
    assert kv_cache_bytes(llama_file.SIZES["llama-7b"], 32768) == 16 * 2**30
    assert kv_cache_bytes(llama_file.SIZES["llama-3-8b"], 32768) == 4 * 2**30
