"""What to do where something that the browser tests need is not there."""

import os

import pytest


def missing(what: str) -> None:
    """Skip the test; on a server of GitHub it fails instead, where nobody would see that all were skipped."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)
