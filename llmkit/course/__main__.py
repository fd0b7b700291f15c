"""The course's command line: `python -m llmkit.course progress`, and what `make` calls."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

from llmkit.course.badges import ROOT


def lint() -> int:
    """ruff: rules and format."""
    return _run("ruff", "check", ".") or _run("ruff", "format", "--check", ".")


def notebooks() -> int:
    """Build all notebooks from their masters."""
    return _run("llmkit.course.build")


def test() -> int:
    """Everything that must hold: lint, notebooks up to date, nbval over all of them, pytest; stops at a failure."""
    found = sorted([*ROOT.glob("lessons/*.ipynb"), *ROOT.glob("solutions/*.ipynb")])
    if not found:
        print("no notebooks in lessons/ and solutions/: nothing would be tested", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(
            os.environ,
            LLMKIT_ANSWERS=folder,  # what the notebooks solve is nobody's progress
            LLMKIT_GPU_SMOKE="1",
            OMP_NUM_THREADS="1",  # two notebooks run side by side
            PYTHONHASHSEED="0",
        )
        # loadfile keeps the cells of one notebook in one worker, in their order.
        nbval = [
            "--nbval-lax",
            "--nbval-cell-timeout=300",
            "-p",
            "no:cacheprovider",
            "-n",
            "2",
            "--dist",
            "loadfile",
            "-q",
        ]
        return (
            lint()
            or _run("llmkit.course.build", "--check")
            or _run("pytest", *nbval, *map(str, found), environment=environment)
            or _run("pytest", "-n", "2", "-q", environment=environment)
        )


def bench() -> int:
    """All benchmarks, one after the other."""
    paths = sorted((ROOT / "benchmarks").glob("*.py"))
    return int(any([subprocess.call([sys.executable, str(path)], cwd=ROOT) for path in paths]))


def progress() -> int:
    """Which exercises are done."""
    from llmkit.course.progress import progress

    progress()
    return 0


def clean() -> int:
    """Remove caches and builds; .venv and answers/ stay."""
    for pattern in ("**/__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", "dist", "build"):
        for path in ROOT.glob(pattern):
            if ".venv" not in path.parts:
                shutil.rmtree(path, ignore_errors=True)
    return 0


COMMANDS = {function.__name__: function for function in (progress, test, lint, notebooks, bench, clean)}


def _run(module: str, *arguments: str, environment: dict[str, str] | None = None) -> int:
    return subprocess.call([sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment)


def main(arguments: list[str] | None = None) -> int:
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # ● is not in every Windows code page
    parser = argparse.ArgumentParser(prog="python -m llmkit.course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=function.__doc__)
    return COMMANDS[parser.parse_args(arguments).command]()


if __name__ == "__main__":
    sys.exit(main())
