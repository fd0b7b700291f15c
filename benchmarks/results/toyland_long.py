"""How close a model of three layers comes to the exact entropy of the village with more time.

Run: python benchmarks/results/toyland_long.py [--steps 24000]     20 to 40 minutes of one core

toyland.py says what is measured; no story is read twice.
"""

from store import arguments, store
from toyland import BATCH, measure


def main() -> None:
    chosen = arguments(__doc__, steps=24_000)
    found = measure(BATCH * chosen.steps, chosen.seed, threads=1, n_layers=3, n_steps=chosen.steps)
    store("toyland_long", chosen, found)


if __name__ == "__main__":
    main()
