"""Choose the next token from a distribution."""

import random
from collections.abc import Callable


def pick(probs: dict[str, float], u: float) -> str:
    """The token on which `u` falls when the probabilities are laid end to end on [0, 1).

    probs   token -> probability, summing to 1; order matters
    u       a number with 0 <= u < 1

    The first token owns [0, p1), the second [p1, p1 + p2), and so on: a token of probability 0 owns nothing.
    Sums of floats may end just below 1; a `u` beyond the last boundary belongs to the last token of
    probability above 0. Raises ValueError when no token has a probability above 0.

    >>> pick({"mat": 0.5, "chair": 0.3, "moon": 0.2}, 0.6)
    'chair'
    """
    chosen, cumulative = None, 0.0
    for token, p in probs.items():
        if p > 0:
            chosen = token
            cumulative += p
            if u < cumulative:
                break
    if chosen is None:
        raise ValueError("no token has a probability above 0, so there is nothing to pick")
    return chosen


def sample(
    next_token: Callable[[list[str]], dict[str, float]],
    context: list[str],
    rng: random.Random,
    end: str,
    max_tokens: int = 100,
) -> list[str]:
    """Continue a context token by token until `end` (not returned) or `max_tokens`.

    next_token   (all tokens so far) -> distribution: a model, or the source itself
    """
    tokens = list(context)
    for _ in range(max_tokens):
        token = pick(next_token(tokens), rng.random())
        if token == end:
            break
        tokens.append(token)
    return tokens[len(context) :]
