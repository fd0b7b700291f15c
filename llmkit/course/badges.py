"""What a notebook needs to know of the repository: Colab badges and the install cell, from pyproject.toml."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALL = """\
# Installs llmkit where it is missing (on Colab); upgrades nothing that is there.
import importlib.util

if importlib.util.find_spec("llmkit") is None:
    %pip install -q "llmkit @ git+{url}@{branch}\""""


def repository() -> dict[str, str]:
    """{"url": …, "branch": …} from pyproject.toml, the one place that names them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {"url": project["project"]["urls"]["Repository"], "branch": project["tool"]["llmkit"]["branch"]}


def badge(path: str) -> str:
    """The Markdown of an "Open in Colab" badge for a notebook of this repository."""
    at = repository()
    colab = "https://colab.research.google.com"
    target = f"{colab}/github/{at['url'].removeprefix('https://github.com/')}/blob/{at['branch']}/{path}"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({target})"


def with_badges(readme: str) -> str:
    """README's text with every Colab badge pointing at the repository that pyproject names."""
    found = r"\[!\[Open in Colab\]\([^)]*\)\]\(\S+?/((?:lessons|solutions)/\w+\.ipynb)\)"
    return re.sub(found, lambda match: badge(match[1]), readme)


def install_cell() -> str:
    """The first code cell of every notebook."""
    return INSTALL.format(**repository())
