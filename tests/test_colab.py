"""Colab, as near as a test can be: llmkit from a wheel, not editable; an empty folder; nothing beside the notebook."""

import os
import subprocess
import sys
import tomllib
import zipfile

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from llmkit.course import __main__ as commands
from llmkit.course import colab
from llmkit.course.badges import ROOT, install_cell, repository
from llmkit.course.environment import Problem


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("llmkit-*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert {f.split("-")[0] for f in folders} == {"llmkit"}
    assert "llmkit/course/checks/lesson_01.py" in names and "llmkit/data/toyland/lexicon.py" in names


def test_a_lesson_runs_unsolved_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty ü"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    notebook = nbformat.read(ROOT / "lessons" / "02_tokenizers.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import llmkit; print(llmkit.__file__)"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLMKIT_")} | {"PYTHONPATH": str(site)}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(empty)}}).execute(
        env=environment
    )
    assert str(site) in notebook.cells[-1].outputs[0].text, "the wheel's llmkit was to be tested, not the checkout's"
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "2.2 count_pairs: not written yet" in printed and "2.4 bpe_encode: not yet" in printed
    assert ": right" not in printed and not any(empty.iterdir()), "an unsolved lesson leaves nothing behind"


def test_the_install_cell_asks_for_llmkit_alone():
    """Where llmkit is found, nothing is installed; where not, pip is asked for it and for no upgrade."""
    source = install_cell()
    commands = [line.strip() for line in source.splitlines() if "pip" in line]
    assert commands == [f'%pip install -q "llmkit @ git+{repository()["url"]}@{repository()["branch"]}"']
    assert "-U" not in source and "upgrade " not in source
    plain = source.replace(commands[0], "asked = True")
    found: dict = {}
    exec(plain, found)
    assert "asked" not in found
    missing: dict = {}
    exec(plain.replace('"llmkit"', '"llmkit_is_not_here"'), missing)
    assert missing["asked"]


# --- make test-colab: the machinery, without its environment (`make test-colab` itself runs every notebook) ---


def test_the_pins_cover_what_a_wheel_asks_for():
    """All but torch, of which Colab's version has no CPU build on the package index."""
    lines = (ROOT / "requirements-colab.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.name in {*pins, "torch"}
        assert requirement.name == "torch" or pins[requirement.name] in requirement.specifier, requirement


def test_what_an_installation_changed_is_named():
    before = {"numpy": "2.1.3", "tqdm": "4.67.3", "old": "1.0"}
    assert colab.changes(before, dict(before)) == []
    after = {"numpy": "2.3.5", "tqdm": "4.67.3", "rich": "14.0"}
    assert colab.changes(before, after) == ["numpy 2.1.3 -> 2.3.5", "old 1.0 -> nothing", "rich nothing -> 14.0"]


def test_the_network_is_closed_and_this_machine_is_not(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(colab.NO_NETWORK)
    asks = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
socket.getaddrinfo("localhost", 80)
assert socket.socket().connect_ex(server.getsockname()) == 0
datagrams = socket.socket(type=socket.SOCK_DGRAM)
assert datagrams.sendto(b"x", ("127.0.0.1", 9)) == 1
for reach in (
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.create_connection(("192.0.2.1", 80), 1),
    lambda: socket.socket(type=socket.SOCK_DGRAM).connect_ex(("192.0.2.1", 80)),
    lambda: datagrams.sendto(b"x", ("192.0.2.1", 80)),
    lambda: datagrams.sendto(b"x", 0, ("192.0.2.1", 80)),
):
    try:
        reach()
    except OSError as error:
        print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", asks], env=environment, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert len(said) == 5 and all(line.startswith("the network is closed in this test") for line in said), done


@pytest.fixture
def python(wheel, tmp_path):
    """An environment in small: this Python, with the wheel's llmkit before all others."""
    if os.name == "nt":
        pytest.skip("a shell script stands for python here")
    zipfile.ZipFile(wheel).extractall(tmp_path / "env" / "site")
    script = tmp_path / "env" / "bin" / "python"
    script.parent.mkdir()
    line = f'PYTHONPATH="{tmp_path}/env/site:$PYTHONPATH" exec "{sys.executable}" "$@"'
    script.write_text(f"#!/bin/sh\n{line}\n")
    script.chmod(0o755)
    return script


def saved(folder, *cells):
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    nbformat.write(notebook, folder / "99_test.ipynb")
    return folder / "99_test.ipynb"


def code(source, stored=None):
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored)] if stored else []
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata={"tags": ["nbval-check-output"]})


def test_a_notebook_that_holds(python, tmp_path):
    path = saved(tmp_path, code("print(1)\nprint(2)", "1\n2\n"), code("import os; os.environ.get('LLMKIT_ANSWERS')"))
    one = colab.execute(path, python)
    assert one.problem == "" and one.path.endswith("/99_test.ipynb") and 0 < one.cpu < 60 and one.seconds > 0


@pytest.mark.parametrize(
    ("source", "stored", "problem"),
    [
        ("1 / 0", None, "ZeroDivisionError"),
        ("import urllib.request as u; u.urlopen('http://192.0.2.1')", None, "URLError"),
        ("import socket; socket.create_connection(('192.0.2.1', 80))", None, "the network is closed in this test"),
        ("import warnings; warnings.warn('old numpy')", None, "printed on stderr"),
        ("print(3)", "4\n", "and the stored output is\n4"),
        ("open('left.txt', 'w').close()", None, "left files behind: left.txt"),
    ],
)
def test_what_is_wrong_with_a_notebook_is_said(python, tmp_path, source, stored, problem):
    assert problem in colab.execute(saved(tmp_path, code(source, stored)), python).problem


def test_an_llmkit_from_elsewhere_does_not_count(python, tmp_path):
    moved = tmp_path / "other" / "bin" / "python"
    moved.parent.mkdir(parents=True)
    python.rename(moved)
    assert "not from the wheel" in colab.execute(saved(tmp_path, code("1")), moved).problem


@pytest.fixture
def made(monkeypatch):
    """`main` with everything slow taken out; what stays in place is how it decides."""
    for name in ("ensure", "build_wheel"):
        monkeypatch.setattr(colab, name, lambda *_: None)
    monkeypatch.setattr(colab, "install", lambda _: [])
    monkeypatch.setattr(colab, "execute", lambda path, **_: colab.Run(path.name, "", 1.0, 1.0))
    return monkeypatch


def test_every_notebook_is_run_and_one_failure_fails(made, capsys):
    notebooks = len([*ROOT.glob("lessons/*.ipynb"), *ROOT.glob("solutions/*.ipynb")])
    assert colab.main([]) == 0 and f"\n{notebooks} passed, 0 failed" in capsys.readouterr().out
    assert colab.main(["02"]) == 0 and "\n2 passed, 0 failed" in capsys.readouterr().out
    made.setattr(colab, "execute", lambda path, **_: colab.Run(path.name, "x" * path.name.startswith("02"), 1.0, 1.0))
    assert colab.main(["01", "02"]) == 1 and "2 passed, 2 failed" in capsys.readouterr().out
    assert colab.main(["99"]) == 1, "where no notebook was run, nothing was tested"


def test_an_upgrade_or_a_failed_install_fails(made, capsys):
    made.setattr(colab, "install", lambda _: ["numpy 2.1.3 -> 2.3.5"])
    assert colab.main(["01"]) == 1 and "numpy 2.1.3 -> 2.3.5" in capsys.readouterr().err

    def offline(_):
        raise Problem("check the network")

    made.setattr(colab, "install", offline)
    assert colab.main(["01"]) == 1 and "check the network" in capsys.readouterr().err


@pytest.mark.parametrize("failing", range(4))
def test_make_test_all_stops_at_a_failure(monkeypatch, failing):
    ran = []
    for name in ("test", "test_colab", "site", "test_browser"):
        monkeypatch.setattr(commands, name, lambda name=name: ran.append(name) or int(len(ran) == failing + 1))
    assert commands.test_all() == 1 and len(ran) == failing + 1
    ran.clear()
    failing = 9
    assert commands.test_all() == 0 and ran == ["test", "test_colab", "site", "test_browser"]
