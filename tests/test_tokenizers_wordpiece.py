"""WordPiece: equal to the tokenizers library with BERT's vocabulary."""

from collections import Counter
from itertools import pairwise

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_files import bert, strings

from llmkit.data import toyland
from llmkit.tokenizers import WordPiece, load_tokenizer
from llmkit.tokenizers.wordpiece import basic_tokenize, train_wordpiece, wordpiece_split


def differs_from_the_library() -> set[str]:
    """Characters that Unicode gave another category after the library's tables (Unicode 8) were made."""
    normalizer = hf.normalizers.BertNormalizer(True, True, True, True)
    pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    found = set()
    for char in {c for s in strings() for c in s}:
        text = f"a{char}a"  # between letters, so that it shows whether the character cuts
        theirs = [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
        found |= {char} if theirs != basic_tokenize(text) else set()
    return found


def test_bert_equals_the_tokenizers_library():
    tokenizer = bert()
    fast = tokenizer.fast()
    newer = differs_from_the_library()
    assert len(newer) < 60, "a few recent combining marks, not a rule that is wrong"
    tried = [s for s in strings() if not newer & set(s)]
    assert len(tried) > 9900
    different = [s for s in tried if tokenizer.encode(s) != fast.encode(s, add_special_tokens=False).ids]
    assert not different, different[:3]
    assert tokenizer.tokens("Tokenization isn't easy.") == ["token", "##ization", "isn", "'", "t", "easy", "."]
    assert tokenizer.decode(tokenizer.encode("Playing chess")) == "playing chess"


def test_user_text_never_becomes_a_control_token():
    tokenizer = bert()
    ids = tokenizer.encode("[CLS] hi [MASK]")
    assert not {tokenizer.special_tokens[n] for n in ("[CLS]", "[SEP]", "[MASK]")} & set(ids)
    assert tokenizer.encode("[CLS] hi", special="all")[0] == tokenizer.special_tokens["[CLS]"]
    assert tokenizer.fast().encode("[CLS] hi [MASK]", add_special_tokens=False).ids == ids


def test_longest_piece_first():
    vocab = {"un", "##aff", "##able", "##a", "##f", "u"}
    assert wordpiece_split("unaffable", vocab) == ["un", "##aff", "##able"]
    assert wordpiece_split("unx", vocab) == ["[UNK]"], "one place without a piece makes the whole word unknown"
    assert wordpiece_split("", vocab) == []
    assert wordpiece_split("u" * 101, {"u", "##u"}) == ["[UNK]"]
    assert wordpiece_split("u" * 100, {"u", "##u"}) == ["u"] + ["##u"] * 99


def test_training_merges_what_goes_together():
    # "q" is always followed by "u"; "e" is frequent beside everything, so "he" scores low although it is common.
    words = {"quit": 5, "quiz": 5, "the": 20, "he": 20, "be": 20, "we": 20, "me": 20}
    pieces = train_wordpiece(words, 16)
    characters = sorted({c if i == 0 else "##" + c for w in words for i, c in enumerate(w)})
    assert pieces[: len(characters)] == characters
    assert "##iz" in pieces[len(characters) :] or "##it" in pieces[len(characters) :]
    assert "he" not in pieces


def by_definition(words: dict[str, int], n_pieces: int) -> list[str]:
    """WordPiece training written from its definition: all counts anew before each merge."""
    split = {word: [c if i == 0 else "##" + c for i, c in enumerate(word)] for word in words}
    pieces = sorted({p for parts in split.values() for p in parts})
    while len(pieces) < n_pieces:
        single = Counter(p for word, parts in split.items() for p in parts for _ in range(words[word]))
        pairs = Counter(q for word, parts in split.items() for q in pairwise(parts) for _ in range(words[word]))
        if not pairs:
            break
        scores = {q: n / (single[q[0]] * single[q[1]]) for q, n in pairs.items()}
        left, right = min(scores, key=lambda q: (-scores[q], q))
        new = left + right.removeprefix("##")
        pieces += [new] if new not in pieces else []
        for word, parts in split.items():
            joined = "\0".join(parts) + "\0"
            while f"\0{left}\0{right}\0" in "\0" + joined:
                joined = ("\0" + joined).replace(f"\0{left}\0{right}\0", f"\0{new}\0", 1)[1:]
            split[word] = joined.split("\0")[:-1]
    return pieces[:n_pieces]


@given(st.dictionaries(st.text("abc", min_size=1, max_size=6), st.integers(1, 9), min_size=1, max_size=8))
def test_training_does_what_its_definition_says(words):
    assert train_wordpiece(words, 25) == by_definition(words, 25)


def test_case_is_kept_where_the_config_says_so(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\nThe\nthe\n", encoding="utf-8")
    assert load_tokenizer(tmp_path).encode("The the") == [2, 2]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert load_tokenizer(tmp_path).encode("The the") == [1, 2]
    load_tokenizer(tmp_path).save(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    assert load_tokenizer(tmp_path).encode("The the") == [1, 2]


def test_a_trained_vocabulary_round_trips(tmp_path):
    stories = toyland.stories(40)
    tokenizer = WordPiece.train(stories, 300)
    assert tokenizer.vocab_size == 300 and list(tokenizer.special_tokens.values()) == [0, 1, 2, 3, 4]
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.to_json() == tokenizer.to_json()
    for text in stories:
        ids = tokenizer.encode(text)
        assert ids == again.encode(text) == tokenizer.fast().encode(text, add_special_tokens=False).ids
        assert tokenizer.special_tokens["[UNK]"] not in ids
    cased = WordPiece.train(stories, 300, lower=False)
    assert "T" in cased.vocab and "T" not in tokenizer.vocab


def test_what_cannot_be_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="no \\[UNK\\]"):
        WordPiece(["a"])
    with pytest.raises(ValueError, match="two ids"):
        WordPiece(["[UNK]", "a", "a"])
    with pytest.raises(ValueError, match="more than 5"):
        WordPiece.train("a", 5)


def test_added_tokens_beside_the_vocabulary(tmp_path):
    plain = WordPiece.train("the cat sat on the mat", 30)
    (tmp_path / "vocab.txt").write_text("\n".join(plain.pieces), encoding="utf-8")
    n = plain.vocab_size
    (tmp_path / "added_tokens.json").write_text(f'{{"[E2]": {n + 1}, "[E1]": {n}}}', encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert ours.encode("[E1] the [E2]", "all") == [n, *plain.encode("the"), n + 1]
    assert ours.encode("[E1]") == plain.encode("[E1]"), "typed, it is text"
    ours.save(tmp_path)
    library = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [library.token_to_id(name) for name in ("[E1]", "[E2]")] == [n, n + 1]
    assert load_tokenizer(tmp_path).special_tokens == ours.special_tokens
