"""One run at a time in a folder: two would overwrite each other's checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkit.training.run import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it when the process ends, however it ends.

    Raises RunError when another process has it. Nothing is locked where the system or the disk
    has no flock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another process is training in {folder}: wait for it, or use another folder") from None
            except OSError:  # a network disk that has no locks: to train there is better than not to
                pass
        yield
