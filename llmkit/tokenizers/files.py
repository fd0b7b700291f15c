"""Load a tokenizer from the files that models come with; whatever is wrong with one is said with its name."""

import json
import os
from pathlib import Path

from llmkit.tokenizers import protobuf
from llmkit.tokenizers.base import Tokenizer, TokenizerFileError
from llmkit.tokenizers.bpe import GPT2_PATTERN
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.sentencepiece import SentencePiece
from llmkit.tokenizers.sentencepiece_bpe import SentencePieceBPE
from llmkit.tokenizers.sentencepiece_unigram import Unigram
from llmkit.tokenizers.tokenizer_json import read_tokenizer_json
from llmkit.tokenizers.vocab import byte_level_from, check_ids, no_duplicates, unique
from llmkit.tokenizers.wordpiece import WordPiece


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer in a folder or file: tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt.

    Beside all but tokenizer.json, added_tokens.json names special tokens that came later.

    Raises FileNotFoundError where there is none, TokenizerFileError naming the file and the reason where it is
    damaged or of a kind that llmkit does not know.
    """
    path = Path(path)
    if path.is_dir():
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
        found = [path / name for name in names if (path / name).exists()]
        if not found:
            raise FileNotFoundError(f"{path}: no tokenizer here; looked for {', '.join(names)}")
        path = found[0]
    readers = {".model": read_sentencepiece, ".txt": _read_vocab_txt}
    read = readers.get(path.suffix, _read_vocab_and_merges if path.name == "vocab.json" else read_tokenizer_json)
    try:
        return read(path)
    except TokenizerFileError:
        raise
    except KeyError as error:
        raise TokenizerFileError(f"{path}: the entry {error} is missing") from None
    except UnicodeDecodeError as error:
        raise TokenizerFileError(f"{path}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise TokenizerFileError(f"{path}: no valid JSON (line {error.lineno}): {error.msg}; is it cut off?") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise TokenizerFileError(f"{path}: {error}") from None


def read_sentencepiece(path: str | os.PathLike) -> SentencePiece:
    """Read a tokenizer.model; gives a SentencePieceBPE or a Unigram, whichever the file holds."""
    model = protobuf.read_model(path)
    added = _added_tokens(Path(path))
    behind = sorted(added.keys() - set(model.pieces), key=added.get)
    if [added[name] for name in behind] != [*range(len(model.pieces), len(model.pieces) + len(behind))]:
        raise TokenizerFileError(f"{path} has {len(model.pieces)} pieces, which added_tokens.json does not continue")
    for name in added.keys() & set(model.pieces):
        if model.pieces.index(name) != added[name]:
            raise TokenizerFileError(f"{path}: {name!r} has another id there than {added[name]} in added_tokens.json")
    model.pieces += behind
    model.scores += [0.0] * len(behind)
    model.types += [protobuf.CONTROL] * len(behind)
    try:
        return (SentencePieceBPE if model.algorithm == protobuf.BPE else Unigram)(model)
    except ValueError as error:
        raise TokenizerFileError(f"{path}: {error}") from None


def _added_tokens(path: Path) -> dict[str, int]:
    """added_tokens.json beside the file: name -> id."""
    added = path.with_name("added_tokens.json")
    if not added.exists():
        return {}
    try:
        tokens = json.loads(added.read_text(encoding="utf-8"), object_pairs_hook=unique(added))
        if tokens != {}:
            check_ids(tokens, added)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerFileError(f"{added}: no JSON in UTF-8: {error}") from None
    return tokens


def _read_vocab_txt(path: Path) -> WordPiece:
    lines = path.read_text(encoding="utf-8").split("\n")
    pieces = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    no_duplicates(pieces, path)
    tokenizer, added = WordPiece(pieces, _is_lower_cased(path)), _added_tokens(path)
    return WordPiece(pieces, tokenizer.lower, tokenizer.special_tokens | added) if added else tokenizer


def _is_lower_cased(path: Path) -> bool:
    """BERT's tokenizer_config.json says so; without it, uncased is the common case."""
    config = path.with_name("tokenizer_config.json")
    return bool(json.loads(config.read_text(encoding="utf-8")).get("do_lower_case", True)) if config.exists() else True


def _read_vocab_and_merges(path: Path) -> ByteLevelBPE:
    merges_path = path.with_name("merges.txt")
    if not merges_path.exists():
        raise TokenizerFileError(f"{path}: merges.txt must stand beside it")
    lines = merges_path.read_text(encoding="utf-8").split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    vocab = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique(path))
    return byte_level_from(vocab, merges, _added_tokens(path), GPT2_PATTERN, path)
