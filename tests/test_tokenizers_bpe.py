"""Byte-level BPE: equal to tiktoken and tokenizers on real vocabularies, in training and in every round trip."""

import random
import re
import time

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_files import gpt2, ranks, shakespeare, strings, write_json

from llmkit.data import toyland
from llmkit.tokenizers import CL100K_PATTERN, GPT2_PATTERN, ByteLevelBPE, load_tokenizer
from llmkit.tokenizers.base import split_special
from llmkit.tokenizers.bpe import (
    bpe_encode,
    bpe_encode_long,
    bytes_to_unicode,
    count_pairs,
    count_words,
    merge,
    train_bpe,
    train_bpe_simple,
)


@pytest.fixture(scope="module")
def of_gpt2(tmp_path_factory):
    return gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def small():
    return ByteLevelBPE.train("\n".join(toyland.stories(300)), 600, special_tokens=["<|endoftext|>"])


def test_gpt2_equals_tiktoken(of_gpt2):
    tiktoken = pytest.importorskip("tiktoken")
    theirs = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks(of_gpt2), special_tokens=of_gpt2.special_tokens
    )
    assert of_gpt2.vocab_size == 50257 and of_gpt2.special_tokens == {"<|endoftext|>": 50256}
    assert of_gpt2.encode("Hello, world!") == [15496, 11, 995, 0]
    different = [s for s in strings() if of_gpt2.encode(s) != theirs.encode_ordinary(s)]
    assert not different, different[:3]
    text = "a<|endoftext|>b"
    assert of_gpt2.encode(text, special="all") == theirs.encode(text, allowed_special="all")
    assert of_gpt2.encode(shakespeare()[:200_000]) == theirs.encode_ordinary(shakespeare()[:200_000])


def test_gpt2_equals_the_tokenizers_library(of_gpt2):
    fast = of_gpt2.fast()
    different = [s for s in strings() if of_gpt2.encode(s) != fast.encode(s).ids]
    assert not different, different[:3]


def test_cl100k_pattern_equals_tiktoken(small):
    tiktoken = pytest.importorskip("tiktoken")
    ours = ByteLevelBPE(small.bytes_of, small.merges, CL100K_PATTERN)
    theirs = tiktoken.Encoding("c", pat_str=CL100K_PATTERN, mergeable_ranks=ranks(ours), special_tokens={})
    different = [s for s in strings() if ours.encode(s) != theirs.encode_ordinary(s)]
    assert not different, different[:3]


def test_cl100k_on_digits_and_line_ends_equals_both_libraries():
    """With merges inside numbers and punctuation, so that every part of the pattern shows in the ids."""
    tiktoken = pytest.importorskip("tiktoken")
    numbers = " ".join(str(n * n) for n in range(3000)) + "!!\n\n??\n;\n" * 50
    ours = ByteLevelBPE.train(numbers, 700, CL100K_PATTERN)
    assert ours.tokens("1234567") == ["123", "456", "7"]
    theirs = tiktoken.Encoding("c", pat_str=CL100K_PATTERN, mergeable_ranks=ranks(ours), special_tokens={})
    fast, rng = ours.fast(), random.Random(5)
    texts = ["".join(rng.choice("0123456789 !?;\n") for _ in range(rng.randrange(1, 25))) for _ in range(4000)]
    for text in texts + strings():
        assert ours.encode(text) == theirs.encode_ordinary(text) == fast.encode(text).ids, text


def test_long_words_take_no_longer_than_they_should(of_gpt2):
    """The readable bpe_encode would take seconds for this one; the heap gives the same ids."""
    word = "".join(random.Random(1).choice("abcdefghij") for _ in range(20_000))
    began = time.perf_counter()
    ids = of_gpt2.encode(word)
    assert time.perf_counter() - began < 2 and of_gpt2.decode(ids) == word
    for length in (1, 2, 13, 40, 300):
        part = [of_gpt2._byte_ids[b] for b in word[:length].encode()]
        assert bpe_encode(part, of_gpt2._merges_by_id) == bpe_encode_long(part, of_gpt2._merges_by_id)
    assert bpe_encode_long([], {}) == []


@given(st.lists(st.integers(0, 2), max_size=14), st.permutations([(a, b) for a in range(3) for b in range(3)]))
def test_both_ways_of_encoding_agree(ids, pairs):
    merges = {pair: 3 + i for i, pair in enumerate(pairs)} | {(3, 4): 12, (4, 4): 13, (12, 0): 14}
    assert bpe_encode(ids, merges) == bpe_encode_long(ids, merges)


def test_tensors_can_be_decoded(small):
    import torch

    ids = small.encode("Once<|endoftext|>", special="all")
    assert small.decode(torch.tensor(ids)) == small.decode(ids) == "Once<|endoftext|>"
    assert small.encode("Once<|endoftext|>", special="<|endoftext|>") == ids
    assert small.decode([small.ids[b"\xc3"]]) == "\ufffd", "half a character"


def test_digits_one_by_one_equal_the_library(small, tmp_path):
    """SmolLM2's pre-tokenizer: Digits, then GPT-2's pattern between them."""
    data = small.to_json()
    digits = {"type": "Digits", "individual_digits": True}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, data["pre_tokenizer"]]}
    data["added_tokens"] = []
    path = write_json(tmp_path / "tokenizer.json", data)
    ours, library = load_tokenizer(path), hf.Tokenizer.from_file(str(path))
    rng = random.Random(6)
    texts = ["".join(rng.choice("ab  12.\n") for _ in range(rng.randrange(1, 20))) for _ in range(4000)]
    for text in texts + strings()[:4000]:
        if "<|endoftext|>" not in text:
            assert ours.encode(text) == library.encode(text).ids, text


def test_every_string_comes_back(of_gpt2, small):
    for tokenizer in (of_gpt2, small):
        assert all(tokenizer.decode(tokenizer.encode(s)) == s for s in strings())


@given(st.text())
def test_any_text_comes_back(text):
    tokenizer = ByteLevelBPE.train("the cat sat on the mat", 270)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, CL100K_PATTERN], ids=["gpt2", "cl100k"])
def test_training_learns_what_the_library_learns(pattern):
    text = "\n".join(toyland.stories(400, seed=3))
    ours = ByteLevelBPE.train(text, 1500, pattern).to_json()["model"]
    library = hf.Tokenizer(hf.models.BPE())
    split = hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated")
    byte_level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = hf.pre_tokenizers.Sequence([split, byte_level])
    trainer = hf.trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator([text], trainer)
    assert ours["vocab"] == library.get_vocab()


def test_the_readable_and_the_fast_training_agree():
    words = {tuple(w.encode()): n for w, n in count_words("\n".join(toyland.stories(60))).items()}
    assert train_bpe(words, 256, 300) == train_bpe_simple(words, 256, 300)


@given(st.dictionaries(st.lists(st.integers(0, 2), max_size=8).map(tuple), st.integers(1, 5), max_size=6))
def test_they_agree_on_ties_and_overlaps(words):
    assert train_bpe(words, 3, 12) == train_bpe_simple(words, 3, 12)


def test_the_order_of_learning_decides():
    assert bpe_encode([1, 2, 3], {(2, 3): 10, (1, 2): 11}) == [1, 10]
    assert bpe_encode([1, 1, 1, 1], {(1, 1): 5, (5, 5): 6}) == [6]
    assert bpe_encode([], {}) == [] and bpe_encode([7], {(7, 7): 8}) == [7]
    assert merge([1, 1, 1], (1, 1), 2) == [2, 1]
    assert count_pairs({(1, 1, 1): 2}) == {(1, 1): 4}


def test_ids_that_do_not_grow_with_the_merges(small):
    """A vocabulary may give any ids; what counts is the order of the merges."""
    pieces = small.bytes_of[::-1]
    shuffled = ByteLevelBPE(pieces, small.merges)
    for text in [*toyland.stories(5, seed=9), *strings()[:500]]:
        assert shuffled.decode_bytes(shuffled.encode(text)) == text.encode()
        expected = [small.bytes_of[i] for i in small.encode(text)]
        assert [shuffled.bytes_of[i] for i in shuffled.encode(text)] == expected


def test_the_table_of_bytes():
    table = bytes_to_unicode()
    assert table[ord("!")] == "!" and table[ord("\n")] == "Ċ" and table[0] == "Ā" and table[255] == "ÿ"
    assert len(set(table.values())) == 256 and all(c.isprintable() and c != " " for c in table.values())
    assert set(table.values()) == set(hf.pre_tokenizers.ByteLevel.alphabet())


def test_user_text_never_becomes_a_control_token(small):
    text = "Once<|endoftext|>upon"
    end = small.special_tokens["<|endoftext|>"]
    assert end not in small.encode(text) and end not in small.fast().encode(text).ids
    assert small.encode(text, special=["<|endoftext|>"]).count(end) == 1
    assert small.decode(small.encode(text)) == small.decode(small.encode(text, special="all")) == text
    assert small.decode(small.encode(text, special="all"), skip_special=True) == "Onceupon"
    with pytest.raises(ValueError, match="'<|other|>' is no special token here"):
        small.encode(text, special=["<|other|>"])


def test_splitting_at_special_tokens():
    assert split_special("a<s><s>b", ["<s>"]) == ["a", "<s>", "<s>", "b"]
    assert split_special("<|a|>x<|a|>y", ["<|a|>", "<|a|>x"]) == ["<|a|>x", "<|a|>", "y"]
    assert split_special("", ["<s>"]) == split_special("", []) == []
    assert split_special("a.c", ["a?c", "."]) == ["a", ".", "c"], "names are no patterns"


def test_saving_and_loading(small, tmp_path):
    small.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.to_json() == small.to_json()
    library = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in strings()[:2000]:
        assert again.encode(text) == small.encode(text)
        if "<|endoftext|>" not in text:  # the library always reads that as the control token
            assert library.encode(text).ids == small.encode(text)
            assert library.decode(small.encode(text)) == text
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ByteLevelBPE.train("x", 255), "at least 256"),
        (lambda: ByteLevelBPE([b"a"], []), "lacks the byte 0x09"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)] + [b"a"], []), "same piece under two ids"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [(b"a", b"b")]), r"merge 0 \(b'a', b'b'\) needs b'ab'"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], special_tokens={"": 300}), "needs a name"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], special_tokens={"<a>": 97}), "ordinary piece 'a'"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], special_tokens={"<a>": -1}), "the id -1"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], special_tokens={"a": 256}), "the id 97"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], special_tokens={"<a>": 10**12}), "from 0 up"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], r"\w+"), "or text is lost"),
        (lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], r"(\w+)|[\s\S]"), "no groups"),
        (
            lambda: ByteLevelBPE([bytes([b]) for b in range(256)], [], special_tokens={"a": 300, "b": 300}),
            "has the id 300",
        ),
    ],
)
def test_what_cannot_be_a_tokenizer_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_cannot_be_encoded_or_decoded_is_refused(small):
    with pytest.raises(ValueError, match=re.escape(r"'\ud800' at position 3 is half of a surrogate pair")):
        small.encode("abc\ud800")
    with pytest.raises(TypeError, match="encodes str, not bytes"):
        small.encode(b"abc")
    with pytest.raises(ValueError, match="no token has the id 600; ids go from 0 to 599"):
        small.decode([600])
    with pytest.raises(ValueError, match="no token has the id -1"):
        small.decode([-1])
    assert small.decode([]) == "" and small.encode("") == []


def test_a_byte_that_the_vocabulary_lacks_is_refused_not_dropped():
    """SmolLM2's vocabulary has no piece for 21 bytes; the tokenizers library leaves such characters out unsaid."""
    pieces = [bytes([b]) for b in range(256) if b not in (0x04, 0xF1)] + [b"ab"]
    tokenizer = ByteLevelBPE(pieces, [(b"a", b"b")])
    assert tokenizer.decode(tokenizer.encode("abc é 猫\n")) == "abc é 猫\n"
    for text in ("a\x04b", "\U00050000"):
        with pytest.raises(ValueError, match="has no piece for the byte 0x(04|f1)"):
            tokenizer.encode(text)
    out_of_order = ByteLevelBPE([*pieces, b"cd"], [(b"c", b"d"), (b"a", b"b")])
    assert out_of_order.decode(out_of_order.encode("abcd é")) == "abcd é"
    with pytest.raises(ValueError, match="has no piece for the byte 0x04"):
        out_of_order.encode("\x04")


@pytest.mark.parametrize("places", [(0, 1, 2), (300, 700, 701), (701, 700, 300)])
def test_the_library_has_the_same_ids_for_special_tokens(places, small, tmp_path):
    """Wherever they stand: in front (RoBERTa, SmolLM2), behind, between."""
    ordinary = [piece for i, piece in enumerate(small.bytes_of) if i in small.ids.values()]
    special = dict(zip(["<s>", "<|im_end|>", "<pad>"], places, strict=True))
    pieces = []
    for piece in ordinary:
        while len(pieces) in places:
            pieces.append(None)
        pieces.append(piece)
    ours = ByteLevelBPE(pieces, small.merges, special_tokens=special)
    ours.save(tmp_path)
    text = "<s>the cat<|im_end|><pad>"
    for theirs in (ours.fast(), hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))):
        assert {name: theirs.token_to_id(name) for name in special} == special
        assert theirs.get_vocab_size() == len(ordinary) + 3
        theirs.encode_special_tokens = False
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ids == ours.encode(text, "all") and theirs.decode(ids, skip_special_tokens=False) == text
    again = load_tokenizer(tmp_path)
    assert (again.pieces, again.special_tokens) == (ours.pieces, special)


def test_added_tokens_beside_the_vocabulary(small, tmp_path):
    model = small.to_json()["model"]
    write_json(tmp_path / "vocab.json", {t: i for t, i in model["vocab"].items() if t != "<|endoftext|>"})
    (tmp_path / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])), encoding="utf-8")
    write_json(tmp_path / "added_tokens.json", small.special_tokens | {"[turn]": 900})
    assert load_tokenizer(tmp_path).special_tokens == small.special_tokens | {"[turn]": 900}
