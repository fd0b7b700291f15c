"""One model through the whole course: base, LoRA, instructions, preferences, PPO, GGUF, each beside its control.

Run: python benchmarks/results/capstone.py [--folder capstone]     about 20 minutes; goes on where it stopped
"""

import sys
from pathlib import Path
from typing import Any

import torch
from store import arguments, store

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.capstone.__main__ import RESULT, STAGES, walk  # noqa: E402
from benchmarks.capstone.plan import Plan  # noqa: E402
from llmkit.checkpoints.safetensors import read_json  # noqa: E402


def short(found: Any) -> Any:
    """Without the lists of single answers and of single steps: the folder keeps them."""
    if isinstance(found, dict):
        return {key: short(value) for key, value in found.items() if not isinstance(value, list) or len(value) <= 3}
    return found


def main() -> None:
    chosen = arguments(__doc__, folder="capstone")
    folder = Path(chosen.folder)
    torch.set_num_threads(2)
    walk(Plan(seed=chosen.seed), folder)
    stages = {name: read_json(folder / name / RESULT) for name in STAGES}
    cpu = round(sum(one["cpu_seconds"] for one in stages.values()))  # also of calls before this one
    store("capstone", chosen, {"cpu_seconds": cpu, "stages": short(stages)})


if __name__ == "__main__":
    main()
