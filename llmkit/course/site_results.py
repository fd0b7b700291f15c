"""docs/results.md: what long runs found, from llmkit/results/*.json and the README, each with its command.

`python -m llmkit.course.site_results` writes the page anew; a test compares.
"""

import ast
import re

from llmkit import results
from llmkit.course.badges import ROOT
from llmkit.course.lessons import LESSONS
from llmkit.course.site_tables import SECTIONS

PAGE = ROOT / "docs" / "results.md"
HEAD = """\
# Results

Figures that take longer than a lesson may: each was made by the command under it, with its seed, and is kept in `llmkit/results/`. `make results` makes these anew (`ONLY="toyland"` some of them). The race against nanoGPT at the end is not kept: its command needs two downloads. Losses are in nats a token where nothing else is said.
"""  # noqa: E501


def section(name: str) -> str:
    """Title (the script's own first line), figures, command, and the lesson that draws them."""
    stored = results.load(name)
    script = re.search(r"benchmarks/\S+\.py", stored["command"])[0]
    title = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8"))).partition("\n")[0].rstrip(".")
    masters = {one: ROOT / "solutions" / f"{one.name}.py" for one in LESSONS}
    drawn = [one for one, path in masters.items() if path.exists() and f'load("{name}")' in path.read_text("utf-8")]
    lessons = f"Drawn in {' and '.join(f'lesson {one.number:02d}' for one in drawn)}. " if drawn else ""
    where = f" on {stored['date']} ({stored['machine']})" if "date" in stored else ""
    made = f"{lessons}Made{where} in {stored['cpu_seconds']:,} CPU seconds, seed {stored['seed']}, by"
    figures = SECTIONS[name](stored) if name in SECTIONS else ""
    return "\n\n".join(filter(None, (f"## {title}", figures, f"{made}\n\n```\n{stored['command']}\n```")))


def race() -> str:
    """The README's race on tiny Shakespeare, word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^### How fast it learns\n(.*?)(?=^## )", readme, re.DOTALL | re.MULTILINE)
    return "## How fast it learns\n" + found[1].replace("](docs/", "](").rstrip()


def render() -> str:
    """The whole page; a result without a function of its own is there with its command alone."""
    paths = (ROOT / "llmkit" / "results").glob("*.json")
    names = sorted(path.stem for path in paths if not path.stem.endswith(".partial"))  # of a run that is not done
    ordered = [name for name in SECTIONS if name in names] + [name for name in names if name not in SECTIONS]
    return "\n\n".join([HEAD.rstrip(), *map(section, ordered), race()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8", newline="\n")
