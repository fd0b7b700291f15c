"""python -m llmkit.data: text files or data sets of the Hub into token shards for training and validation."""

import argparse
import glob
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmkit.data.cleaning import clean, problems
from llmkit.data.dedup import deduplicate
from llmkit.data.hashing import hash64
from llmkit.data.shard_writer import ShardWriter
from llmkit.data.text import hub_stream
from llmkit.tokenizers import Tokenizer, load_tokenizer
from llmkit.training.progress import tqdm

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
FILES = (".txt", ".jsonl", ".json", ".parquet")
CHUNK = 2**20  # characters of a .txt file read at once


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmkit.data", description=__doc__.partition(": ")[2])
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=f"files ({', '.join(FILES)}) or names on the Hub")
    parser.add_argument("--tokenizer", required=True, help="a tokenizer's folder or file")
    parser.add_argument("--out", required=True, type=Path, help="gets train/, val/, tokenizer.json and summary.json")
    parser.add_argument("--field", default="text", help="where JSON, parquet and the Hub hold the text (%(default)s)")
    parser.add_argument("--separator", help="cut .txt files here; otherwise each is one document")
    parser.add_argument("--clean", action="store_true", help="bring texts into one form, remove what is no prose")
    parser.add_argument("--min-words", type=int, default=50, help="with --clean, in a document (%(default)s)")
    parser.add_argument("--dedup", action="store_true", help="remove copies and near copies; all texts are in memory")
    parser.add_argument("--val-share", type=float, default=0.01, help="of documents, for validation (%(default)s)")
    parser.add_argument("--end", help="the special token after each document, or 'none'; by default one is looked for")
    parser.add_argument("--shard-tokens", type=int, default=100_000_000, help="in a file, about (%(default)s)")
    return parser.parse_args(argv)


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says; the summary, which is also written to summary.json.

    Raises ValueError and OSError with what to do; then neither train/ nor val/ is there.
    """
    if not 0 <= options.val_share < 1:
        raise ValueError(f"--val-share must be from 0 to below 1, got {options.val_share}")
    tokenizer = load_tokenizer(options.tokenizer)
    removed: Counter[str] = Counter()
    texts = read(expanded(options.inputs), options.field, options.separator)
    texts = good(tqdm(texts, unit=" documents", disable=None), options.clean, options.min_words, removed)
    if options.dedup:
        texts = without_copies(list(texts), removed)
    summary = {"removed": removed, **write(texts, tokenizer, options, removed)}
    summary = {
        "documents": sum(removed.values()) + sum(summary[name]["documents"] for name in ("train", "val"))
    } | summary
    tokenizer.save(options.out)
    aside = options.out / "summary.json.partial"
    aside.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, options.out / "summary.json")
    return summary


def expanded(inputs: Iterable[str]) -> list[str]:
    """Patterns (texts/*.txt) as the files that they name: Windows' shells hand them on as they are."""
    return [one for name in inputs for one in ([name] if Path(name).exists() else sorted(glob.glob(name)) or [name])]


def read(inputs: Iterable[str], field: str, separator: str | None) -> Iterator[str]:
    """The documents of files and data sets, one after the other."""
    for name in inputs:
        path = Path(name)
        if not path.is_file():
            if path.suffix in FILES or path.is_dir():
                raise FileNotFoundError(f"{name} is no file" + (": name the files in it" if path.is_dir() else ""))
            yield from hub_stream(name, field)
        elif path.suffix == ".jsonl":
            yield from _json_lines(path, field)
        elif path.suffix in (".json", ".parquet"):
            try:
                yield from hub_stream(path.suffix[1:], field, data_files=name)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}: {error}") from None
        else:
            yield from _pieces(path, separator)


def _json_lines(path: Path, field: str) -> Iterator[str]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}, is not UTF-8 text: {error.reason}") from None
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}, is not JSON: {error}") from None
            if isinstance(row, dict) and row.get(field, "") is None:  # a row without text, as in the Hub's data sets
                continue
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise ValueError(f"{path}, line {number}, has no text in {field!r}; it has {has} (see --field)")
            yield row[field]


def _pieces(path: Path, separator: str | None) -> Iterator[str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            rest = "" if separator else file.read()
            while separator and (more := file.read(CHUNK)):
                *whole, rest = (rest + more).split(separator)
                yield from whole
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error.reason} ({error.object[error.start]:#x})") from None
    yield rest


def good(texts: Iterable[str], cleaning: bool, min_words: int, removed: Counter[str]) -> Iterator[str]:
    """The texts that are worth keeping, cleaned on demand; `removed` counts the first reason against each other one."""
    for text in texts:
        text = clean(text) if cleaning else text
        if not text.strip():
            removed["empty"] += 1
        elif any("\ud800" <= character <= "\udfff" for character in text):
            removed["half a surrogate pair in it"] += 1
        elif cleaning and (found := problems(text, min_words)):
            removed[found[0].partition(":")[0]] += 1
        else:
            yield text


def without_copies(texts: Sequence[str], removed: Counter[str]) -> Iterator[str]:
    report = deduplicate(texts)
    removed.update({name: n for name, n in (("copy", report.exact), ("near copy", report.near)) if n})
    return (texts[i] for i in report.kept)


def is_validation(text: str, share: float) -> bool:
    """Whether a text belongs to the validation set: by its hash, so that it stays where it is when others are added."""
    return hash64(text) < share * 2**64


def write(
    texts: Iterable[str], tokenizer: Tokenizer, options: argparse.Namespace, removed: Counter[str]
) -> dict[str, Any]:
    """Encode and write both sets; documents, tokens (end tokens too) and bytes of each, and bytes a token of all."""
    eos_id = end_token(tokenizer, options.end)
    sets = {"train": Counter(), "val": Counter()}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                ShardWriter(options.out / name, tokenizer.vocab_size, eos_id, options.shard_tokens)
            )
            for name in (sets if options.val_share else ["train"])
        }
        for text in texts:
            try:
                ids = tokenizer.encode(text)
            except ValueError:  # a byte-level vocabulary that lacks bytes; tokenizers' own would shorten the text
                ids = []
            if not ids:
                removed["no token for it"] += 1
                continue
            name = "val" if is_validation(text, options.val_share) else "train"
            writers[name].add(ids)
            n_tokens = len(ids) + (eos_id is not None)
            sets[name].update(documents=1, tokens=n_tokens, bytes=len(text.encode("utf-8")))
        for name, writer in writers.items():
            if not writer.n_documents:
                reasons = "".join(f", {n} removed: {reason}" for reason, n in removed.items())
                raise ValueError(
                    f"no document of {sum(count['documents'] for count in sets.values())} is left for {name}{reasons}. "
                    "Change --val-share, cut files with --separator, or ask less of texts"
                )
    counts = {name: {key: count[key] for key in ("documents", "tokens", "bytes")} for name, count in sets.items()}
    n_tokens, n_bytes = (sum(count[key] for count in counts.values()) for key in ("tokens", "bytes"))
    return {**counts, "bytes_per_token": n_bytes / n_tokens}


def end_token(tokenizer: Tokenizer, name: str | None) -> int | None:
    """The id of the token after each document. Raises ValueError when the tokenizer does not have it, or none known."""
    if name == "none":
        return None
    found = [token for token in ([name] if name else END_TOKENS) if token in tokenizer.special_tokens]
    if not found:
        raise ValueError(
            f"the tokenizer has no special token {name or ' or '.join(END_TOKENS)}; it has "
            f"{', '.join(tokenizer.special_tokens) or 'none'}. Choose with --end NAME, or --end none"
        )
    return tokenizer.special_tokens[found[0]]


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        summary = prepare(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{summary['documents']:,} documents read")
    for reason, n in sorted(summary["removed"].items(), key=lambda item: -item[1]):
        print(f"  {n:,} removed: {reason}")
    for name in ("train", "val"):
        count = summary[name]
        print(f"{name}: {count['documents']:,} documents, {count['tokens']:,} tokens, {count['bytes']:,} bytes")
    print(f"{summary['bytes_per_token']:.3f} bytes a token; written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # no terminal shows every character of a path or a text
    sys.exit(main())
