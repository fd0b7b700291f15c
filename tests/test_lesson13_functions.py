"""What lesson 13 added: marking documents, accumulated gradients, shares of overlap, MinHash in parts, small runs."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmkit.course.compare import first_difference
from llmkit.data.decontamination import overlap, overlap_share
from llmkit.data.dedup import _keys, minhash
from llmkit.data.hashing import hash64, mix
from llmkit.data.packing import concatenate, mark_documents
from llmkit.training.losses import IGNORE, accumulated_gradients
from llmkit.training.rehearsals import curves, fresh, new_trainer, one_run_many_lengths, stable_decay, village


def test_marks_are_those_of_packing():
    documents = [[1, 2, 9], [3, 9], [4, 5, 6, 9], [7, 9]]
    packed = concatenate(documents, 11)
    stream = torch.tensor([token for document in documents for token in document])
    targets, numbers = mark_documents(stream, torch.cat([stream[1:], stream[:1]]), 9)
    assert torch.equal(packed.targets[0], targets) and torch.equal(packed.documents[0], numbers)


def test_each_row_is_marked_for_itself():
    ids = torch.randint(4, (3, 5, 12), generator=torch.Generator().manual_seed(0))
    targets, documents = mark_documents(ids, ids + 1, 2)
    for i in range(3):
        for j in range(5):
            alone = mark_documents(ids[i, j], ids[i, j] + 1, 2)
            assert torch.equal(targets[i, j], alone[0]) and torch.equal(documents[i, j], alone[1])


@pytest.mark.parametrize("cuts", [[6], [1, 5], [2, 2, 2], [1, 1, 1, 1, 1, 1]])
def test_gradients_do_not_depend_on_how_a_batch_is_cut(cuts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    ids, targets = torch.randint(11, (2, 6, 7)).unbind()
    targets = targets.masked_fill(torch.arange(7) > torch.tensor([[6], [0], [3], [-1], [5], [1]]), IGNORE)
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    parts = list(zip(ids.split(cuts), targets.split(cuts), strict=True))
    for _ in range(2):  # the second time with gradients of the first
        found, gradients = accumulated_gradients(model, parts)
        assert found == pytest.approx(loss.item(), rel=1e-6)
        for a, b in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="no token"):
        accumulated_gradients(model, [(ids, torch.full_like(ids, IGNORE))])


def test_the_share_is_that_of_overlap():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abc"), size)) for size in (3, 12, 40, 40, 41, 60)]
    for n in (2, 5, 8):
        for item in texts[2:]:
            found = overlap(texts, [item], n=n, shortest=n).documents
            assert [overlap_share(text, item, n) for text in texts] == [found.get(i, 0.0) for i in range(6)]
    with pytest.raises(ValueError, match="at least 1"):
        overlap_share("a", "a", 0)


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 4097, 9000])
def test_minhash_by_its_definition_in_any_number_of_parts(n):
    items = [str(i) for i in range(n)]
    hashes = np.array([hash64(item) for item in items], dtype=np.uint64)
    wanted = [min([int(mix(hashes ^ key).min())] if n else [2**64 - 1]) for key in _keys(5, 3)]
    found = minhash(iter(items + items[:10]), 5, 3)
    assert found.dtype == np.uint64 and found.tolist() == wanted


def test_arrays_of_both_kinds_of_uint64_are_compared():
    one, other = np.full(3, 2**64 - 1), np.full(3, 2**64 - 1, dtype=np.uint64)
    assert first_difference(one, other) is None and first_difference(other, one) is None
    other[1] -= np.uint64(1)
    assert str(first_difference(one, other)).startswith("first difference at [1]")


def test_a_branch_of_a_plateau_is_the_run_of_that_length():
    alone = new_trainer(village().train, stable_decay(15), 15)
    alone.fit()
    branches = one_run_many_lengths([10, 15])
    assert branches[15] == curves(alone) and list(branches) == [10, 15] and len(branches[10]["losses"]) == 10


def test_fresh_stories():
    assert sum(map(len, fresh(5000)[:-1])) < 5000 <= sum(map(len, fresh(5000)))
    with pytest.raises(ValueError, match="asked for"):
        fresh(10**7)
