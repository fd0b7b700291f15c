"""WordPiece: equal to the tokenizers library with BERT's vocabulary."""

import pytest
import tokenizers as hf
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
