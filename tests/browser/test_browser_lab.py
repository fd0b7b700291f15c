"""JupyterLab as `make lab` starts it: lesson 02 runs, a wrong answer is explained, a right one is kept."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from presence import missing

from llmkit.course import environment

ROOT = Path(__file__).parents[2]
LESSON = ROOT / "lessons" / "02_tokenizers.ipynb"
SECONDS = 300  # lesson 02 takes a fifth of this on a quiet machine


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of a running JupyterLab, its token in it, and the folder where answers go: not the reader's.

    The only setting is that nothing is saved by itself, so that the test leaves the lesson as it is.
    """
    if not shutil.which("make") or not environment.is_ready():
        missing("needs make, and the .venv that `make` makes")
    folder = tmp_path_factory.mktemp("lab")
    settings = folder / "settings" / "@jupyterlab" / "docmanager-extension" / "plugin.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"autosave": False}))
    own = {f"JUPYTERLAB_{name.upper()}_DIR": str(folder / name) for name in ("settings", "workspaces")}
    own |= {"LLMKIT_ANSWERS": str(folder / "answers"), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log"
    before = LESSON.read_bytes()
    command = ["make", "lab", f"PYTHON={sys.executable}", f"PORT={port}", "BROWSER=0"]
    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | own, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield _address(server, log), folder / "answers"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    if LESSON.read_bytes() != before:
        LESSON.write_bytes(before)
        raise AssertionError("the lesson's file was written; it is as before again")


def _address(server: subprocess.Popen, log: Path) -> str:
    """Waits for the address that JupyterLab prints, as a person would copy it."""
    for _ in range(120):
        found = re.search(r"http://127\.0\.0\.1:\d+/lab\S*\?token=\w+", log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        assert server.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        time.sleep(0.5)
    raise AssertionError(f"JupyterLab printed no address:\n{log.read_text(encoding='utf-8')[-2000:]}")


def code_cell(page, words: str):
    """The code cell that holds these words, scrolled to."""
    found = page.locator(".jp-CodeCell").filter(has_text=words).first
    found.scroll_into_view_if_needed()
    return found


def type_over(page, words: str, source: str):
    """Click into the cell that holds these words, type other source over it, press Shift-Enter; the cell."""
    code_cell(page, words).locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(source)
    page.keyboard.press("Shift+Enter")
    return code_cell(page, source.splitlines()[0])


def errors(page) -> list[str]:
    """Tracebacks, and whatever stands on the red ground of stderr."""
    kinds = [f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in ("error", "stderr")]
    return page.locator(", ".join(kinds)).all_text_contents()


def prompts(page) -> list[str]:
    return page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()


def test_a_learner_in_jupyterlab(lab, browser, shot):
    address, answers = lab
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(address)  # what `make lab` opens
    page.get_by_role("heading", name="01 · Predicting the next token").wait_for()
    shot(page, "lab-opened")

    page.goto(address.replace("01_next_token", LESSON.stem) + "&reset")
    page.get_by_role("heading", name="02 · Tokenizers").wait_for()
    idle = page.get_by_text("| Idle")
    idle.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("exercises done").wait_for(timeout=1000 * SECONDS)  # printed by the last cell, progress()
    idle.wait_for()
    n_cells = sum(cell["cell_type"] == "code" for cell in json.loads(LESSON.read_text(encoding="utf-8"))["cells"])
    assert f"[{n_cells}]:" in prompts(page) and "[*]:" not in prompts(page)
    assert not errors(page), errors(page)
    assert "○○○○○○○○" in code_cell(page, "progress()").text_content() and not answers.exists()
    shot(page, "lab-02-run-all")

    line = '\nsecond_merge = check(second_merge, "2.1")'
    at = type_over(page, "# your answer here", 'second_merge = "at"' + line)
    at.get_by_text("2.1 second_merge: not yet").wait_for()
    assert "that is the first merge" in at.text_content() and not answers.exists()
    shot(page, "lab-02-wrong-answer")

    at = type_over(page, 'second_merge = "at"', 'second_merge = "cat"' + line)
    at.get_by_text("2.1 second_merge: right").wait_for()
    assert (answers / f"{LESSON.stem}.py").exists()
    shot(page, "lab-02-right-answer")

    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Restart Kernel…").first.click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    page.get_by_text("| Restarting").wait_for(state="hidden")
    idle.wait_for()
    for words in ('start("02_tokenizers")', "progress()"):
        code_cell(page, words).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
    page.get_by_text("1 exercise done").wait_for()
    assert "02_tokenizers            ●○○○○○○○   1 of 8" in code_cell(page, "progress()").text_content()
    assert not errors(page), errors(page)
    shot(page, "lab-02-progress-after-restart")
    page.close()
