"""Token shards, packing and the sampler: what the trainer reads."""

import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from itertools import chain

import numpy as np
import pytest
import torch

from llmkit.data.packing import best_fit, concatenate
from llmkit.data.sampler import DocumentWindows, PackedRows, Sampler, Windows
from llmkit.data.shard_writer import ShardWriter, write_shards
from llmkit.data.shards import ShardError, TokenShards
from llmkit.models.llama import LlamaConfig, llama

EOS = 0


def some_documents(n=40, seed=0, vocab_size=500, longest=30):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocab_size, size=rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def end_to_end(documents):
    return list(chain.from_iterable([*document, EOS] for document in documents))


# --- shards ---


@pytest.mark.parametrize("vocab_size, dtype", [(500, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_shards_give_back_what_was_written(tmp_path, vocab_size, dtype):
    documents = some_documents(vocab_size=vocab_size) + [[vocab_size - 1]]
    shards = write_shards(iter(documents), tmp_path / "train", vocab_size, EOS, shard_tokens=100)
    flat = end_to_end(documents)
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert index["dtype"] == dtype and shards.dtype == dtype
    assert len(index["shards"]) > 3 and shards.n_documents == 41 and len(shards) == shards.n_tokens == len(flat)
    assert shards.tokens(0, len(flat)).tolist() == flat
    for start in range(0, len(flat), 7):  # over borders, at borders, nothing at all
        for stop in (start, start + 1, min(len(flat), start + 150)):
            assert shards.tokens(start, stop).tolist() == flat[start:stop]
    assert [document.tolist() for document in shards.documents()] == documents
    for shard in index["shards"][:-1]:  # closed by the document that fills it, so none lies in two files
        assert 100 <= shard["tokens"] <= 130
        raw = (tmp_path / "train" / shard["file"]).read_bytes()
        assert len(raw) == shard["tokens"] * (2 if dtype == "uint16" else 4)
        assert hashlib.sha256(raw).hexdigest() == shard["sha256"]
    shards.verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train"]


def test_shards_without_an_end_token(tmp_path):
    shards = write_shards([[1, 2], [3]], tmp_path / "x", vocab_size=4)
    assert shards.tokens(0, 3).tolist() == [1, 2, 3]
    shards.verify()
    with pytest.raises(ShardError, match="without an end token"):
        next(shards.documents())


def test_what_is_read_is_a_copy_and_bounds_are_checked(tmp_path):
    shards = write_shards([[1, 2, 3]], tmp_path / "x", 4, EOS)
    shards.tokens(0, 2)[:] = 3
    assert shards.tokens(0, 4).tolist() == [1, 2, 3, 0]
    for start, stop in [(-1, 2), (2, 1), (0, 5)]:
        with pytest.raises(IndexError, match="there are 4"):
            shards.tokens(start, stop)


@pytest.mark.parametrize(
    "document, message",
    [
        ([], "document 1 is empty"),
        ([[1]], "document 1 is no list of ids"),
        ([1.0], "document 1 is no list of ids"),
        ([-1], "document 1 has ids from -1 to -1, but a vocabulary of 10"),
        ([3, 10], "document 1 has ids from 3 to 10, but a vocabulary of 10 goes from 0 to 9"),
        ([3, EOS, 4], "document 1 has the end token 0 in it"),
    ],
)
def test_a_bad_document_is_named_and_leaves_nothing(tmp_path, document, message):
    with pytest.raises(ValueError, match=message):
        write_shards([[1, 2], document], tmp_path / "x", 10, EOS)
    assert not list(tmp_path.iterdir())


def test_bad_arguments_of_the_writer(tmp_path):
    for arguments, message in [
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 4, "eos_id": 4}, "eos_id 4 is not in"),
        ({"vocab_size": 4, "shard_tokens": 0}, "shard_tokens"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_shards([[1]], tmp_path / "x", **arguments)
    with pytest.raises(ValueError, match="no document was given"):
        write_shards([], tmp_path / "x", 4)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").mkdir()
    write_shards([[1]], tmp_path / "x", 4)  # into an empty folder
    with pytest.raises(FileExistsError, match="is there already"):
        write_shards([[1]], tmp_path / "x", 4)


def test_damage_is_named(tmp_path):
    def fresh(name):
        write_shards(some_documents(), tmp_path / name, 500, EOS, shard_tokens=100)
        return tmp_path / name

    def index_without(folder, **changes):
        path = folder / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    with pytest.raises(ShardError, match="nothing.index.json is missing: .* holds no token shards"):
        TokenShards(tmp_path / "nothing")
    folder = fresh("missing")
    (folder / "shard-00001.bin").unlink()
    with pytest.raises(ShardError, match="shard-00001.bin is missing"):
        TokenShards(folder)
    folder = fresh("short")
    os.truncate(folder / "shard-00002.bin", 10)
    with pytest.raises(ShardError, match="shard-00002.bin has 10 bytes, the index says .* cut short"):
        TokenShards(folder)
    folder = fresh("foreign")
    (folder / "shard-00099.bin").write_bytes(b"12")
    with pytest.raises(ShardError, match="shard-00099.bin is not in the index"):
        TokenShards(folder)
    folder = fresh("no_json")
    (folder / "index.json").write_text("{")
    with pytest.raises(ShardError, match="is not JSON"):
        TokenShards(folder)
    for changes, message in [
        ({"format": "else"}, "no index of token shards"),
        ({"dtype": "float32"}, "dtype is 'float32'"),
        ({"vocab_size": "500"}, "vocab_size is '500'"),
        ({"eos_id": 500}, "eos_id is 500"),
        ({"shards": []}, "names no shards"),
        ({"shards": [{"file": "../x.bin"}]}, "does not name a file of this folder"),
        ({"shards": [{"file": "x.bin", "tokens": 3, "documents": 0}]}, "x.bin needs numbers"),
        ({"shards": [{"file": "x.bin", "tokens": 3, "documents": 1}]}, "x.bin has no sha256"),
    ]:
        folder = fresh("index" + str(abs(hash(message))))
        index_without(folder, **changes)
        with pytest.raises(ShardError, match=message):
            TokenShards(folder)


def test_verify_sees_what_opening_does_not(tmp_path):
    shards = write_shards(some_documents(), tmp_path / "x", 500, EOS, shard_tokens=100)
    path = tmp_path / "x" / "shard-00001.bin"
    raw = bytearray(path.read_bytes())
    raw[4] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ShardError, match="shard-00001.bin is damaged"):
        TokenShards(tmp_path / "x").verify()

    def forge(ids):  # a hash that is right and ids that are not
        path.write_bytes(np.array(ids, "<u2").tobytes())
        entry = {"file": path.name, "tokens": len(ids), "documents": 2}
        entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        index = json.loads((tmp_path / "x" / "index.json").read_text())
        index["shards"][1] = entry
        (tmp_path / "x" / "index.json").write_text(json.dumps(index))
        return TokenShards(tmp_path / "x")

    forge([5, 0, 7, 0]).verify()
    with pytest.raises(ShardError, match="holds the id 500, but the vocabulary ends at 499"):
        forge([500, 0, 7, 0]).verify()
    with pytest.raises(ShardError, match="does not hold the 2 documents"):
        forge([5, 0, 7, 8]).verify()
    with pytest.raises(ShardError, match="up to 499, but the model's vocabulary has 499"):
        shards.check_model(499)
    shards.check_model(500)


@pytest.mark.skipif(os.name == "nt", reason="kills as Unix does")
def test_a_killed_writer_leaves_no_folder_that_looks_whole(tmp_path):
    """kill -9 in the middle: only folder.partial is there, and the next writer clears it away."""
    script = f"""
        import os
        from llmkit.data.shard_writer import ShardWriter
        with ShardWriter({str(tmp_path / "x")!r}, 100, 0, shard_tokens=5) as shards:
            for i in range(20):
                shards.add([1 + i] * 4)
            os.kill(os.getpid(), {int(signal.SIGKILL)})
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial"]
    assert len(list((tmp_path / "x.partial").iterdir())) == 20
    with pytest.raises(ShardError, match="index.json is missing"):
        TokenShards(tmp_path / "x.partial")
    assert write_shards([[7]], tmp_path / "x", 100, 0).tokens(0, 2).tolist() == [7, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_two_writers_at_once(tmp_path):
    with ShardWriter(tmp_path / "a", 10, EOS) as a, ShardWriter(tmp_path / "b", 10, EOS) as b:
        for i in range(1, 9):
            (a if i % 2 else b).add([i])
    assert TokenShards(tmp_path / "a").tokens(0, 8).tolist() == [1, 0, 3, 0, 5, 0, 7, 0]
    assert TokenShards(tmp_path / "b").tokens(0, 8).tolist() == [2, 0, 4, 0, 6, 0, 8, 0]


def read_sum(shards):
    return int(shards.tokens(0, shards.n_tokens).astype(int).sum())


def test_several_processes_read_the_same_shards(tmp_path):
    shards = write_shards(some_documents(longest=2000), tmp_path / "x", 500, EOS, shard_tokens=10_000)
    total = read_sum(shards)  # maps are open now
    assert len(pickle.dumps(shards)) < shards.n_tokens / 5  # the name of the folder, not what lies in it
    assert read_sum(pickle.loads(pickle.dumps(shards))) == total
    with multiprocessing.get_context().Pool(2) as pool:  # fork or spawn, as the system does it
        assert pool.map(read_sum, [shards] * 4) == [total] * 4


def test_a_fingerprint_is_of_the_content(tmp_path):
    documents = some_documents()
    first = write_shards(documents, tmp_path / "a", 500, EOS)
    assert write_shards(documents, tmp_path / "b", 500, EOS).fingerprint == first.fingerprint
    documents[3][0] += 1
    assert write_shards(documents, tmp_path / "c", 501, EOS).fingerprint != first.fingerprint


# --- rows ---


def test_windows(tmp_path):
    documents = some_documents()
    flat = end_to_end(documents)
    shards = write_shards(documents, tmp_path / "x", 500, EOS, shard_tokens=100)
    sources = [shards, flat, np.array(flat, np.uint16), torch.tensor(flat)]
    for rows in [Windows(source, 16) for source in sources]:
        assert len(rows) == (len(flat) - 1) // 16
        for i in range(len(rows)):
            ids, targets = rows[i]
            assert ids.dtype == targets.dtype == torch.int64
            assert ids.tolist() == flat[16 * i : 16 * i + 16] and targets.tolist() == flat[16 * i + 1 : 16 * i + 17]
        with pytest.raises(IndexError, match=f"there are {len(rows)}"):
            rows[len(rows)]
    assert len({Windows(source, 16).fingerprint for source in sources[1:]}) == 1
    assert len(Windows(range(17), 16)) == 1 and len(Windows(range(33), 16)) == 2
    for tokens, context in [(range(16), 16), ([], 1), (range(9), 0)]:
        with pytest.raises(ValueError, match="make no row"):
            Windows(tokens, context)
    with pytest.raises(ValueError, match="must be integers"):
        Windows([1.0, 2.0], 1)


def test_document_windows(tmp_path):
    shards = write_shards([[1, 2], [3], [4, 5, 6]], tmp_path / "x", 10, EOS)  # 1 2 0 3 0 4 5 6 0
    ids, targets, documents = DocumentWindows(shards, 7)[0]
    assert ids.tolist() == [1, 2, 0, 3, 0, 4, 5]
    assert targets.tolist() == [2, 0, -100, 0, -100, 5, 6]
    assert documents.tolist() == [0, 0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="with an eos_id"):
        DocumentWindows([1, 2, 3], 1)


# --- the sampler ---


def some_rows(n=23, T=4):
    return Windows(np.arange(n * T + 1), T)


def take(sampler, n):
    taken = []
    for _ in range(n):
        taken.append(sampler.next_batch()[0].tolist())
        sampler.advance()
    return taken


@pytest.mark.parametrize("n_rows, batch_size", [(23, 5), (24, 6), (7, 7), (3, 8), (1, 1)])
def test_every_row_once_an_epoch(n_rows, batch_size):
    sampler, seen = Sampler(some_rows(n_rows), batch_size), []
    for _ in range(4 * n_rows):
        seen += sampler.indices().tolist()
        sampler.advance()
    epochs = [seen[i : i + n_rows] for i in range(0, len(seen) - n_rows + 1, n_rows)]
    assert len(epochs) >= 4 and all(sorted(epoch) == list(range(n_rows)) for epoch in epochs)
    if n_rows > 7:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # a new order each time


def test_orders_are_random_and_the_same_for_ever():
    first = [Sampler(some_rows(1000), 1000, seed=seed).indices() for seed in range(60)]
    for place in (0, 500, 999):  # each row is as likely as any other to come at a place: mean 499.5, sd 288.7
        assert abs(np.mean([order[place] for order in first]) - 499.5) < 4 * 288.7 / 60**0.5
    correlations = [np.corrcoef(first[i], first[i + 1])[0, 1] for i in range(59)] + [
        np.corrcoef(order, np.arange(1000))[0, 1] for order in first
    ]
    assert max(map(abs, correlations)) < 4.5 / 1000**0.5
    frozen = [3, 1, 9, 0, 5, 4, 6, 7, 2, 8]
    assert Sampler(some_rows(10), 10, seed=3).indices().tolist() == frozen  # a checkpoint of today must resume then


@pytest.mark.parametrize("of", [1, 2, 3, 5, 8])
def test_parts_join_to_the_whole(of):
    sampler = Sampler(some_rows(), batch_size=8, seed=1)
    for _ in range(7):
        whole = sampler.next_batch()
        parts = [sampler.next_batch(part, of) for part in range(of)]
        sizes = [len(ids) for ids, _ in parts]
        assert max(sizes) - min(sizes) <= 1
        for column in range(2):
            assert torch.equal(torch.cat([part[column] for part in parts]), whole[column])
        sampler.advance()


def test_a_world_of_any_size_sees_the_same_batches():
    whole = take(Sampler(some_rows(), 8, seed=1), 12)
    for world_size, n_accumulate in [(2, 1), (2, 2), (4, 2), (3, 1)]:
        ranks = [Sampler(some_rows(), 8, seed=1) for _ in range(world_size)]
        for batch in whole:
            of, joined = world_size * n_accumulate, []
            for rank, sampler in enumerate(ranks):
                for i in range(n_accumulate):
                    joined += sampler.next_batch(rank * n_accumulate + i, of)[0].tolist()
                sampler.advance()
            assert joined == batch


def test_resuming_anywhere_is_going_on():
    whole = take(Sampler(some_rows(), 5, seed=2), 30)
    sampler = Sampler(some_rows(), 5, seed=2)
    for n in range(30):
        state = json.loads(json.dumps(sampler.state_dict()))
        again = Sampler(some_rows(), 5, seed=2)
        again.load_state_dict(state)
        assert take(again, 30 - n) == whole[n:]
        sampler.advance()
    assert sampler.epoch == 150 / 23


def test_skipping_and_going_back():
    whole = take(Sampler(some_rows(), 5), 10)
    sampler = Sampler(some_rows(), 5)
    saved = sampler.state_dict()
    sampler.advance(4)
    assert take(sampler, 3) == whole[4:7]
    sampler.load_state_dict(saved)
    assert take(sampler, 2) == whole[:2]
    with pytest.raises(ValueError, match="load_state_dict goes back"):
        sampler.advance(-1)


def test_another_run_is_refused(tmp_path):
    documents = some_documents()
    shards = write_shards(documents, tmp_path / "x", 500, EOS)
    sampler = Sampler(Windows(shards, 16), 5)
    sampler.advance(3)
    state = sampler.state_dict()
    same = write_shards(documents, tmp_path / "moved", 500, EOS)
    Sampler(Windows(same, 16), 5).load_state_dict(state)
    other = write_shards(documents[::-1], tmp_path / "y", 500, EOS)
    refused = [
        (Sampler(Windows(other, 16), 5), "data was"),
        (Sampler(Windows(shards, 8), 5), "data was.*n_rows was"),
        (Sampler(DocumentWindows(shards, 16), 5), "data was"),
        (Sampler(Windows(shards, 16), 6), "batch_size was 5 and is 6"),
        (Sampler(Windows(shards, 16), 5, seed=1), "seed was 0 and is 1"),
    ]
    for another, message in refused:
        another.advance(1)
        with pytest.raises(ValueError, match=message):
            another.load_state_dict(state)
        assert another.batch == 1
    for bad in (None, -1, 1.5, True):
        with pytest.raises(ValueError, match="no number of a batch"):
            Sampler(Windows(shards, 16), 5).load_state_dict({**state, "batch": bad})


def test_bad_arguments_of_the_sampler():
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Sampler(some_rows(), 0)
    for part, of in [(0, 6), (-1, 2), (2, 2), (0, 0)]:
        with pytest.raises(ValueError, match="a batch of 5 rows"):
            Sampler(some_rows(), 5).next_batch(part, of)


# --- packing ---


def one_by_one(packed):
    """What was packed, document by document, from ids and documents alone: pieces in order of rows."""
    found = {}
    for ids, numbers in zip(packed.ids.tolist(), packed.documents.tolist(), strict=True):
        for token, number in zip(ids, numbers, strict=True):
            found.setdefault(number, []).append(token)
    padding = found.pop(-1, [])
    return found, padding


@pytest.mark.parametrize("pack", [concatenate, best_fit])
def test_packing_keeps_every_token_and_every_target_once(pack):
    documents = some_documents(60, seed=3, longest=40)
    packed = pack(documents, 16, pad_id=499)
    found, padding = one_by_one(packed)
    assert [found[i] for i in range(60)] == documents
    assert set(padding) <= {499} and len(padding) == packed.n_wasted
    assert packed.occupancy == sum(map(len, documents)) / packed.ids.numel()
    assert packed.ids.shape == packed.targets.shape == packed.documents.shape
    assert (packed.targets[packed.documents == -1] == -100).all()
    for number, document in enumerate(documents):
        here = packed.documents == number
        assert packed.targets[here].tolist() == [*document[1:], -100]
    rows_of = [{row for row, _ in (packed.documents == i).nonzero().tolist()} for i in range(60)]
    assert packed.n_cut == sum(len(rows) > 1 for rows in rows_of)


def test_best_fit_cuts_only_what_no_row_can_hold():
    documents = some_documents(300, seed=4, longest=40)
    packed, cut = best_fit(documents, 32), concatenate(documents, 32)
    assert packed.n_cut == sum(len(document) > 32 for document in documents) < cut.n_cut / 2
    assert cut.n_wasted < 32
    rests = sorted((len(d) % 32 or 32 for d in documents), reverse=True)
    spaces = []  # the definition, without its data structure
    for size in rests:
        enough = [space for space in spaces if space >= size]
        if enough:
            spaces[spaces.index(min(enough))] -= size
        else:
            spaces.append(32 - size)
    assert len(packed.ids) == len(spaces) + sum((len(d) - 1) // 32 for d in documents)
    padding = (packed.documents == -1).sum(1)
    assert sorted(padding.tolist()) == sorted([0] * (len(padding) - len(spaces)) + spaces)


def test_figure_1_of_ding_et_al():
    """Documents of 14, 7, 5, 2, 3 tokens in rows of 8: best fit cuts one of them, concatenation three."""
    documents = [[n] * n for n in (14, 7, 5, 2, 3)]
    assert best_fit(documents, 8).n_cut == 1 and len(best_fit(documents, 8).ids) == 4
    assert concatenate(documents, 8).n_cut == 3


def test_bad_arguments_of_packing():
    for arguments, message in [
        (([], 4), "no document"),
        (([[1], []], 4), "document 1 is empty"),
        (([[1]], 0), "at le"),
    ]:
        for pack in (concatenate, best_fit):
            with pytest.raises(ValueError, match=message):
                pack(*arguments)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=64, max_len=64)
    return llama(config).eval()


@torch.no_grad()
def test_a_document_does_not_see_the_one_before_it(model):
    first, other, second = [5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24, 25], [11, 12, 13, 14]
    rows = [best_fit([document, second], 12) for document in (first, other)]
    assert rows[0].documents.tolist() == [[0] * 6 + [1] * 4 + [-1] * 2]
    masked = [model(row.ids, documents=row.documents)[0] for row in rows]
    plain = [model(row.ids)[0] for row in rows]
    alone = model(torch.tensor([second]))[0]
    torch.testing.assert_close(masked[0][6:10], masked[1][6:10], rtol=0, atol=0)
    torch.testing.assert_close(masked[0][6:10], alone, rtol=1e-5, atol=1e-6)
    assert (plain[0][6:10] - plain[1][6:10]).abs().max() > 1e-3
    assert masked[0].isfinite().all()  # padding too: an empty row of attention would give NaN


def test_positions_and_targets_are_those_of_transformers(model):
    from transformers import DataCollatorWithFlattening

    documents = some_documents(6, seed=5, longest=9)
    theirs = DataCollatorWithFlattening()([{"input_ids": document} for document in documents])
    packed = concatenate(documents, sum(map(len, documents)))
    assert packed.ids.tolist() == theirs["input_ids"].tolist()
    positions = model.transformer._positions(packed.ids, 0, None, packed.documents)
    assert positions.tolist() == theirs["position_ids"].tolist()
    shifted = theirs["labels"].roll(-1, dims=1)  # their labels are moved by the model
    shifted[:, -1] = -100
    assert packed.targets.tolist() == shifted.tolist()


def test_packed_rows_are_sampled():
    packed = best_fit(some_documents(), 32)
    rows = PackedRows(packed)
    sampler = Sampler(rows, 4)
    ids, targets, documents = sampler.next_batch()
    at = torch.tensor(sampler.indices())
    assert torch.equal(ids, packed.ids[at]) and torch.equal(documents, packed.documents[at])
    assert torch.equal(targets, packed.targets[at]) and len(rows) == len(packed.ids)
    other = Sampler(PackedRows(concatenate(some_documents(), 32)), 4)
    with pytest.raises(ValueError, match="data was"):
        other.load_state_dict(sampler.state_dict())
