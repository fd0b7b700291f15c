"""What a model weighs while it runs, by arithmetic on its config."""

from typing import Any


def kv_cache_bytes(config: Any, tokens: int, bytes_per_number: int = 2) -> int:
    """The memory that the keys and values of one text take: every layer keeps both, for every token.

    config             n_layers, n_heads, d_model; n_kv_heads (None: as many as n_heads) key-value heads of
                       head_dim (None: d_model / n_heads) numbers each
    tokens             how many tokens the cache holds
    bytes_per_number   2 for bfloat16 and float16, 4 for float32

    Source: Pope et al. 2022, "Efficiently scaling transformer inference", section 3.3.

    >>> from llmkit.models.llama import LlamaConfig
    >>> kv_cache_bytes(LlamaConfig(n_layers=2, d_model=8, n_heads=4, n_kv_heads=1), tokens=10)
    160
    """
    n_kv_heads = config.n_kv_heads or config.n_heads
    head_dim = config.head_dim or config.d_model // config.n_heads
    return 2 * config.n_layers * tokens * n_kv_heads * head_dim * bytes_per_number
