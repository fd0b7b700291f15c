"""How good are the predictions? Cross-entropy, perplexity, bits per byte."""

import math
from collections.abc import Sequence


def cross_entropy(log_probs: Sequence[float]) -> float:
    """Mean of -log P over tokens, in nats a token. Raises ValueError for an empty sequence.

    >>> cross_entropy([math.log(0.5), math.log(0.125)]) / math.log(2)
    2.0
    """
    if not len(log_probs):
        raise ValueError("cross_entropy needs at least one log-probability; the text is empty")
    return -math.fsum(log_probs) / len(log_probs)


def perplexity(log_probs: Sequence[float]) -> float:
    """exp(cross-entropy): among how many equally likely tokens the model was, on average, undecided.

    >>> round(perplexity([math.log(1 / 6)] * 10), 6)
    6.0
    """
    return math.exp(cross_entropy(log_probs))


def bits_per_byte(log_probs: Sequence[float], text: str) -> float:
    """Bits spent on a text divided by its length in UTF-8 bytes.

    log_probs  natural logarithms, one for each token of the text (its end may be among them)
    text       what the tokens spell

    Unlike nats a token it does not depend on how the text was cut into tokens. Raises ValueError for an empty
    text.

    >>> bits_per_byte([math.log(0.5), math.log(0.25)], "né")   # 3 bits over 3 bytes
    1.0
    """
    if not text:
        raise ValueError("bits_per_byte needs a text of at least one byte")
    return -math.fsum(log_probs) / math.log(2) / len(text.encode("utf-8"))
