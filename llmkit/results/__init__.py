"""What long runs found, kept as small JSON files beside this one: lessons draw them, and re-run a small part.

Each file names the command and seed that made it, and the versions it was made with; `make results` makes all anew.
"""

import json
from importlib.resources import files
from typing import Any


def load(name: str) -> dict[str, Any]:
    """The file NAME.json: "command", "seed", "python", "torch" and what was measured.

    Raises FileNotFoundError with the names there are.
    """
    folder = files("llmkit.results")
    if not (folder / f"{name}.json").is_file():
        names = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
        names = [name for name in names if not name.endswith(".partial")]  # of a run that is not done
        raise FileNotFoundError(f"no result is called {name!r}; there are {', '.join(names) or 'none'}")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
