"""What the scripts of this folder share: their command line, and how a result is written."""

import argparse
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from llmkit.checkpoints.safetensors import write_json
from llmkit.training.precision import bf16_is_fast

FOLDER = Path(__file__).resolve().parents[2] / "llmkit" / "results"


def arguments(description: str, **options: float) -> argparse.Namespace:
    """--seed and --out, and an option for each keyword, whose value is the default."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the order of stories")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder for the JSON file (default: %(default)s)")
    torch.set_num_threads(1)
    chosen = parser.parse_args()
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # now, and not after half an hour
        parser.error(f"--out {chosen.out} cannot be made: {error}")
    return chosen


def machine() -> str:
    """What sets a run's speed and its last digits: "2 cores, AVX512, bfloat16"."""
    narrow = ", bfloat16" if bf16_is_fast(torch.device("cpu")) else ""
    return f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}{narrow}"


def store(name: str, chosen: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Write NAME.json aside and rename it: a run that is stopped leaves the old one whole."""
    options = " ".join(f"--{key} {value}" for key, value in vars(chosen).items() if key != "out")
    result = {
        "command": f"python benchmarks/results/{Path(sys.argv[0]).name} {options}",
        "seed": chosen.seed,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "date": date.today().isoformat(),
        "cpu_seconds": round(time.process_time()),
        **measured,
    }
    write_json(result, chosen.out / f"{name}.json")
    print(f"wrote {chosen.out / name}.json after {result['cpu_seconds']} CPU seconds")
