"""One model through the whole course: base, LoRA, instructions, preferences, PPO, GGUF, each beside its control.

Run: python benchmarks/results/capstone.py     about 12 minutes on two quiet cores

What `make capstone` does, in a folder of its own: every figure is of this machine and this day.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from store import arguments, store

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.capstone.__main__ import RESULT, STAGES, walk  # noqa: E402
from benchmarks.capstone.plan import Plan  # noqa: E402
from llmkit.checkpoints.safetensors import read_json  # noqa: E402


def short(found: Any) -> Any:
    """Without the lists of single answers and of single steps."""
    if isinstance(found, dict):
        return {key: short(value) for key, value in found.items() if not isinstance(value, list) or len(value) <= 3}
    return found


def main() -> None:
    chosen = arguments(__doc__)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        walk(Plan(seed=chosen.seed), Path(folder))
        stages = {name: read_json(Path(folder) / name / RESULT) for name in STAGES}
    store("capstone", chosen, {"stages": short(stages)})


if __name__ == "__main__":
    main()
