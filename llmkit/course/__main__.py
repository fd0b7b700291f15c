"""The course's command line: `python -m llmkit.course progress`, and what `make` calls."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from llmkit.course.answers import AnswersError
from llmkit.course.badges import ROOT
from llmkit.course.environment import wait_for


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
            or _run("pytest", "-n", "2", "-q", "--ignore=tests/browser", environment=environment)
        )


def test_colab() -> int:
    """Every notebook under Colab's versions, from a wheel, in an empty folder, without a network."""
    return _run("llmkit.course.colab")


def test_browser() -> int:
    """JupyterLab and the site in a real Chromium; each test says so where there is none."""
    return _run("pip", "install", "--quiet", "-r", "tests/browser/requirements.txt") or _run(
        "pytest", "-q", "tests/browser"
    )


def test_all() -> int:
    """Everything that `test` does, then Colab's versions, the site and a real browser; stops at a failure."""
    return test() or test_colab() or site() or test_browser()


def site() -> int:
    """The static site, in site/."""
    wanted = ("-r", "requirements-site.txt", "-c", "requirements.txt")
    return _run("pip", "install", "--quiet", *wanted) or _run("llmkit.course.site")


def bench() -> int:
    """All benchmarks, one after the other."""
    paths = sorted((ROOT / "benchmarks").glob("*.py"))
    return int(any([wait_for([sys.executable, str(path)]) for path in paths]))


MODELS = ("align_sft", "base_for_finetuning")  # which other runs start from, so they come first
TIMED = ("capstone", "speed", "toyland")  # they measure seconds, so each has the machine for itself


def longest_first(names: list[str]) -> list[str]:
    """By what each took when it was last stored, so that no long one is left for the end with a core idle."""
    stored = {path.stem: json.loads(path.read_text("utf-8")) for path in (ROOT / "llmkit" / "results").glob("*.json")}
    return sorted(names, key=lambda name: -stored.get(name, {}).get("cpu_seconds", 0))


def results(*names: str) -> int:
    """The long runs of docs/results.md, or those of these names, and then that page from all."""
    scripts = {path.stem: path for path in sorted((ROOT / "benchmarks" / "results").glob("*.py"))}
    del scripts["store"]  # what they share
    if unknown := [name for name in names if name not in scripts]:
        print(f"there is no run {unknown[0]!r}; there are {', '.join(scripts)}", file=sys.stderr)
        return 1

    def run(name: str) -> int:
        return wait_for([sys.executable, str(scripts[name])])

    def two_at_once(some: list[str]) -> list[str]:  # each takes one core; which of them failed
        with ThreadPoolExecutor(2) as two:
            return [name for name, code in zip(some, two.map(run, some), strict=True) if code]

    chosen = [name for name in scripts if name in (names or scripts)]
    failed = two_at_once([name for name in chosen if name in MODELS])
    failed += two_at_once(longest_first([name for name in chosen if name not in MODELS + TIMED]))
    failed += [name for name in chosen if name in TIMED and run(name)]
    if failed:
        print(f'failed: {", ".join(failed)}; again with: make results ONLY="{" ".join(failed)}"', file=sys.stderr)
    return int(bool(failed)) or _run("llmkit.course.site_results")


def capstone() -> int:
    """One small model through lessons 05 to 20, and a page about it, capstone/report.md; goes on where it stopped."""
    return _run("benchmarks.capstone")


def progress() -> int:
    """Which exercises are done."""
    from llmkit.course.progress import progress

    progress()
    return 0


def time() -> int:
    """How long each lesson takes, counted in words, lines, figures and exercises."""
    from llmkit.course.reading_time import table

    print(table())
    return 0


def where(*words: str) -> int:
    """The file, lesson and exercise of a word: `where RoPE`."""
    from llmkit.course.where import main

    return main(list(words))


def clean() -> int:
    """Remove caches and builds; .venv and answers/ stay."""
    for pattern in ("**/__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", "dist", "build", "site"):
        for path in ROOT.glob(pattern):
            if not path.relative_to(ROOT).parts[0].startswith(".venv"):
                shutil.rmtree(path, ignore_errors=True)
    return 0


COMMANDS = {
    function.__name__.replace("_", "-"): function
    for function in (
        progress, time, where, test, test_colab, test_browser, test_all, lint, notebooks, site, bench, results,
        capstone, clean,
    )
}  # fmt: skip


def _run(module: str, *arguments: str, environment: dict[str, str] | None = None) -> int:
    return wait_for([sys.executable, "-m", module, *arguments], environment)


def main(arguments: list[str] | None = None) -> int:
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # ● is not in every Windows code page
    parser = argparse.ArgumentParser(prog="python -m llmkit.course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        if function is where:
            command.add_argument("words", nargs="+", metavar="WORD")
        if function is results:
            command.add_argument("words", nargs="*", metavar="RUN")
    options = vars(parser.parse_args(arguments))
    try:
        code = COMMANDS[options["command"]](*options.get("words", ()))
        sys.stdout.flush()
        return code
    except AnswersError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
