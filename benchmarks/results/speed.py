"""Speed, as ratios to the libraries that are known for it: decoding, a training step, int8, experts, tokenizers.

Run: python benchmarks/results/speed.py     about ten minutes on two quiet cores; needs llmkit[peers]

Models run on two threads, experts and tokenizers on one.
"""

import sys
from pathlib import Path

import torch
from store import arguments, store

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import decoding  # noqa: E402
import gguf_int8  # noqa: E402
import moe  # noqa: E402
import step  # noqa: E402
import timing  # noqa: E402
import tokenization  # noqa: E402

from llmkit.data import toyland  # noqa: E402


def main() -> None:
    chosen = arguments(__doc__)
    torch.set_num_threads(2)
    decoding.main()
    step.main()
    gguf_int8.speed(64)
    torch.set_num_threads(1)
    for name, sizes in moe.SIZES.items():
        moe.compare(name, *sizes)
    tokenization.compare("\n".join(toyland.stories(1700)))
    store("speed", chosen, {"threads": 2, "reports": timing.REPORTS})


if __name__ == "__main__":
    main()
