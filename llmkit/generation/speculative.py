"""Speculative decoding: a small model guesses several tokens, the large one checks them all in one pass.

What comes out is distributed exactly as if the large model had drawn every token itself.
Source: Leviathan et al. 2023, algorithm 1; Chen et al. 2023.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmkit.generation.generate import check_dropout
from llmkit.generation.logits import Sampler
from llmkit.layers.cache import static_cache


def acceptance(p: Tensor, q: Tensor) -> Tensor:
    """min(1, p / q): how probably a token drawn from the draft q is kept for the target p.

    p, q   probabilities of that token, any shape; q is above 0, since the token was drawn

    >>> acceptance(torch.tensor([0.3, 0.6]), torch.tensor([0.6, 0.3]))
    tensor([0.5000, 1.0000])
    """
    return (p / q).clamp(max=1.0)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """max(p - q, 0), normalised: what to draw from instead when a guess was refused.

    p, q   (..., V) distributions. Where p = q nothing is ever refused; p is given there.

    >>> residual(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.3, 0.5]))
    tensor([0.6000, 0.4000, 0.0000])
    """
    excess = (p - q).clamp(min=0.0)
    total = excess.sum(-1, keepdim=True)
    return torch.where(total > 0, excess / total.clamp(min=torch.finfo(p.dtype).tiny), p)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of |p - q|: the share of guesses that is refused, so acceptance is 1 minus this.

    >>> total_variation(torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25]))
    tensor(0.2500)
    """
    return 0.5 * (p - q).abs().sum(-1)


def tokens_per_pass(acceptance_rate: float, n_guesses: int) -> float:
    """Expected tokens for each pass of the target if every guess is accepted independently at this rate.

    (1 - a^(g+1)) / (1 - a). Source: Leviathan et al. 2023, equation 1.

    >>> tokens_per_pass(0.5, 2)
    1.75
    """
    a, g = acceptance_rate, n_guesses
    return float(g + 1) if a == 1 else (1 - a ** (g + 1)) / (1 - a)


@dataclass
class Speculation:
    """What was written and what it took."""

    ids: Tensor  # (1, T + n) prompt and answer
    target_passes: int
    guessed: int
    accepted: int


@torch.inference_mode()
def speculative_generate(
    target: nn.Module,
    draft: nn.Module,
    ids: Tensor,
    max_new_tokens: int,
    n_guesses: int = 4,
    sampler: Sampler | None = None,
    generator: torch.Generator | None = None,
    stop_token: int | None = None,
) -> Speculation:
    """Continue one prompt (1, T): the draft guesses n_guesses tokens, the target keeps those it agrees with.

    Both models must share a vocabulary. With a greedy sampler the result is the target's own greedy text.
    """
    if ids.size(0) != 1:
        raise ValueError(f"speculative decoding goes text by text: give one prompt, not {ids.size(0)}")
    if n_guesses < 0:
        raise ValueError(f"n_guesses must be at least 0, got {n_guesses}")
    check_dropout(target, draft)
    sampler = sampler or Sampler()
    end = ids.size(1) + max_new_tokens
    # Of new_cache only the number of layers: a model with a window would make a ring, which cannot take tokens back.
    caches = [static_cache(len(model.new_cache()), end + n_guesses + 1) for model in (target, draft)]
    result = Speculation(ids, 0, 0, 0)
    while result.ids.size(1) < end:
        n = min(n_guesses, end - result.ids.size(1) - 1)
        guesses, q = _guess(draft, caches[1], result.ids, n, sampler, generator)
        p = _target_probs(target, caches[0], result.ids, guesses, sampler)
        if n and p.size(-1) != q.size(-1):
            raise ValueError(f"the draft has {q.size(-1)} tokens, the target {p.size(-1)}: not one vocabulary")
        kept = _count_accepted(guesses, p, q, generator)
        last = p[kept] if kept == n else residual(p[kept], q[kept])
        token = last.multinomial(1, generator=generator)
        result.ids = torch.cat([result.ids, guesses[None, :kept], token[None]], dim=1)
        result.target_passes += 1
        result.guessed += n
        result.accepted += kept
        for cache in caches:  # what was refused is forgotten; the new token is not in a cache yet
            cache.truncate(min(cache.length, result.ids.size(1) - 1))
        new = result.ids[0, result.ids.size(1) - kept - 1 :]
        if stop_token is not None and (new == stop_token).any():
            after = result.ids.size(1) - len(new) + int((new == stop_token).nonzero()[0]) + 1
            result.ids = result.ids[:, :after]
            break
    return result


def _guess(draft, cache, ids, n, sampler, generator) -> tuple[Tensor, Tensor]:
    """n tokens (n,) from the draft and the distributions (n, V) they were drawn from."""
    guesses, probs = [], []
    text = ids
    for _ in range(n):
        logits = draft(text[:, cache.length :], cache=cache, last_only=True)[:, -1]
        q = sampler.probs(logits, text)
        token = q.multinomial(1, generator=generator)
        guesses.append(token[0])
        probs.append(q[0])
        text = torch.cat([text, token], dim=1)
    if not n:
        return ids.new_empty(0), torch.empty(0)
    return torch.cat(guesses), torch.stack(probs)


def _target_probs(target, cache, ids, guesses, sampler) -> Tensor:
    """(n + 1, V): what the target would draw from at each guess, and after the last."""
    text = torch.cat([ids, guesses[None]], dim=1)
    logits = target(text[:, cache.length :], cache=cache)[0, -len(guesses) - 1 :]
    T = ids.size(1)
    return torch.cat([sampler.probs(row[None], text[:, : T + i]) for i, row in enumerate(logits)])


def _count_accepted(guesses, p, q, generator) -> int:
    """Guesses are kept up to the first that is refused."""
    for i, token in enumerate(guesses):
        u = torch.rand((), generator=generator, device=p.device)
        if u >= acceptance(p[i, token], q[i, token]):
            return i
    return len(guesses)
