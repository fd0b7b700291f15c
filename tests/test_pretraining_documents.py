"""Cleaning, duplicates, contamination, streaming, and `python -m llmkit.data`, which puts them together."""

import json
import os
import random
import string
import subprocess
import sys
import unicodedata
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data.__main__ import is_validation, main
from llmkit.data.cleaning import clean, problems, repeated_grams_share, top_gram_share
from llmkit.data.decontamination import gram_words, overlap
from llmkit.data.dedup import (
    candidate_pairs,
    candidate_probability,
    deduplicate,
    estimated_jaccard,
    exact_duplicates,
    jaccard,
    minhash,
    near_duplicates,
    shingles,
)
from llmkit.data.hashing import derive, hash64, mix, streams
from llmkit.data.shards import TokenShards
from llmkit.data.text import hub_stream
from llmkit.data.toyland import stories
from llmkit.tokenizers import ByteLevelBPE, load_tokenizer

# --- hashes ---


def test_splitmix64():
    """The first numbers of Vigna's splitmix64.c from state 1234567, and from 0."""
    assert streams(1234567, 3).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [f"{i:016x}" for i in streams(0, 3).tolist()] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]
    assert np.array_equal(streams(5, 10)[4:], streams(5, 6, start=4))
    assert len(set(mix(np.arange(10_000, dtype=np.uint64)).tolist())) == 10_000
    assert len({derive(a, b) for a in range(30) for b in range(30)}) == 900


def test_hashes_are_the_same_in_every_process():
    code = "from llmkit.data.dedup import *; print(minhash(['x', 'y'], 2).tolist(), hash64('x'))"
    out = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in "12"
    }
    assert out == {f"{minhash(['y', 'x'], 2).tolist()} {hash64('x')}\n"}


# --- cleaning ---


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\nb\nc\nd\ne\nf\ng\nh"),
        ("Cafe\u0301 A\u030a", "Café Å"),
        ("a\x00b\x1bc\x7fd\u200be\ufefff\xadg", "abcdefg"),
        ("tab\there", "tab\there"),
        ("a\n\nb\n\n\nc\n \n\t\n\nd", "a\n\nb\n\nc\n\nd"),
        ("ﬁne ½ ①", "ﬁne ½ ①"),  # NFC, not NFKC: nothing becomes another character
        ("a  \nb\t\u00a0\nc\u3000", "a\nb\nc"),
        ("\n \n  def f():\n    pass\n\n\n\n\nf()\n\n", "  def f():\n    pass\n\nf()"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),
        ("e\u200b\u0301", "é"),  # composed only after what stood between has gone
        ("x\ud800y", "x\ufffdy"),
        (" \n\t", ""),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("a \n\r\t\x00\x0b\x85\u2028\u200b\u0301e\u00e9\ud800\ufeff\u3000") | st.characters()))
def test_cleaning_twice_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once and unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")
    assert "\n\n\n" not in once and "\r" not in once and not any(line != line.rstrip() for line in once.split("\n"))


GOOD = (
    "The owl flew to an old barn with nine lemons. Nobody knew that she could read, and she told no one of it. "
    "Later a cheerful postman came by on his red bicycle. He sold plums, carrots, bread. "
    "When evening fell, both of them shared soup near the fire, talking about ships until every star was out."
)  # 57 words


def test_a_good_document_breaks_no_rule():
    assert len(GOOD.split()) == 57 and problems(GOOD) == []


@pytest.mark.parametrize(
    "text, problem",
    [
        (" ".join(GOOD.split()[:49]), "words: 49, at least 50"),
        (GOOD + " I" * 100_000, "words: 100057, at most 100000"),
        (GOOD + " a b c d" * 30, "mean word length: 2."),
        (GOOD + " extraordinarilylongwords" * 60, "mean word length: 1"),
        (GOOD + " # # # # # # #", "hash signs a word: 0.109, at most 0.100"),
        (GOOD + " … ... … ... … ... …", "ellipses a word: 0.109, at most 0.100"),
        (GOOD + " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15", "words with a letter: 0.792, at least 0.800"),
        (
            " ".join(word for word in GOOD.split() if word.lower() not in "the to of that with".split()),
            "different stop words: 1, at least 2",
        ),
        ("\n".join("- " + line for line in GOOD.split(". ")), "lines that begin with a bullet: 1.000, at most 0.900"),
        (GOOD.replace(". ", "…\n"), "lines that end with an ellipsis: 0.800, at most 0.300"),
        (GOOD.replace(".", ";"), "sentences: 0, at least 3"),
        (GOOD + " {}", "curly brackets: 2, at most 0"),
        (GOOD + " Lorem ipsum.", "lorem ipsum: 1, at most 0"),
        (GOOD + "\nMenu.\nMenu.\nMenu.", "repeated lines: 0.500, at most 0.300"),
        ("\n".join([GOOD, GOOD]), "characters in repeated lines: 0.500, at most 0.200"),
        (GOOD + "\n\nMenu.\n\nMenu.\n\nMenu.", "repeated paragraphs: 0.500, at most 0.300"),
        ("\n\n".join([GOOD, GOOD]), "characters in repeated paragraphs: 0.500, at most 0.200"),
        (GOOD + " New York" * 10, "characters in the most frequent 2-gram: 0.2"),
        (GOOD + " New York or Rome" * 6, "characters in the most frequent 4-gram: 0.2"),
        (GOOD + " " + " ".join(GOOD.split()[:12]), "characters in repeated 5-grams: 0.162, at most 0.150"),
        (GOOD + " " + " ".join(GOOD.split()[:12]), "characters in repeated 10-grams: 0.162, at most 0.100"),
        ("", "words: 0, at least 1"),
        (" \n", "words: 0, at least 1"),
    ],
)
def test_each_rule_names_itself_and_its_number(text, problem):
    assert any(found.startswith(problem) for found in problems(text)), problems(text)


def test_shorter_documents_on_demand():
    assert problems(" ".join(GOOD.split()[:26]), min_words=26) == ["sentences: 2, at least 3"]


def test_full_stops_inside_words_end_no_sentence():
    text = GOOD.replace(".", ";") + ' It was 3.5 km. "Is it?" e.g.x said. Yes!'
    assert not any(found.startswith("sentences") for found in problems(text))
    assert any(found.startswith("sentences: 2") for found in problems(GOOD.replace(".", ";") + " 3.5 a.b c. D! e.f"))


def test_shares_of_repeated_words_by_hand():
    words = "aa b aa b aa c".split()  # 9 characters; "aa b" at 0 and 2, "b aa" at 1 and 3
    assert top_gram_share(words, 2) == pytest.approx(6 / 9)  # either covers four words
    assert repeated_grams_share(words, 2) == pytest.approx(5 / 9)  # words 2, 3 and 4
    assert top_gram_share("a b c".split(), 2) == 0 and repeated_grams_share("a b".split(), 5) == 0


# --- duplicates ---


def words_changed(text, n, rng):
    words = text.split()
    for i in rng.sample(range(len(words)), n):
        words[i] = "".join(rng.choices(string.ascii_lowercase, k=6))
    return " ".join(words)


@pytest.fixture(scope="module")
def corpus():
    """300 toyland stories, 60 of them with copies in which 1 to 25 words are changed, some copies of copies."""
    rng = random.Random(1)
    documents = stories(300, seed=9)
    for number in range(60):
        copy = words_changed(documents[number], min(rng.randrange(1, 26), len(documents[number].split()) // 2), rng)
        documents.append(copy)
        if number % 3 == 0:
            documents += [words_changed(copy, 2, rng), words_changed(copy, 1, rng)]
    documents += [documents[5], documents[5].upper(), documents[7] + "  \n"]
    rng.shuffle(documents)
    return documents


def brute_force(documents, threshold, n=5):
    sets = [shingles(text, n) for text in documents]
    cluster = list(range(len(documents)))
    for i, j in combinations(range(len(documents)), 2):
        if jaccard(sets[i], sets[j]) >= threshold and cluster[i] != cluster[j]:
            low, high = sorted([cluster[i], cluster[j]])
            cluster = [low if c == high else c for c in cluster]
    groups = {}
    for i, c in enumerate(cluster):
        groups.setdefault(c, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


@pytest.mark.parametrize("threshold, bands", [(0.5, 60), (0.6, 40), (0.8, 24)])
def test_near_duplicates_are_those_of_brute_force(corpus, threshold, bands):
    found = near_duplicates(corpus, threshold, bands=bands)
    assert found == brute_force(corpus, threshold)
    assert len(found) >= 20 and max(map(len, found)) >= 4
    assert found == sorted(found) and all(group == sorted(group) for group in found)


def test_a_pair_below_the_threshold_is_not_joined_though_its_band_agrees():
    base = [f"w{i}" for i in range(100)]
    pair = [" ".join(base), " ".join([*base[:60], *(f"x{i}" for i in range(40))])]
    similarity = jaccard(*map(shingles, pair))
    assert 0.3 < similarity < 0.5
    assert near_duplicates(pair, 0.5, n_hashes=64, bands=64) == []
    assert near_duplicates(pair, similarity, n_hashes=64, bands=64) == [[0, 1]]


def test_a_chain_is_one_cluster():
    words = [f"w{i}" for i in range(300)]
    chain = [" ".join(words[20 * i : 20 * i + 200]) for i in range(5)]  # neighbours share 180 of 220
    assert jaccard(shingles(chain[0]), shingles(chain[4])) < 0.5
    for order in ([0, 1, 2, 3, 4], [4, 0, 2, 1, 3], [2, 4, 0, 3, 1]):
        assert near_duplicates([chain[i] for i in order], 0.75) == [[0, 1, 2, 3, 4]]


def test_many_exact_copies_are_not_compared_in_pairs(monkeypatch):
    monkeypatch.setattr("llmkit.data.dedup.jaccard", lambda a, b: pytest.fail("compared"))
    assert near_duplicates(["The same text, again and again."] * 2000) == [list(range(2000))]


def test_the_estimate_is_unbiased_and_binomial():
    """Means over seeds within 4.5 standard errors of the true Jaccard; variance J (1 - J) / H within 30%."""
    for shared, own in [(10, 45), (50, 25), (90, 5)]:
        a = {f"s{i}" for i in range(shared)} | {f"a{i}" for i in range(own)}
        b = {f"s{i}" for i in range(shared)} | {f"b{i}" for i in range(own)}
        true = jaccard(a, b)
        assert true == shared / (shared + 2 * own)
        estimates = [estimated_jaccard(minhash(a, 64, seed), minhash(b, 64, seed)) for seed in range(400)]
        variance = true * (1 - true) / 64
        assert abs(np.mean(estimates) - true) < 4.5 * (variance / 400) ** 0.5
        assert 0.7 < np.var(estimates) / variance < 1.3


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_one_estimate_is_near_the_truth(a, b):
    true = jaccard(a, b)
    signatures = [minhash(map(str, items), 512) for items in (a, b)]
    assert abs(estimated_jaccard(*signatures) - true) <= 5 * (true * (1 - true) / 512) ** 0.5 + 1e-9


def test_signatures():
    items = [f"word {i}" for i in range(10_000)]  # more than one block
    smallest = mix(np.array([hash64(item) for item in items], dtype=np.uint64) ^ streams(3, 1)).min()
    assert minhash(items, 1, seed=3)[0] == smallest
    assert np.array_equal(minhash(items[::-1] * 2, 8), minhash(items, 8))
    assert not (minhash(items, 8, seed=0) == minhash(items, 8, seed=1)).any()
    assert len(set(minhash(items, 200).tolist())) == 200  # the functions are not one
    assert (minhash([], 3) == 2**64 - 1).all() and jaccard(set(), set()) == 1 and jaccard({1}, set()) == 0
    with pytest.raises(ValueError, match="3 and 4 hashes"):
        estimated_jaccard(minhash(["x"], 3), minhash(["x"], 4))
    with pytest.raises(ValueError, match="at least 1 hash"):
        minhash(["x"], 0)


def test_the_s_curve_is_what_bands_do():
    """How often pairs of known similarity become candidates, against the formula."""
    for similarity, shared, own in [(0.5, 20, 10), (0.8, 40, 5)]:
        hits = 0
        for trial in range(300):
            a, b = ({f"{trial} {i}" for i in range(shared)} | {f"{x} {i}" for i in range(own)} for x in "ab")
            hits += bool(list(candidate_pairs(np.stack([minhash(a, 20, trial), minhash(b, 20, trial)]), bands=5)))
        expected = candidate_probability(similarity, bands=5, rows=4)
        assert abs(hits / 300 - expected) < 4.5 * (expected * (1 - expected) / 300) ** 0.5
    assert candidate_probability(0.5, 1, 3) == 0.125 and candidate_probability(0.5, 2, 1) == 0.75
    with pytest.raises(ValueError, match="20 hashes cannot be cut into 3 bands"):
        list(candidate_pairs(np.zeros((2, 20), np.uint64), 3))


def test_shingles():
    assert shingles("One, two; THREE four", 2) == {"one two", "two three", "three four"}
    assert shingles("One two", 5) == {"one two"} and shingles("... !", 5) == set()
    with pytest.raises(ValueError, match="at least 1 word"):
        shingles("x", 0)


def test_exact_duplicates_and_what_is_kept(corpus):
    assert exact_duplicates(["x\r\ny", "z", "x\ny\n", "Z", "z"]) == [[0, 2], [1, 4]]
    report = deduplicate(corpus)
    clusters = near_duplicates(corpus)
    assert report.kept == sorted(set(range(len(corpus))) - {copy for cluster in clusters for copy in cluster[1:]})
    assert report.copy_of == {copy: cluster[0] for cluster in clusters for copy in cluster[1:]}
    assert report.exact == 2 and report.near == len(report.copy_of) - 2
    assert deduplicate([]).kept == [] and deduplicate(["a b", "c d"]).kept == [0, 1]
    for threshold in (0, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            deduplicate(["x"], threshold)


def test_an_exact_copy_of_a_near_copy_points_to_what_is_kept():
    base = " ".join(f"w{i}" for i in range(100))
    report = deduplicate([base, base + " end", base + " end"])
    assert report.kept == [0] and report.copy_of == {1: 0, 2: 0} and (report.exact, report.near) == (1, 1)


# --- contamination ---


def naive_share(text, others, n):
    """Share of the words of a text in runs of n that stand in another."""
    words = gram_words(text)
    runs = {tuple(w[i : i + n]) for w in map(gram_words, others) for i in range(len(w) - n + 1)}
    covered = {j for i in range(len(words)) if tuple(words[i : i + n]) in runs for j in range(i, i + n)}
    return len(covered) / len(words)


def test_overlap_is_that_of_the_definition():
    train, test = stories(60, seed=2), stories(12, seed=3)
    words = test[4].split()
    train[17] += " " + " ".join(words[10:40]).upper()
    train[30] = "x " + " ".join(words[20:33]) + " y " + " ".join(words[60:72])
    found = overlap(iter(train), test, n=13)
    assert {17, 30} <= set(found.documents) and 4 in found.items
    assert found.documents == {i: s for i, text in enumerate(train) if (s := naive_share(text, test, 13))}
    assert found.items == {i: s for i, text in enumerate(test) if (s := naive_share(text, train, 13))}
    assert found.share_of_documents == len(found.documents) / 60 and found.share_of_items == len(found.items) / 12
    assert not overlap(train, test, n=40, shortest=40).documents


def test_a_run_of_exactly_n_words_counts_and_one_less_does_not():
    test = ["a b c d e f g h i j k l m n o p"]
    assert overlap(["x B, c d e f g h i j k l m n. y"], test).documents == {0: 13 / 15}
    assert overlap(["x b c d e f g h i j k l m y"], test).documents == {}


def test_short_items_are_looked_for_whole():
    test = ["one two three four five six seven eight nine", "one two three four five six seven"]
    found = overlap(["well: one two three four five six seven eight nine!", "one two three four five six seven"], test)
    assert found.documents == {0: 0.9} and found.items == {0: 1.0} and found.unjudged == [1]
    assert found.share_of_items == 1.0
    assert overlap(["ok one two three four five six seven eight"], test).documents == {}
    found = overlap(["one two three four five six seven"], test, shortest=7)
    assert found.documents == {0: 1.0} and found.items == {1: 1.0} and found.unjudged == []
    nothing = overlap([], ["x"])
    assert nothing.unjudged == [0] and nothing.share_of_documents == nothing.share_of_items == 0
    for n, shortest in [(5, 6), (5, 0)]:
        with pytest.raises(ValueError, match="1 <= shortest <= n"):
            overlap([], [], n, shortest)


def test_common_phrases_can_be_left_out():
    phrase, rare = "all rights reserved by the owner of this", "the owl hid nine lemons in the big barn"
    train = [f"{i} {phrase}" for i in range(11)] + [rare]
    assert len(overlap(train, [phrase, rare]).documents) == 12
    found = overlap(train, [phrase, rare], ignore_above=10)
    assert found.documents == {11: 1.0} and found.items == {1: 1.0}
    assert len(overlap(train, [phrase, rare], ignore_above=11).documents) == 12


# --- streaming ---


def test_streams_of_local_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "one\ntwo", "n": 1}, {"text": None, "n": 2}, {"text": "né →", "n": 3}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.txt").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "nested.jsonl").write_text(json.dumps({"translation": {"en": "A cat."}}))

    def stream(kind, file, **options):
        return hub_stream(kind, data_files=str(tmp_path / file), **options)

    assert list(stream("json", "rows.jsonl")) == list(stream("parquet", "rows.parquet")) == ["one\ntwo", "né →"]
    assert list(stream("text", "rows.txt")) == ["one", "two"]
    assert next(stream("json", "nested.jsonl", field="translation.en")) == "A cat."
    for kind, file, field, error, message in [
        ("json", "rows.jsonl", "body", ValueError, "no field 'body'; it has text, n"),
        ("json", "nested.jsonl", "translation.de", ValueError, "no entry 'de'"),
        ("json", "rows.jsonl", "n", TypeError, "field 'n' of 'json' holds int, not texts"),
    ]:
        with pytest.raises(error, match=message):
            next(stream(kind, file, field=field))


def test_a_stream_reads_no_more_than_it_is_asked_for(monkeypatch):
    datasets = pytest.importorskip("datasets")
    taken = []

    def rows(name, config, split, streaming):
        assert (name, config, split, streaming) == ("some/data", "en", "validation", True)
        return ({"text": str(taken.append(i) or i)} for i in range(10**9))

    monkeypatch.setattr(datasets, "load_dataset", rows)
    stream = hub_stream("some/data", split="validation", config="en")
    assert [next(stream), next(stream)] == ["0", "1"] and taken == [0, 1]

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ConnectionError, match="'some/data' could not be loaded.*data_files="):
        next(hub_stream("some/data"))


# --- python -m llmkit.data ---


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    ByteLevelBPE.train(stories(100), 400, special_tokens=["<|endoftext|>"]).save(path)
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def texts_in(folder, tokenizer):
    return [tokenizer.decode(document) for document in TokenShards(folder).documents()]


def test_from_files_to_shards(tmp_path, tokenizer_file, capsys):
    documents = [text + " Né → déjà vu." for text in stories(120, seed=5)]
    (tmp_path / "a.txt").write_text("<|sep|>".join(documents[:50]), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in documents[50:]) + "\n\n")
    out = tmp_path / "out"
    arguments = [tmp_path / "a.txt", tmp_path / "b.jsonl", "--tokenizer", tokenizer_file, "--field", "body"]
    arguments += ["--separator", "<|sep|>", "--val-share", "0.2", "--shard-tokens", "4000"]
    assert run(*arguments, "--out", out) == 0
    tokenizer = load_tokenizer(out)
    train, val = texts_in(out / "train", tokenizer), texts_in(out / "val", tokenizer)
    assert train == [text for text in documents if not is_validation(text, 0.2)]
    assert val == [text for text in documents if is_validation(text, 0.2)] and 10 < len(val) < 40
    shards = TokenShards(out / "train")
    shards.verify()
    assert len(shards.shards) > 2 and shards.eos_id == tokenizer.special_tokens["<|endoftext|>"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["documents"] == 120 and summary["removed"] == {}
    assert summary["train"] == {
        "documents": len(train),
        "tokens": shards.n_tokens,
        "bytes": sum(len(text.encode()) for text in train),
    }
    n_tokens = shards.n_tokens + TokenShards(out / "val").n_tokens
    assert summary["bytes_per_token"] == sum(len(text.encode()) for text in documents) / n_tokens
    assert sorted(path.name for path in out.iterdir()) == ["summary.json", "tokenizer.json", "train", "val"]
    printed = capsys.readouterr().out
    assert "120 documents read" in printed and f"val: {len(val)} documents" in printed
    assert run(*arguments, "--out", out) == 1 and "is there already" in capsys.readouterr().err


def test_a_text_that_the_tokenizer_cannot_write_is_left_out(tmp_path):
    """SmolLM2's vocabulary lacks some bytes; `tokenizers` would drop them without a word."""
    tokenizer = tmp_path / "tokenizer.json"
    ByteLevelBPE([bytes([b]) for b in range(256) if b != 0xF4], [], special_tokens={"</s>": 255}).save(tokenizer)
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "\U00100000"}\n', encoding="utf-8")
    arguments = [tmp_path / "a.jsonl", "--tokenizer", tokenizer, "--out", tmp_path / "out", "--val-share", "0"]
    assert run(*arguments) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["removed"] == {"no token for it": 1}
    assert texts_in(tmp_path / "out" / "train", load_tokenizer(tokenizer)) == ["fine"]


def test_json_and_parquet_files(tmp_path, tokenizer_file):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.json").write_text(json.dumps([{"text": "one cat"}, {"text": "two"}]))
    datasets.Dataset.from_dict({"text": ["three dogs"]}).to_parquet(tmp_path / "b.parquet")
    arguments = [tmp_path / "a.json", tmp_path / "b.parquet", "--tokenizer", tokenizer_file, "--val-share", "0"]
    assert run(*arguments, "--out", tmp_path / "out") == 0
    assert texts_in(tmp_path / "out" / "train", load_tokenizer(tokenizer_file)) == ["one cat", "two", "three dogs"]


def test_the_split_does_not_change_when_documents_are_added():
    texts = stories(300, seed=6)
    chosen = {text for text in texts if is_validation(text, 0.1)}
    assert 12 < len(chosen) < 52  # 30 expected, standard deviation 5.2
    assert {text for text in texts if is_validation(text, 0.2)} >= chosen
    assert not any(is_validation(text, 0) for text in texts)
    assert [i for i in range(60) if is_validation(str(i), 0.1)] == [18, 29, 47, 55]  # in every process


def test_what_is_removed_and_why(tmp_path, tokenizer_file, capsys):
    documents = [text for text in stories(60, seed=7) if not problems(text)][:30]
    near = documents[3].replace(documents[3].split()[8], "zebra", 1)
    bad = ["", " \n", "Too short.", documents[0] + "\r\n", documents[2], near, "x\ud800", documents[1] + " {x}"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents + bad))
    arguments = [tmp_path / "a.jsonl", "--tokenizer", tokenizer_file, "--val-share", "0.2"]
    assert run(*arguments, "--clean", "--dedup", "--out", tmp_path / "clean") == 0
    summary = json.loads((tmp_path / "clean" / "summary.json").read_text())
    assert summary["documents"] == 38
    assert summary["removed"] == {"empty": 2, "words": 2, "curly brackets": 1, "copy": 2, "near copy": 1}
    tokenizer = load_tokenizer(tmp_path / "clean")
    kept = texts_in(tmp_path / "clean" / "train", tokenizer) + texts_in(tmp_path / "clean" / "val", tokenizer)
    assert sorted(kept) == sorted(map(clean, documents))
    assert run(*arguments, "--out", tmp_path / "raw") == 0
    summary = json.loads((tmp_path / "raw" / "summary.json").read_text())
    assert summary["removed"] == {"empty": 2, "half a surrogate pair in it": 1}
    assert "2 removed: empty" in capsys.readouterr().out


@pytest.mark.parametrize("chunk", [1, 3, 2**20])
def test_a_separator_may_lie_across_chunks(tmp_path, monkeypatch, chunk):
    from llmkit.data import __main__ as command

    (tmp_path / "a.txt").write_text("one<|sep|>two<|sep|><|sep|>three", encoding="utf-8")
    monkeypatch.setattr(command, "CHUNK", chunk)
    assert list(command.read([tmp_path / "a.txt"], "text", "<|sep|>")) == ["one", "two", "", "three"]
    assert list(command.read([tmp_path / "a.txt"], "text", None)) == ["one<|sep|>two<|sep|><|sep|>three"]


def test_a_pattern_is_the_files_that_it_names(tmp_path):
    """As Windows' shells hand it on; a file that is called like a pattern is that file."""
    from llmkit.data.__main__ import expanded

    for name in ("b1.txt", "a1.txt", "a[1].txt", "c.md"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    pattern, odd = str(tmp_path / "?1.txt"), str(tmp_path / "a[1].txt")
    assert expanded([pattern, odd, "org/name"]) == [*(str(tmp_path / x) for x in ("a1.txt", "b1.txt")), odd, "org/name"]


def test_errors_of_the_command_line(tmp_path, tokenizer_file, capsys):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    plain = tmp_path / "plain.json"
    ByteLevelBPE.train(["a cat"], 260).save(plain)
    good = write("good.txt", b"A cat sat.")
    for arguments, message in [
        ([tmp_path / "none.txt"], "none.txt is no file"),
        ([tmp_path / "none*.txt"], "none*.txt is no file"),
        ([tmp_path], "is no file: name the files in it"),
        ([write("a.jsonl", b'{"text": "x"}\n{')], "a.jsonl, line 2, is not JSON"),
        ([write("b.jsonl", b'{"body": "x"}')], "b.jsonl, line 1, has no text in 'text'; it has body"),
        ([write("c.jsonl", b"[1]")], "line 1, has no text in 'text'; it has list"),
        ([write("d.jsonl", b'{"text": null}\n{"text": 7}')], "d.jsonl, line 2, has no text in 'text'"),
        ([write("d.txt", b"abc\xff")], "d.txt is not UTF-8"),
        ([write("f.jsonl", b'{"text": "x"}\n{"text": "\xff"}')], "f.jsonl, line 2, is not UTF-8"),
        ([write("empty.json", b"")], "empty.json"),
        ([write("e.json", b'[{"body": "x"}]')], "e.json: 'json' has no field 'text'"),
        ([write("blank.txt", b" ")], "no document of 0 is left for train, 1 removed: empty."),
        ([good, "--end", "<x>"], "no special token <x>; it has <|endoftext|>"),
        ([good, "--tokenizer", plain], "it has none. Choose with --end NAME, or --end none"),
        ([good, "--val-share", "1"], "--val-share must be"),
        ([good], "no document of 1 is left for val"),
        ([good, "--tokenizer", tmp_path / "nowhere"], "nowhere"),
    ]:
        out = tmp_path / "out"
        assert run("--tokenizer", tokenizer_file, "--out", out, *arguments) == 1
        assert message in capsys.readouterr().err
        assert not out.exists() or not list(out.iterdir())
    assert run("--tokenizer", plain, "--out", tmp_path / "o", good, "--end", "none", "--val-share", "0") == 0
    assert TokenShards(tmp_path / "o" / "train").eos_id is None
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["summary.json", "tokenizer.json", "train"]


def test_a_terminal_without_the_characters_of_a_path_ends_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\n", encoding="utf-8")
    ByteLevelBPE.train(["the cat sat"], 260).save(tmp_path / "tokenizer.json")
    words = "-m llmkit.data a.txt --tokenizer tokenizer.json --val-share 0 --end none --out données".split()
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and done.stdout.endswith(b"written to donn\\xe9es\n"), done
