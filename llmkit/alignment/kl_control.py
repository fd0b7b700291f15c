"""The price of KL, moved towards a target while training runs."""

from dataclasses import dataclass


@dataclass
class AdaptiveKL:
    """A KL weight that follows a target: beta grows by a factor 1 + gain * error, error = KL / target - 1 within ±0.2.

    Source: Ziegler et al. 2019, section 2.2, where gain is 0.1.

    >>> control = AdaptiveKL(beta=1.0, target=5.0)
    >>> control.update(20.0), control.update(0.0)
    (1.02, 0.9996)

    After each step: settings = dataclasses.replace(settings, beta=control.update(stats.kl)).
    """

    beta: float
    target: float
    gain: float = 0.1

    def __post_init__(self):
        if self.beta <= 0 or self.target <= 0:
            raise ValueError(f"beta {self.beta} and target {self.target} must be above 0: they are multiplied")

    def update(self, kl: float) -> float:
        """kl in nats an answer, measured on the last batch -> the new beta."""
        self.beta *= 1 + self.gain * min(max(kl / self.target - 1, -0.2), 0.2)
        return self.beta
