"""Real text: what every Python installation holds, and data sets from the Hub where it can be reached."""

import sysconfig
from pathlib import Path


def python_docs() -> str:
    """Python's reference as English prose: the topics of `help()`, in alphabetical order (about 700 kB).

    The text is that of the running Python, so figures made from it differ a little between versions.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip() for name in sorted(topics))


def python_source(max_bytes: int = 500_000) -> str:
    """Real code: modules of the standard library in alphabetical order, up to `max_bytes` of UTF-8.

    Raises ValueError for a size below 1 and OSError where the library lies in no folder (a zipped Python).
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
    folder = Path(sysconfig.get_paths()["stdlib"])
    pieces, size = [], 0
    for path in sorted(folder.glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8", errors="strict")
        pieces.append(text)
        size += len(text.encode("utf-8"))
        if size >= max_bytes:
            break
    if not pieces:
        raise OSError(f"no standard library modules were found in {folder}")
    return "\n".join(pieces).encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore")


def hub_text(name: str, split: str = "train", field: str = "text", limit: int | None = None, **options) -> list[str]:
    """One text column of a data set, by its Hub name or by a local format ("text", "json", "parquet").

    options  go to datasets.load_dataset, such as data_files for local files

    Raises ValueError for a field that the data set does not have, and ConnectionError with what to do when the Hub
    cannot be reached.
    """
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split, **options)
    except (ConnectionError, OSError) as error:
        if options.get("data_files"):
            raise
        raise ConnectionError(
            f"the data set {name!r} could not be loaded ({type(error).__name__}). This section needs the Hub; "
            "without it, use toyland.stories or pass data_files= with a local copy."
        ) from error
    if field not in rows.column_names:
        raise ValueError(f"{name!r} has no field {field!r}; it has {', '.join(rows.column_names)}")
    texts = rows[field]
    return list(texts[:limit] if limit is not None else texts)
