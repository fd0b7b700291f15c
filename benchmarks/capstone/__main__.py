"""One small model through the whole course, stage by stage: `make capstone`, or `python -m benchmarks.capstone`.

    texts -> base (05, 13) -> LoRA (15) -> SFT (16) -> reward model, DPO (17) -> PPO (18) -> GGUF (20) -> report.md

Each stage reads the folder of an earlier one and writes its own, with what it measured in result.json. Started again,
it goes on where it was stopped; to do a stage and all after it anew, remove its folder.
"""

import argparse
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmkit.checkpoints.safetensors import read_json, write_json
from llmkit.checkpoints.tables import WeightsError
from llmkit.training.lock import only_one
from llmkit.training.run import RunError

from . import domain, export, instruct, prefer, pretrain, reinforce, report
from .plan import TINY, Plan

STAGES = {stage.NAME: stage.run for stage in (pretrain, domain, instruct, prefer, reinforce, export)}
RESULT = "result.json"


def walk(plan: Plan, out: Path, until: str | None = None) -> None:
    """Every stage that is not done, up to `until`, then the report, which a walk that stops earlier does not write.

    Raises RunError for a folder that another plan has begun.
    """
    _same_plan(plan, out)
    done = [(out / name / RESULT).exists() for name in STAGES]
    first = done.index(False) if False in done else len(done)
    for name in list(STAGES)[first + 1 :]:  # what follows a stage that is made anew is made anew
        shutil.rmtree(out / name, ignore_errors=True)
    for number, (name, stage) in enumerate(STAGES.items()):
        if number < first:
            print(f"{name}: done", flush=True)
        else:
            _make(name, stage, plan, out)
        if name == until:
            return
    print(report.write({name: read_json(out / name / RESULT) for name in STAGES}, out))


def _make(name: str, stage: Callable[[Plan, Path], dict[str, Any]], plan: Plan, out: Path) -> None:
    """One stage and its result.json; the seconds are those of this call, also where it goes on from a checkpoint."""
    print(f"{name} ...", flush=True)
    start, cpu = time.perf_counter(), time.process_time()
    measured = stage(plan, out)
    took = {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    write_json({**took, **measured}, out / name / RESULT)
    print(f"{name}: {took['seconds']:.0f} seconds, {took['cpu_seconds']:.0f} of CPU", flush=True)


def _same_plan(plan: Plan, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path, wanted = out / "plan.json", dataclasses.asdict(plan)
    if path.exists() and read_json(path) != wanted:
        raise RunError(f"{out} was begun with other sizes ({path}): remove it, or name another with --out")
    write_json(wanted, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capstone", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("capstone"), help="the folder (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="all stages in seconds: it learns nothing")
    parser.add_argument("--until", choices=STAGES, help="stop after this stage")
    options = parser.parse_args(arguments)
    try:
        with only_one(options.out):
            walk(TINY if options.tiny else Plan(), options.out, options.until)
    except (RunError, WeightsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
