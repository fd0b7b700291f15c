"""500 damaged GGUF files and 500 damaged folders: python benchmarks/gguf_damage.py. Some minutes on one core."""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from test_gguf_damage import damage_folder, damage_gguf, sources, try_all  # noqa: E402
from timing import whole_numbers  # noqa: E402

import llmkit  # noqa: E402
from llmkit.checkpoints.gguf import load_gguf  # noqa: E402


def main(n: int = 500) -> None:
    """Print how many mutants were refused with which error; stops at the first that is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        files, folders = sources(folder / "whole")
        for what, load, damage, whole in (
            ("GGUF files", load_gguf, damage_gguf, files),
            ("folders", llmkit.from_pretrained, damage_folder, folders),
        ):
            began = time.process_time()
            (folder / what).mkdir()
            found = try_all(load, damage, whole, folder / what, n, seed=20)
            print(f"{n} damaged {what}: {dict(found)}, {time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main(*whole_numbers(__doc__))
