"""Colab, as near as a test can be: llmkit from a wheel, not editable; an empty folder; nothing beside the notebook."""

import os
import subprocess
import sys
import zipfile

import nbformat
import pytest
from nbclient import NotebookClient

from llmkit.course.badges import ROOT, install_cell, repository


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
