"""Real text: what every Python installation holds, and data sets from the Hub where it can be reached."""

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
    """One text column of a data set: `hub_rows` with one field."""
    return [text for (text,) in hub_rows(name, [field], split, limit, **options)]


def hub_rows(
    name: str, fields: Sequence[str], split: str = "train", limit: int | None = None, **options: Any
) -> list[tuple]:
    """Some columns of a data set, by its Hub name or by a local format ("text", "json", "parquet").

    fields   names of columns; "translation.en" is the entry "en" of the column "translation"
    options  `config` names a part of the data set; others go to datasets.load_dataset, such as data_files

    Reviews: hub_rows("cornell-movie-review-data/rotten_tomatoes", ["text", "label"]). Entities: hub_rows(
    "leondz/wnut_17", ["tokens", "ner_tags"]). Translations: hub_rows("Helsinki-NLP/opus_books", ["translation.en",
    "translation.fr"], config="en-fr").

    Raises ValueError for a field that the data set does not have, and ConnectionError with what to do when the Hub
    cannot be reached.
    """
    import datasets

    try:
        rows = datasets.load_dataset(name, options.pop("config", None), split=split, **options)
    except (ConnectionError, OSError) as error:
        if options.get("data_files"):
            raise
        raise ConnectionError(
            f"the data set {name!r} could not be loaded ({type(error).__name__}). This section needs the Hub; "
            "without it, use toyland or pass data_files= with a local copy."
        ) from error
    columns = [_column(rows, name, field, limit) for field in fields]
    return list(zip(*columns, strict=True))


def _column(rows: Any, name: str, field: str, limit: int | None) -> list:
    column, _, entry = field.partition(".")
    if column not in rows.column_names:
        raise ValueError(f"{name!r} has no field {column!r}; it has {', '.join(rows.column_names)}")
    values = list(rows[column][:limit] if limit is not None else rows[column])
    if not entry:
        return values
    if values and (not isinstance(values[0], dict) or entry not in values[0]):
        has = (
            f"it has {', '.join(values[0])}" if isinstance(values[0], dict) else f"it holds {type(values[0]).__name__}"
        )
        raise ValueError(f"the field {column!r} of {name!r} has no entry {entry!r}; {has}")
    return [value[entry] for value in values]
