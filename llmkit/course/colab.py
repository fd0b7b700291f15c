"""Colab, as near as can be without it: `python -m llmkit.course.colab [01 02 ...]`, which `make test-colab` calls.

A second environment, .venv-colab, has the versions of requirements-colab.txt. llmkit is installed into it from a
wheel, as a visitor of Colab gets it, and pip may change nothing that is there. Then each notebook, unsolved and solved,
runs in a kernel of that environment, in an empty folder, with the network closed.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from llmkit.course.badges import ROOT
from llmkit.course.environment import Problem, check_disk, run

VENV = ROOT / ".venv-colab"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LAST = "import llmkit, time\nprint(llmkit.__file__, time.process_time(), sep='\\n')"  # put after a notebook's last cell
WORKERS = 2  # notebooks side by side, each on one thread, as in `make test`

# Every Python process of the run finds this first: a lesson that reaches for the network fails with these words.
NO_NETWORK = """\
import socket

def closed(*address, **_):
    raise OSError(f"the network is closed in this test; asked for {address[:2]}")

def only_this_machine(reach):
    def guarded(self, *rest):  # an address is the last argument
        internet = self.family in (socket.AF_INET, socket.AF_INET6)
        outside = internet and rest[-1][0] not in ("127.0.0.1", "::1", "localhost")
        return closed(rest[-1]) if outside else reach(self, *rest)
    return guarded

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, only_this_machine(getattr(socket.socket, name)))
socket.getaddrinfo = lambda host, *rest, _find=socket.getaddrinfo, **named: (
    _find(host, *rest, **named) if host in (None, "127.0.0.1", "::1", "localhost") else closed(host, *rest)
)
"""


@dataclass(frozen=True)
class Run:
    """One notebook's run: its path in the repository, what was wrong ("" where nothing was), and the seconds taken.

    cpu   the kernel's own processor seconds, which another program on the machine does not lengthen; 0 where it failed
    """

    path: str
    problem: str
    seconds: float
    cpu: float


def ensure() -> None:
    """Make .venv-colab where it is missing or its versions have changed; Problem where that fails."""
    torch = [x for x in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if x.startswith("torch==")]
    wanted = (ROOT / "requirements-colab.txt").read_bytes() + repr((torch, sys.version_info[:2], str(ROOT))).encode()
    stamp, digest = VENV / "llmkit-installed", hashlib.sha256(wanted).hexdigest()
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    check_disk()
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(VENV)], "Making .venv-colab")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(pip + torch, "Installing torch")
    run(pip + ["-r", "requirements-colab.txt"], "Installing Colab's versions")
    stamp.write_text(digest)  # last, so that no half of it counts


def build_wheel(folder: Path) -> Path:
    """Build llmkit's wheel into a folder; its path."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], "Building the wheel")
    return next(folder.glob("llmkit-*.whl"))


def versions(python: Path = PYTHON) -> dict[str, str]:
    """Package -> version of an environment, llmkit left out."""
    command = [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return {package["name"]: package["version"] for package in listed if package["name"] != "llmkit"}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What an installation did to other packages, one line each; empty where it left them alone.

    >>> changes({"numpy": "2.1.3", "tqdm": "4.67.3"}, {"numpy": "2.3.5", "tqdm": "4.67.3", "rich": "14.0"})
    ['numpy 2.1.3 -> 2.3.5', 'rich nothing -> 14.0']
    """
    names = sorted(before.keys() | after.keys())
    pairs = [(name, before.get(name, "nothing"), after.get(name, "nothing")) for name in names]
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]


def install(wheel: Path) -> list[str]:
    """Put llmkit in from its wheel, as Colab's pip would, and return what pip changed besides."""
    pip = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(pip + ["uninstall", "--yes", "llmkit"], "Removing the last llmkit")
    before = versions()
    run(pip + ["install", str(wheel)], "Installing the wheel")
    return changes(before, versions())


def execute(path: Path, python: Path = PYTHON, time_limit: int = 300) -> Run:
    """Run a notebook with another environment's Python in an empty folder, without a network.

    Wrong are: a cell that raises, anything on stderr, another output than the stored one in a cell tagged
    `nbval-check-output`, an llmkit that is not the environment's own, and a file left in the folder.
    """
    notebook = nbformat.read(path, as_version=4)
    stored = [_text(cell) for cell in notebook.cells]
    notebook.cells.append(nbformat.v4.new_code_cell(LAST))
    start, cpu = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        empty, aside = Path(folder, "empty ü"), Path(folder, "aside")
        empty.mkdir()
        client = NotebookClient(
            notebook, km=_kernel(aside, python), timeout=time_limit, resources={"metadata": {"path": str(empty)}}
        )
        try:
            client.execute(env=_closed(aside), cleanup_kc=True)  # the manager is ours, the kernel must end all the same
            home, cpu = _text(notebook.cells.pop()).split("\n")[:2]
            own = Path(home).is_relative_to(python.parents[1])
            problem = _problem(notebook, stored, empty)
            problem = problem or ("" if own else f"llmkit was imported from {home}, not from the wheel")
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            problem = str(error).strip()
    return Run("/".join(path.parts[-2:]), problem, time.monotonic() - start, float(cpu))


def _kernel(folder: Path, python: Path) -> AsyncKernelManager:
    """A manager of kernels of another Python than this one."""
    (folder / "colab").mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "colab", "language": "python"}
    (folder / "colab" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return AsyncKernelManager(kernel_name="colab", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(folder)]))


def _closed(folder: Path) -> dict[str, str]:
    """The kernel's environment variables: nothing of this checkout, no network, a package index least of all."""
    (folder / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMKIT_", "PYTHON", "PIP_"))}
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # the debugger warns of Python's frozen modules
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return kept | nowhere | {"PYTHONPATH": str(folder), "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"} | quiet


def _problem(notebook: NotebookNode, stored: list[str], folder: Path) -> str:
    for cell, before in zip(notebook.cells, stored, strict=True):
        where = f"cell {cell.id} ({cell.source.splitlines()[0] if cell.source else ''})"
        printed = "".join(o.text for o in cell.get("outputs", []) if o.get("name") == "stderr")
        if printed:
            return f"{where} printed on stderr: {printed.strip()[:300]}"
        if "nbval-check-output" in cell.metadata.get("tags", []) and before and _text(cell) != before:
            return f"{where} printed\n{_text(cell)}\nand the stored output is\n{before}"
    left = sorted(path.name for path in folder.iterdir())
    return f"left files behind: {', '.join(left)}" if left else ""


def _text(cell: NotebookNode) -> str:
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", []))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llmkit.course.colab", description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", help="numbers such as 01; all where none is named")
    wanted = parser.parse_args(arguments).lessons
    paths = sorted([*ROOT.glob("lessons/*.ipynb"), *ROOT.glob("solutions/*.ipynb")], key=lambda path: path.name)
    paths = [path for path in paths if not wanted or path.name[:2] in wanted]
    if not paths:
        print(f"no notebook of {' '.join(wanted) or 'any lesson'} in {ROOT}", file=sys.stderr)
        return 1
    try:
        ensure()
        with tempfile.TemporaryDirectory() as folder:
            changed = install(build_wheel(Path(folder)))
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    if changed:
        print("Installing llmkit changed what was there:", *changed, sep="\n  ", file=sys.stderr)
        return 1
    print("Installing llmkit changed no other package.\n\n  seconds  of a processor  notebook", flush=True)
    failed = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for one in pool.map(partial(execute, time_limit=600), paths):
            failed += bool(one.problem)
            print(f"{one.seconds:9.1f}{one.cpu:16.1f}  {one.path}{'  FAILED' if one.problem else ''}", flush=True)
            if one.problem:
                print(one.problem, file=sys.stderr, flush=True)
    print(f"\n{len(paths) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
