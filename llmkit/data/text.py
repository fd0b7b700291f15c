"""Real text: what every Python installation holds, and data sets from the Hub where it can be reached."""

import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
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
    pieces, size = [], 0
    for path in _library_files():
        text = path.read_text(encoding="utf-8", errors="strict")
        pieces.append(text)
        size += len(text.encode("utf-8"))
        if size >= max_bytes:
            break
    return "\n".join(pieces).encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore")


def _library_files() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("[a-z]*.py"))
    if not files:
        raise OSError(f"no standard library modules were found in {folder}")
    return files


def python_modules(part: str, held_out: float = 0.2) -> dict[str, str]:
    """Real code cut by module: name -> source of the standard library's single-file modules, in alphabetical order.

    part       "train" or "held_out"
    held_out   share of the names that are held out, from 0 to 1

    A module's part hangs on a hash of its name alone, so it is the same in every Python, and no line of a held-out
    module is in a train one by accident of a cut. Modules come and go between versions (3.13 lacks some twenty of
    3.11's), and their text changes, so figures made from it differ a little.

    Raises ValueError for another part or share, OSError as python_source.
    """
    if part not in ("train", "held_out") or not 0 <= held_out <= 1:
        raise ValueError(f'part is "train" or "held_out", held_out a share from 0 to 1, got {part!r} and {held_out}')
    chosen = [path for path in _library_files() if (_share(path.stem) < held_out) == (part == "held_out")]
    return {path.stem: path.read_text(encoding="utf-8", errors="strict") for path in chosen}


def _share(name: str) -> float:
    """A number from 0 to 1 that hangs on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


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
    rows = _load(name, split, options)
    columns = [_column(rows, name, field, limit) for field in fields]
    return list(zip(*columns, strict=True))


def hub_stream(name: str, field: str = "text", split: str = "train", **options: Any) -> Iterator[str]:
    """The texts of one column, one after the other as they come, of a data set too large to hold or to download first.

    name, field, split and options are those of `hub_rows`; nothing is stored on the disk. A row without a text (null)
    is passed over.

    Raises what hub_rows raises, when the first text is asked for, and TypeError for a column that holds no texts.
    """
    column, _, entry = field.partition(".")
    for row in _load(name, split, {**options, "streaming": True}):
        if column not in row:
            raise ValueError(f"{name!r} has no field {column!r}; it has {', '.join(row)}")
        value = row[column]
        if entry and value is not None:
            if not isinstance(value, dict) or entry not in value:
                raise ValueError(f"the field {column!r} of {name!r} has no entry {entry!r}; it holds {value!r:.80}")
            value = value[entry]
        if value is None:
            continue
        if not isinstance(value, str):
            raise TypeError(f"the field {field!r} of {name!r} holds {type(value).__name__}, not texts")
        yield value


def _load(name: str, split: str, options: dict[str, Any]) -> Any:
    import datasets

    part = options.pop("config", None)
    try:
        try:
            return datasets.load_dataset(name, part, split=split, **options)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error) or "revision" in options:
                raise
            # a data set that is a program (WNUT-17 is): the Hub keeps what it gave, as files, on a branch
            return datasets.load_dataset(name, part, split=split, revision="refs/convert/parquet", **options)
    except StopIteration:  # what datasets makes of a file without a byte
        raise ValueError(f"{options.get('data_files') or name} is empty") from None
    except (ConnectionError, OSError) as error:
        if options.get("data_files"):
            raise
        raise ConnectionError(
            f"the data set {name!r} could not be loaded ({type(error).__name__}). This section needs the Hub; "
            "without it, use toyland or pass data_files= with a local copy."
        ) from error


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
