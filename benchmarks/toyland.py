"""toyland: megabytes a minute written, kilobytes a second scored, and its entropy. Run: python benchmarks/toyland.py"""

import random
import time

from llmkit.data import toyland


def main() -> None:
    rng, start, size = random.Random(0), time.perf_counter(), 0
    while time.perf_counter() - start < 5:
        size += len(toyland.STORIES.sample(rng).text)
    print(f"writes  {size / (time.perf_counter() - start) * 60 / 1e6:8.1f} MB a minute on one core (required: 10)")
    texts = toyland.stories(300, seed=1)
    start = time.perf_counter()
    entropy = toyland.entropy(texts)
    print(f"scores  {sum(map(len, texts)) / (time.perf_counter() - start) / 1e3:8.1f} kB a second")
    nats, error = entropy.nats_per_document, entropy.standard_error
    print(f"entropy {nats:8.1f} ± {error:.1f} nats a story, {entropy.nats_per_token:.3f} a token, "
          f"{entropy.bits_per_byte:.3f} bits a byte")  # fmt: skip


if __name__ == "__main__":
    main()
