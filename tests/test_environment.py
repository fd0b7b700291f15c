"""`make` in the hands of people: old Pythons, full disks, taken ports, failed installs, interrupted ones."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmkit.course import environment
from llmkit.course.environment import Problem

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "llmkit" / "course" / "environment.py"


def test_a_python_that_is_too_old_is_named():
    with pytest.raises(Problem, match=r"needs Python 3.11 or newer, and this is 3.8.10"):
        environment.check_python((3, 8, 10))
    environment.check_python((3, 11, 0))
    environment.check_python((3, 14, 2))


@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs make")
def test_make_with_only_an_old_python_says_so(tmp_path):
    """A PATH on which every python answers like an old one, but can run the script."""
    old = tmp_path / "python3"
    old.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = "-c" ]; then exit 1; fi\n'
        f'exec "{sys.executable}" -c "import sys, runpy; sys.version_info = (3, 9, 2); sys.argv = sys.argv[1:]; '
        'runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$@"\n'
    )
    old.chmod(0o755)
    for name in ("python", "python3.11", "python3.12", "python3.13"):
        (tmp_path / name).symlink_to(old)
    run = subprocess.run(
        ["make", "test"], cwd=ROOT, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert run.returncode != 0 and "llmkit needs Python 3.11 or newer, and this is 3.9.2" in run.stderr, run.stderr


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    with pytest.raises(Problem, match="needs about 999999 GB.*only"):
        environment.check_disk(str(tmp_path), gigabytes=999_999)
    environment.check_disk(str(tmp_path), gigabytes=0)


def test_a_port_that_is_taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(Problem, match=f"Port {port} is taken.*make lab PORT={port + 1}"):
            environment.check_port(port)
        run = subprocess.run([sys.executable, SCRIPT, "lab", f"PORT={port}"], capture_output=True, text=True)
        assert run.returncode == 1 and f"Port {port} is taken" in run.stderr
    for bad in (0, 70_000):
        with pytest.raises(Problem, match="is no port"):
            environment.check_port(bad)
    run = subprocess.run([sys.executable, SCRIPT, "lab", "PORT=http"], capture_output=True, text=True)
    assert run.returncode == 1 and "PORT=http is no number" in run.stderr


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError: failed", "check the network"),
        ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build for this Python"),
        ("something else", "open an issue"),
    ],
)
def test_what_to_do_about_a_failed_install(printed, words):
    with pytest.raises(Problem) as problem:
        environment.run([sys.executable, "-c", f"import sys; print({printed!r}); sys.exit(1)"], "Installing")
    assert words in str(problem.value) and printed in str(problem.value) and "Installing failed" in str(problem.value)


def test_an_interrupted_install_leaves_no_stamp(tmp_path, monkeypatch):
    """The commands fail halfway; the next run must begin anew, and a whole run must count."""
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    venv = tmp_path / ".venv"
    monkeypatch.setattr(environment, "ROOT", str(tmp_path))
    monkeypatch.setattr(environment, "VENV", str(venv))
    monkeypatch.setattr(environment, "STAMP", str(venv / "stamp"))
    monkeypatch.setattr(environment, "PYTHON", sys.executable)
    monkeypatch.setattr(environment, "check_disk", lambda: None)
    steps = []

    def install(command, what):
        steps.append(what)
        venv.mkdir(exist_ok=True)
        if fail_at == len(steps):
            raise Problem(what)

    monkeypatch.setattr(environment, "run", install)
    fail_at = 2
    with pytest.raises(Problem):
        environment.ensure()
    assert not environment.is_ready()
    steps, fail_at = [], None
    environment.ensure()
    assert len(steps) == 3 and environment.is_ready()
    environment.ensure()
    assert len(steps) == 3, "the second time nothing is done"
    (tmp_path / "requirements.txt").write_text("torch==0\n")
    assert not environment.is_ready(), "other requirements make another environment"


def test_pins_and_ranges_agree():
    """requirements.txt pins every package that pyproject names, within pyproject's ranges."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.version import Version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [r for extra in project["optional-dependencies"].values() for r in extra] + project["dependencies"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.split("==")[0]: line.split("==")[1] for line in lines if "==" in line}
    for requirement in map(Requirement, named):
        assert requirement.name in pins, f"{requirement.name} is not pinned"
        assert Version(pins[requirement.name]) in requirement.specifier
    colab = {"torch": "2.11.0", "numpy": "2.1.3", "tokenizers": "0.22.2", "datasets": "4.0.0", "matplotlib": "3.10.0"}
    for requirement in map(Requirement, project["dependencies"]):
        assert Version(colab.get(requirement.name, pins[requirement.name])) in requirement.specifier
