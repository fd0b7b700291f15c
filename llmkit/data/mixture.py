"""How often each task comes up when one model learns many."""

from collections.abc import Mapping


def mixing_rates(sizes: Mapping[str, int], limit: int | None = None, temperature: float = 1.0) -> dict[str, float]:
    """Task -> share of the training examples; the shares sum to 1.

    sizes        task -> how many examples there are
    limit        a task counts as at most so large: without it a huge one leaves nothing for the small ones
    temperature  rates become proportional to size^(1/temperature): 1 leaves them, the higher the more alike

    Raises ValueError for no task, a size or limit below 1, and a temperature that is not above 0.
    Source: Raffel et al. 2020, section 3.5.2.

    >>> mixing_rates({"translation": 8000, "sentiment": 1000}, limit=3000)
    {'translation': 0.75, 'sentiment': 0.25}
    >>> mixing_rates({"translation": 9000, "sentiment": 1000}, temperature=2.0)
    {'translation': 0.75, 'sentiment': 0.25}
    """
    if not sizes or min(sizes.values()) < 1 or (limit is not None and limit < 1):
        raise ValueError(f"needs at least one task, and sizes and a limit of at least 1, got {sizes} and {limit}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    weights = {task: (size if limit is None else min(size, limit)) ** (1 / temperature) for task, size in sizes.items()}
    total = sum(weights.values())
    return {task: weight / total for task, weight in weights.items()}
