"""SentencePiece BPE and Unigram: equal to sentencepiece with real models and with models that it trains here."""

import io
import itertools
import json
import math
import random

import pytest
from tokenizer_files import mistral, strings

from llmkit.data import toyland
from llmkit.tokenizers import SentencePieceBPE, Unigram, load_tokenizer, read_sentencepiece
from llmkit.tokenizers.normalize import mark_spaces, nmt_nfkc
from llmkit.tokenizers.sentencepiece import byte_pieces, training_words, words_of
from llmkit.tokenizers.unigram import em_step, expected_counts, prune, seed_pieces, train_unigram, viterbi

sentencepiece = pytest.importorskip("sentencepiece")


def trained_by_sentencepiece(folder, kind: str, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(toyland.stories(800, seed=2)), model_writer=model, vocab_size=1000,
        model_type=kind, minloglevel=2, **options,
    )  # fmt: skip
    path = folder / f"{kind}.model"
    path.write_bytes(model.getvalue())
    return load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))


def assert_same(ours, theirs, texts) -> None:
    """The same ids for every text and the same text for those ids.

    One difference is let pass, a few times in ten thousand strings: two cuts of exactly the same score. sentencepiece
    adds a whole text up in 32 bits, we a word, so rounding may prefer the other cut.
    """
    different = [s for s in texts if ours.encode(s) != theirs.encode(s)]
    ties = [s for s in different if isinstance(ours, Unigram) and is_tie(ours, ours.encode(s), theirs.encode(s))]
    assert len(ties) <= len(texts) / 1000
    different = [s for s in different if s not in ties]
    assert not different, [(s, ours.tokens(s), theirs.encode(s, out_type=str)) for s in different[:3]]
    different = [s for s in texts if ours.decode(ours.encode(s)) != theirs.decode(theirs.encode(s))]
    assert not different, [(s, ours.decode(ours.encode(s))) for s in different[:3]]


def is_tie(model, one: list[int], other: list[int]) -> bool:
    scores = [math.fsum(model.model.scores[i] for i in ids) for ids in (one, other)]
    return len(one) == len(other) and sorted(one) == sorted(other) and math.isclose(*scores, rel_tol=1e-12)


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"])
def test_mistral_equals_sentencepiece(name):
    path = mistral(name)
    ours, theirs = read_sentencepiece(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert type(ours) is SentencePieceBPE and ours.vocab_size in (32000, 32768)
    assert_same(ours, theirs, strings())


def test_mistral_equals_the_tokenizers_library():
    ours = read_sentencepiece(mistral())
    fast = ours.fast()
    tried = [s for s in strings() if " " * 100 not in s]  # see SentencePieceBPE.to_json
    assert len(tried) >= len(strings()) - 1
    different = [s for s in tried if ours.encode(s) != fast.encode(s, add_special_tokens=False).ids]
    assert not different, different[:3]


def test_every_string_comes_back_with_byte_fallback():
    """▁ itself is the one character that SentencePiece cannot keep: it is how a space is written."""
    ours = read_sentencepiece(mistral())
    assert all(ours.decode(ours.encode(s)) == s.replace("▁", " ") for s in strings())
    trained = SentencePieceBPE.train(toyland.stories(100), 600)
    assert all(trained.decode(trained.encode(s)) == s.replace("▁", " ") for s in strings())


def test_unigram_equals_sentencepiece(tmp_path):
    """With its character map (nmt_nfkc): what is replaced, squeezed, unknown is the same on every string."""
    ours, theirs = trained_by_sentencepiece(tmp_path, "unigram")
    assert type(ours) is Unigram and len(ours.model.charsmap) > 100_000
    assert_same(ours, theirs, [*strings(), *toyland.stories(200, seed=5)])
    fast = ours.fast()
    assert all(ours.encode(s) == fast.encode(s, add_special_tokens=False).ids for s in strings())


def test_unigram_with_byte_fallback_equals_sentencepiece(tmp_path):
    ours, theirs = trained_by_sentencepiece(tmp_path, "unigram", byte_fallback=True, normalization_rule_name="identity")
    assert_same(ours, theirs, strings())
    with pytest.raises(ValueError, match="typed '<0x0A>'"):
        ours.fast()


def test_bpe_equals_sentencepiece(tmp_path):
    ours, theirs = trained_by_sentencepiece(tmp_path, "bpe", user_defined_symbols=["<sep>", "cat"])
    assert_same(ours, theirs, [*strings(), "a<sep>b", "the cat concatenates <sep> <sep>"])


@pytest.mark.parametrize("family", [SentencePieceBPE, Unigram])
def test_our_models_are_read_by_sentencepiece_and_tokenizers(family, tmp_path):
    trained = family.train(toyland.stories(150), 700)
    assert trained.vocab_size == 700
    trained.save_model(tmp_path / "tokenizer.model")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert_same(trained, theirs, strings()[:3000] + toyland.stories(20, seed=4))
    assert_same(load_tokenizer(tmp_path), theirs, strings()[:1000])
    (tmp_path / "tokenizer.model").unlink()
    trained.save(tmp_path)
    again, fast = load_tokenizer(tmp_path), trained.fast()
    for text in strings()[:3000]:
        assert trained.encode(text) == again.encode(text) == fast.encode(text, add_special_tokens=False).ids


def test_decoding_any_ids_equals_sentencepiece(tmp_path):
    """What a language model emits need not be what encode makes: bytes that are no UTF-8, spaces in odd places."""
    rng = random.Random(3)
    mistral_path = str(mistral())
    pairs = [
        (read_sentencepiece(mistral_path), sentencepiece.SentencePieceProcessor(model_file=mistral_path)),
        trained_by_sentencepiece(tmp_path, "unigram"),
        trained_by_sentencepiece(tmp_path, "unigram", byte_fallback=True),
    ]
    for ours, theirs in pairs:
        special = set(ours.special_tokens.values())
        for _ in range(1500):
            ceiling = rng.choice([ours.vocab_size, min(ours.vocab_size, 300)])
            ids = [i for i in (rng.randrange(ceiling) for _ in range(rng.randrange(1, 9))) if i not in special]
            assert ours.decode(ids) == theirs.decode(ids), ids


def test_ties_are_broken_as_in_sentencepiece(tmp_path):
    ours, theirs = trained_by_sentencepiece(tmp_path, "unigram")
    rng = random.Random(4)
    alphabets = ["-+*/=", "ab", "aA1", " .", "()[]", "0123456789"]
    texts = ["".join(rng.choice(rng.choice(alphabets)) for _ in range(rng.randrange(1, 25))) for _ in range(2000)]
    assert_same(ours, theirs, [c * n for c in "abcdest .-*=1" for n in range(1, 40)] + texts)


def test_case_folding_maps(tmp_path):
    ours, theirs = trained_by_sentencepiece(tmp_path, "unigram", normalization_rule_name="nmt_nfkc_cf")
    assert ours.normalize("Hello") == "▁hello"
    assert_same(ours, theirs, strings()[:4000])


def test_control_pieces_only_when_asked():
    ours = read_sentencepiece(mistral())
    assert 2 not in ours.encode("the end</s>") and ours.encode("the end</s>", special="all")[-1] == 2
    assert 2 not in ours.fast().encode("the end</s>").ids
    assert ours.encode("<0x0A>") != ours.encode("\n"), "the name of a byte piece is not the byte"


# --- the algorithms, against enumeration ---


def all_cuts(text: str):
    for cut in itertools.product([False, True], repeat=max(len(text) - 1, 0)):
        ends = [i + 1 for i, here in enumerate(cut) if here] + [len(text)]
        yield [text[i:j] for i, j in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("seed", range(20))
def test_viterbi_and_expected_counts_agree_with_enumeration(seed):
    rng = random.Random(seed)
    text = "".join(rng.choice("ab") for _ in range(7))
    pieces = {text[i:j] for i in range(7) for j in range(i + 1, min(i + 4, 8)) if rng.random() < 0.7} | set("ab")
    log_probs = {piece: -rng.uniform(1, 5) for piece in pieces}
    cuts = [(c, math.fsum(log_probs[p] for p in c)) for c in all_cuts(text) if all(p in log_probs for p in c)]
    best = max(score for _, score in cuts)
    found, score = viterbi(text, log_probs)
    assert (
        "".join(found) == text and math.isclose(score, best) and math.isclose(score, sum(log_probs[p] for p in found))
    )
    total = math.fsum(math.exp(score) for _, score in cuts)
    counts, log_prob = expected_counts(text, log_probs)
    assert math.isclose(log_prob, math.log(total))
    for piece in pieces:
        expected = math.fsum(math.exp(s) / total * c.count(piece) for c, s in cuts)
        assert math.isclose(counts.get(piece, 0.0), expected, abs_tol=1e-12)


def test_viterbi_at_the_edges():
    assert viterbi("", {"a": -1.0}) == ([], 0.0)
    assert viterbi("ab", {"a": -1.0}) == ([], -math.inf)
    assert viterbi("ab", {"a": -1.0}, unk=-9.0) == (["a", "b"], -10.0)
    assert viterbi("aaa", {"a": -1.0, "aa": -2.0})[0] == ["a", "aa"], "of equal cuts the one with the longer last piece"
    assert viterbi("abc", {"abc": -1.0}, longest=2) == ([], -math.inf)


def test_long_words_do_not_underflow():
    counts, log_prob = expected_counts("a" * 400, {"a": -5.0, "aa": -30.0})
    assert math.isclose(log_prob, -2000, rel_tol=1e-9) and math.isclose(counts["a"], 400, rel_tol=1e-6)


def test_em_never_makes_the_text_less_probable():
    words = training_words(toyland.stories(60))
    log_probs, before = seed_pieces(words, 1500), -math.inf
    for _ in range(6):
        log_probs, total = em_step(words, log_probs)
        assert total >= before - 1e-6 * abs(total)
        before = total
        assert math.isclose(math.fsum(map(math.exp, log_probs.values())), 1, rel_tol=1e-9)


def test_pruning_keeps_characters_and_what_is_missed_most():
    words = {"abab": 10, "cd": 1}
    log_probs = {p: math.log(q) for p, q in {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1, "ab": 0.4, "cd": 0.2}.items()}
    kept = prune(words, log_probs, 5)
    assert set(kept) == {"a", "b", "c", "d", "ab"}
    assert set(prune(words, log_probs, 2)) == {"a", "b", "c", "d"}


def test_the_trained_objective_is_at_least_sentencepieces(tmp_path):
    """The same text and vocabulary size; log-probability of the text under each one's best cuts (nats a character)."""
    theirs, _ = trained_by_sentencepiece(
        tmp_path, "unigram", split_by_unicode_script=False, split_by_number=False, character_coverage=1.0,
        split_digits=False,
    )  # fmt: skip
    words = training_words(toyland.stories(800, seed=2))
    ours = train_unigram(words, len(theirs.scores))

    def objective(log_probs):
        return sum(n * viterbi(word, log_probs, unk=-30.0)[1] for word, n in words.items())

    print(f"log-probability: ours {objective(ours):.0f}, sentencepiece {objective(theirs.scores):.0f}")
    assert len(ours) == len(theirs.scores)
    assert objective(ours) >= 1.01 * objective(theirs.scores), "(both are negative) more than 1% worse"


def test_normalisation():
    assert nmt_nfkc("ﬁ①\u200bＡ\x07") == "fi1 A"
    assert mark_spaces(" a  b ") == "▁a▁b" and mark_spaces("a  b", squeeze=False) == "▁a▁▁b"
    assert mark_spaces("") == mark_spaces("   ") == "" and mark_spaces("a", add_prefix=False) == "a"
    assert words_of("▁a▁▁b") == ["▁a", "▁▁b"] and words_of("") == []
    assert byte_pieces("é") == ["<0xC3>", "<0xA9>"]


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="at least 299"):
        SentencePieceBPE.train("abc", 100)
    with pytest.raises(ValueError, match="different characters"):
        train_unigram({"abcdef": 1}, 3)
    with pytest.raises(ValueError, match="repeated substrings"):
        train_unigram({"ab": 1}, 50)


def test_a_piece_too_rare_for_a_float_stays():
    """Its expected count is above 0 and divided by the total becomes 0: log of 0 stopped the training."""
    log_probs = {"a": -370.0, "b": -370.0, "ab": 0.0, "c": 0.0}
    new, _ = em_step({"ab": 1, "c": 10_000}, log_probs)
    assert set(new) == set(log_probs) and all(math.isfinite(value) for value in new.values())


@pytest.mark.parametrize("kind", [SentencePieceBPE, Unigram])
def test_tokens_added_behind_the_vocabulary(kind, tmp_path):
    """As fine-tunes of LLaMA 2 add ChatML's."""
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    plain = kind.train(toyland.stories(100), 400)
    plain.save(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    theirs.save(str(path))
    ours, text = load_tokenizer(path), "<|im_start|>the cat<|im_end|>"
    assert ours.vocab_size == theirs.get_vocab_size() == plain.vocab_size + 2
    ids = ours.encode(text, "all")
    assert ids[0] == plain.vocab_size == theirs.token_to_id("<|im_start|>") and ids[-1] == plain.vocab_size + 1
    assert ids[1:-1] == plain.encode("the cat") and ours.encode("the cat<") == plain.encode("the cat<")
    assert ours.decode(ids) == "<|im_start|>the cat<|im_end|>"
    ours.save(path)
    assert load_tokenizer(path).special_tokens == ours.special_tokens
    assert tokenizers.Tokenizer.from_file(str(path)).token_to_id("<|im_end|>") == ids[-1]
    data = json.loads(path.read_text())
    data["model"]["vocab"] = plain.to_json()["model"]["vocab"]
    data["added_tokens"][-1]["id"] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="must have the ids from 400 on"):
        load_tokenizer(path)


def test_added_tokens_beside_the_model(tmp_path):
    plain = SentencePieceBPE.train(toyland.stories(100), 400)
    plain.save_model(tmp_path / "tokenizer.model")
    beside = tmp_path / "added_tokens.json"
    beside.write_text('{"<|im_end|>": 401, "<|im_start|>": 400, "</s>": 2}')
    ours = load_tokenizer(tmp_path)
    assert ours.special_tokens == {"<s>": 1, "</s>": 2, "<|im_start|>": 400, "<|im_end|>": 401}
    assert ours.encode("the cat<|im_end|>", "all") == [*plain.encode("the cat"), 401]
    beside.write_text("{}")
    assert load_tokenizer(tmp_path).vocab_size == 400
    beside.write_text('{"</s>": 7}')
    with pytest.raises(ValueError, match="'</s>' has another id there than 7"):
        load_tokenizer(tmp_path)
    beside.write_text('{"<|im_end|>": 402}')
    with pytest.raises(ValueError, match="400 pieces, which added_tokens.json does not continue"):
        load_tokenizer(tmp_path)
    beside.write_text('{"<|im_end|>": "x"}')
    with pytest.raises(ValueError, match=r"added_tokens\.json: the id of"):
        load_tokenizer(tmp_path)


def test_a_file_that_does_not_name_its_unknown_piece(tmp_path):
    """transformers 5 writes LLaMA's so."""
    plain = SentencePieceBPE.train(toyland.stories(100), 400)
    data = plain.to_json()
    data["model"]["unk_token"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert load_tokenizer(tmp_path).unk_id == plain.unk_id == 0
