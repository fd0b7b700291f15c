"""What a decoder costs to run and to train, counted in multiplications and additions.

Only matrix products are counted: norms, activations, softmax and the embedding's look-up cost memory traffic, but less
than a hundredth of the arithmetic in a model of useful size. A product of (m, k) and (k, n) is 2 m k n FLOPs.
"""

from typing import Any, NamedTuple


class FLOPs(NamedTuple):
    """FLOPs of one forward pass over one text, by what they are spent on."""

    projections: int  # q, k, v and the attention's output
    scores: int  # queries against keys, and weights against values
    mlp: int
    head: int

    @property
    def total(self) -> int:
        return sum(self)


def forward_flops(config: Any, n_tokens: int) -> FLOPs:
    """Exact FLOPs of `model(ids)` for ids (1, n_tokens), for the config of a GPT-2, LLaMA or PaLM-like decoder.

    config     vocab_size, d_model, n_layers, n_heads, d_ff (None: 4 d_model); n_kv_heads, head_dim where it has them.
               A config with n_kv_heads has a gated MLP of three matrices, one without has two
    n_tokens   T. Every query is counted against all T keys, as is the custom, though the causal mask makes half of
               them idle, and a good kernel leaves most of that half out

    Raises ValueError for less than one token and for a mixture of experts, whose tokens do not use all weights.
    Source: Hoffmann et al. 2022, appendix F, which counts the softmax and the embedding besides.

    >>> from llmkit.models.gpt2 import GPT2Config
    >>> forward_flops(GPT2Config(), 1024)
    FLOPs(projections=57982058496, scores=38654705664, mlp=115964116992, head=79047426048)
    """
    if n_tokens < 1:
        raise ValueError(f"a text has at least 1 token, got {n_tokens}")
    if hasattr(config, "n_experts"):
        raise ValueError("in a mixture of experts a token passes through some weights only: count its active experts")
    C, L, T = config.d_model, config.n_layers, n_tokens
    gated = hasattr(config, "n_kv_heads")
    head_dim = getattr(config, "head_dim", None) or C // config.n_heads
    queries = config.n_heads * head_dim
    keys = (getattr(config, "n_kv_heads", None) or config.n_heads) * head_dim
    d_ff = config.d_ff or 4 * C
    return FLOPs(
        projections=2 * T * L * (2 * C * queries + 2 * C * keys),
        scores=2 * T * L * 2 * T * queries,
        mlp=2 * T * L * (3 if gated else 2) * C * d_ff,
        head=2 * T * C * config.vocab_size,
    )


def training_flops(config: Any, n_tokens: int, recompute: bool = False) -> int:
    """Exact FLOPs of forward and backward over one text (1, n_tokens): three times `forward_flops`.

    Each product of the forward pass becomes two in the backward pass, one for the gradient of either factor. With
    activation checkpointing (recompute) the forward pass is done once more.

    >>> from llmkit.models.gpt2 import GPT2Config
    >>> training_flops(GPT2Config(), 1024) / 1024 / 1e6     # million FLOPs a token
    854.4384
    """
    return (4 if recompute else 3) * forward_flops(config, n_tokens).total


def six_nd(n_params: float, n_tokens: float) -> float:
    """The rule of thumb for training: each parameter is multiplied and added once forward and twice backward.

    n_params   those that multiply: by Kaplan et al. all but the embeddings, by Hoffmann et al. all. In a model with
               tied embeddings the table is the output matrix, so it does multiply

    It leaves out the attention scores, which grow with the length of the text. Source: Kaplan et al. 2020, section 2.1.

    >>> six_nd(70e9, 1.4e12)     # Chinchilla
    5.88e+23
    """
    return 6.0 * n_params * n_tokens
