"""A real Chromium for the tests of this folder, and the screenshots that they leave in build/screenshots/.

Python's playwright and not npm's playwright-core: the same driver, and pytest runs it like every other test.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from presence import missing

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "screenshots"
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
# No network is there, so the browser may not look for one; and root, as in a container, has no sandbox.
FLAGS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
).split()


def chromium() -> str | None:
    """The browser's path: $CHROMIUM, or the first of the usual names on PATH."""
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return os.environ.get("CHROMIUM") or next(filter(None, found), None)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Skips where there is no Chromium, or no playwright."""
    if not chromium():
        missing("there is no Chromium on this machine (Debian and Ubuntu: apt install chromium)")
    if importlib.util.find_spec("playwright") is None:
        missing("playwright is missing: pip install -r tests/browser/requirements.txt")
    from playwright import sync_api as playwright

    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=chromium(), args=FLAGS + root)
        yield started
        started.close()


@pytest.fixture(params=SIZES)
def sized(browser, request) -> Iterator:
    """A page of a desktop's and of a phone's size; errors in its scripts fail the test."""
    page = browser.new_page(viewport=SIZES[request.param], has_touch=request.param == "phone")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.size = request.param
    yield page
    page.close()
    assert not errors, errors


@pytest.fixture
def shot() -> Callable:
    """shot(page, "name") keeps what a person would see as build/screenshots/name.png."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=SHOTS / f"{name}.png")
