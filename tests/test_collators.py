"""Masking and corruption: equal to their references draw by draw, and what is written is what was taken."""

import itertools
import math
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
import torch

from llmkit.data.bart_noise import delete_tokens, infill, infill_spans, permute_sentences, replace_spans, rotate
from llmkit.data.batches import document_batches, index_batches, pad_pairs, pair_batches
from llmkit.data.masking import align_labels, encode_words, mask_tokens, masked_batches
from llmkit.data.span_corruption import (
    hidden_share,
    noise_mask,
    random_segments,
    repair_spans,
    span_corruption,
    span_corruption_lengths,
    t5_noise_mask,
)
from llmkit.tokenizers.wordpiece import WordPiece
from llmkit.training.losses import cross_entropy, seq2seq_loss, shift_right

VOCAB, MASK = 50, 4
SPECIAL = (0, 1, 2, 3, 4)


def batch(seed=0, shape=(6, 40)):
    ids = torch.randint(5, VOCAB, shape, generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = 2, 3
    ids[1, 20:] = 0
    return ids, (ids < 5).long()


# --- masked language modelling ---


@pytest.fixture
def theirs():
    """transformers' collator, around a tokenizer that has only what it asks for."""
    transformers = pytest.importorskip("transformers")

    class Tokenizer:
        mask_token, pad_token = "[MASK]", "[PAD]"

        def __len__(self):
            return VOCAB

        def convert_tokens_to_ids(self, token):
            return MASK

    def make(**options):
        collator = transformers.DataCollatorForLanguageModeling.__new__(transformers.DataCollatorForLanguageModeling)
        defaults = {"mlm_probability": 0.15, "mask_replace_prob": 0.8, "random_replace_prob": 0.1}
        collator.__dict__ |= {"tokenizer": Tokenizer(), "whole_word_mask": False, **defaults, **options}
        return collator

    return make


@pytest.mark.parametrize("shares", [(0.15, 0.8, 0.1), (0.4, 1.0, 0.0), (0.3, 0.6, 0.4), (0.2, 0.0, 0.5)])
@pytest.mark.parametrize("seed", range(5))
def test_masking_is_transformers_bit_for_bit(theirs, shares, seed):
    rate, mask_share, random_share = shares
    ids, special = batch(seed)
    collator = theirs(mlm_probability=rate, mask_replace_prob=mask_share, random_replace_prob=random_share)
    collator.generator = torch.Generator().manual_seed(seed)
    expected = collator.torch_mask_tokens(ids.clone(), special)
    before = ids.clone()
    generator = torch.Generator().manual_seed(seed)
    got = mask_tokens(ids, MASK, VOCAB, special, rate, generator, mask_share, random_share)
    assert torch.equal(expected[0], got[0]) and torch.equal(expected[1], got[1])
    assert torch.equal(ids, before)


@pytest.mark.parametrize("seed", range(5))
def test_whole_words_are_transformers_bit_for_bit(theirs, seed):
    ids, special = batch(seed)
    sizes = torch.randint(1, 4, ids.shape, generator=torch.Generator().manual_seed(seed))
    words = torch.stack([torch.repeat_interleave(torch.arange(ids.size(1)), row)[: ids.size(1)] for row in sizes])
    offsets = torch.zeros(*ids.shape, 2, dtype=torch.long)  # tokens of one word touch, others have a space between
    for b in range(ids.size(0)):
        for t in range(ids.size(1)):
            joined = t and words[b, t] == words[b, t - 1]
            offsets[b, t, 0] = offsets[b, t - 1, 1] + (0 if joined else 1) if t else 0
            offsets[b, t, 1] = offsets[b, t, 0] + 2
    collator = theirs(whole_word_mask=True)
    collator.generator = torch.Generator().manual_seed(seed)
    expected = collator.torch_mask_tokens(ids.clone(), special, offsets)
    got = mask_tokens(ids, MASK, VOCAB, special, generator=torch.Generator().manual_seed(seed), words=words)
    assert torch.equal(expected[0], got[0]) and torch.equal(expected[1], got[1])
    assert (got[1] != -100).any()
    for b, t in (got[1] != -100).nonzero().tolist():
        same = (words[b] == words[b, t]) & ~special[b].bool()
        run = [s for s in range(ids.size(1)) if same[s] and (words[b, min(s, t) : max(s, t) + 1] == words[b, t]).all()]
        run = [s for s in run if not special[b, min(s, t) : max(s, t) + 1].any()]
        assert (got[1][b, run] != -100).all()  # never a part of a word


def test_whole_words_of_nothing_and_of_another_shape():
    nothing = torch.zeros(0, 5, dtype=torch.long)
    inputs, labels = mask_tokens(nothing, MASK, VOCAB, nothing, words=nothing)
    assert inputs.shape == labels.shape == (0, 5)
    ids, special = batch()
    with pytest.raises(ValueError, match="words .* must number each of the ids"):
        mask_tokens(ids, MASK, VOCAB, special, words=ids[:, 1:])


def test_masking_rates():
    ids, special = batch(shape=(200, 100))
    inputs, labels = mask_tokens(ids, MASK, VOCAB, special, 0.3, torch.Generator().manual_seed(0))
    chosen = labels != -100
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(inputs[~chosen], ids[~chosen])
    assert not (chosen & special.bool()).any()
    n = int(chosen.sum())
    share = n / int((1 - special).sum())
    assert abs(share - 0.3) < 0.015
    assert abs(int((inputs[chosen] == MASK).sum()) / n - 0.8 - 0.1 / VOCAB) < 0.02
    assert abs(int((inputs[chosen] == ids[chosen]).sum()) / n - 0.1 - 0.1 / VOCAB) < 0.02


def test_static_masking_stays_and_dynamic_masking_moves():
    documents = [[2, *range(5, 5 + n), 3] for n in range(12, 36)]

    def seen(static):
        found = {}
        batches = masked_batches(documents, 4, MASK, VOCAB, SPECIAL, seed=1, static=static, rate=0.4)
        for _ in range(18):
            inputs, mask, labels = next(batches)
            for row, real, label in zip(inputs, mask, labels, strict=True):
                found.setdefault(int(real.sum()), set()).add((tuple(row[real].tolist()), tuple(label[real].tolist())))
        return found

    assert all(len(versions) == 1 for versions in seen(True).values())
    assert sum(len(versions) > 1 for versions in seen(False).values()) > 20


@pytest.mark.parametrize("static", [False, True])
def test_masked_batches_hide_what_they_say(static):
    documents = [[2, *range(5, 5 + n), 3] for n in range(1, 41)] + [[2, 3]] * 8  # some hold nothing that may be hidden
    pad_id, seen = 49, []  # an id that is in no document and not among the special ones
    batches = masked_batches(documents, 8, MASK, VOCAB, SPECIAL, 0, 0.5, static, pad_id)
    for inputs, mask, labels in itertools.islice(batches, 60):
        chosen = labels != -100
        assert not (chosen & ~mask).any() and (inputs[~mask] == pad_id).all()
        assert not torch.isin(labels[chosen], torch.tensor(SPECIAL)).any()
        seen.append((int(chosen.sum()), int(mask.sum()) - 2 * len(mask)))
    n_chosen, n_free = map(sum, zip(*seen, strict=True))
    assert abs(n_chosen / n_free - 0.5) < 0.05

    def labels_with(seed):
        return next(masked_batches([list(range(5, 45))], 1, MASK, VOCAB, SPECIAL, seed, static=static))[2]

    assert torch.equal(labels_with(0), labels_with(0)) and torch.equal(labels_with(0), labels_with(1)) == static


def test_static_masking_is_seeded_by_the_text_on_every_machine():
    text = [2, *range(5, 35), 3]
    inputs, _, labels = next(masked_batches([text], 1, MASK, VOCAB, SPECIAL, static=True))
    last = len(text) - 1  # [SEP] and padding at the end seed nothing
    seed = torch.Generator().manual_seed(zlib.crc32(struct.pack(f"<{last}q", *text[:last])))
    ids = torch.tensor([text[:last]])
    expected = mask_tokens(ids, MASK, VOCAB, ids < 5, generator=seed)
    assert torch.equal(inputs[:, :last], expected[0]) and torch.equal(labels[:, :last], expected[1])


def test_masking_refuses_what_makes_no_sense():
    ids, special = batch()
    with pytest.raises(ValueError, match="rate"):
        mask_tokens(ids, MASK, VOCAB, special, 1.5)
    with pytest.raises(ValueError, match="shape"):
        mask_tokens(ids, MASK, VOCAB, special[:, :3])
    with pytest.raises(ValueError, match="at most 1"):
        mask_tokens(ids, MASK, VOCAB, special, mask_share=0.8, random_share=0.3)
    with pytest.raises(ValueError, match="shares of at most 1"):
        mask_tokens(ids, MASK, VOCAB, special, mask_share=-0.1)


def test_labels_of_words():
    tokenizer = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##happy", "robot"])
    ids, words = encode_words(tokenizer, ["unhappy", "robot"])
    assert (ids, words) == ([5, 6, 7], [0, 0, 1])
    assert align_labels([3, 4], [None, *words, None]) == [-100, 3, -100, 4, -100]
    with pytest.raises(ValueError, match="word 2"):
        align_labels([3, 4], [0, 1, 2])
    with pytest.raises(ValueError, match="no token of word 1"):
        encode_words(tokenizer, ["robot", " "])


# --- T5 ---


def reference_mask(length, density=0.15, mean_span=3.0):
    """The equations of T5's preprocessors.py, written down anew: draws from numpy's global generator."""
    n_noise = min(max(int(np.round(length * density)), 1), length - 1)
    n_spans = max(int(np.round(n_noise / mean_span)), 1)

    def segments(n_items, n_segments):
        starts = np.arange(n_items - 1) < n_segments - 1
        np.random.shuffle(starts)
        number = np.cumsum(np.pad(starts, [[1, 0]]))
        return np.unique(number, return_counts=True)[1]

    noise, text = segments(n_noise, n_spans), segments(length - n_noise, n_spans)
    begins = np.cumsum(np.stack([text, noise], axis=1).reshape(-1))[:-1]
    indicator = np.zeros(length, dtype=int)
    indicator[begins] = 1
    return np.cumsum(indicator) % 2 == 1


@pytest.mark.parametrize("length", [2, 5, 16, 30, 31, 64, 512, 568])
def test_t5_mask_is_the_reference_draw_by_draw(length):
    for seed in range(20):
        np.random.seed(seed)
        assert np.array_equal(reference_mask(length), t5_noise_mask(length, np.random.RandomState(seed)))
    assert t5_noise_mask(length, np.random.RandomState(0))[-1]  # always ends with noise


def test_the_short_text_trap_and_its_cure():
    """Up to 30 tokens the reference always hides the same ones; ours hides any, the two ends about half as often."""
    rng = np.random.default_rng(0)
    assert hidden_share(t5_noise_mask, 30, 50, rng).tolist() == [0.0] * 26 + [1.0] * 4
    distinct = {n: len({tuple(t5_noise_mask(n, rng)) for _ in range(500)}) for n in (16, 30, 31, 64)}
    assert distinct[16] == distinct[30] == 1 and distinct[31] > 50 and distinct[64] > 400
    assert all(noise_mask(10, rng, 0.9, 1.0).sum() == 9 for _ in range(50))  # more noise than text to part it
    for n in (16, 30, 64):
        masks = np.array([noise_mask(n, rng) for _ in range(4000)])
        assert abs(masks.mean() - 0.15) < 0.005
        assert masks.mean(0)[2:-2].min() > 0.08 and masks.mean(0).max() < 0.21 and masks.mean(0).min() > 0.04
        spans = np.diff(masks.astype(int), axis=1, prepend=0) == 1
        assert abs(masks.sum() / spans.sum() - min(3.0, 0.15 * n)) < 0.05  # a text has at least one span


@pytest.mark.parametrize("mask", [t5_noise_mask, noise_mask])
def test_span_corruption_can_be_undone(mask):
    rng = np.random.default_rng(3)
    sentinels = list(range(999, 900, -1))
    for n in [2, 3, 7, 20, 50, 200] * 20:
        ids = rng.integers(10, 800, size=n).tolist()
        inputs, targets = span_corruption(ids, mask(n, rng), sentinels, end_id=1)
        assert inputs[-1] == targets[-1] == 1 and len(inputs) + len(targets) - 2 > n
        spans, current = {}, None
        for token in targets[:-1]:
            if token in sentinels:
                current = spans.setdefault(token, [])
            else:
                current.append(token)
        repaired = [t for token in inputs[:-1] for t in (spans[token] if token in spans else [token])]
        assert repaired == ids
        assert list(spans) == sentinels[: len(spans)] and all(spans.values())


def test_the_papers_example():
    words = "Thank you for inviting me to your party last week .".split()
    noise = [word in ("for", "inviting", "last") for word in words]
    assert span_corruption(words, noise, ["<X>", "<Y>"], "</s>") == (
        "Thank you <X> me to your party <Y> week . </s>".split(), "<X> for inviting <Y> last </s>".split(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="more than 1 spans"):
        span_corruption(words, noise, ["<X>"], "</s>")
    with pytest.raises(ValueError, match="mask for 3"):
        span_corruption(words, noise[:3], ["<X>"], "</s>")


def test_span_corruption_lengths():
    assert span_corruption_lengths(512) == (568, 114)
    for length in (3, 4, 5, 9, 10, 64, 100, 256, 1024):
        n, targets = span_corruption_lengths(length)
        mask = t5_noise_mask(n, np.random.default_rng(0))
        got = span_corruption(range(n), mask, [-1 - i for i in range(n)], end_id=-1000)
        assert len(got[0]) <= length and len(got[1]) == targets
        longer = t5_noise_mask(n + 1, np.random.default_rng(0))
        assert len(span_corruption(range(n + 1), longer, [-1 - i for i in range(n)], end_id=-1000)[0]) > length


def test_segments_are_all_equally_likely():
    rng = np.random.default_rng(0)
    counts = Counter(tuple(random_segments(5, 3, rng)) for _ in range(6000))
    assert len(counts) == math.comb(4, 2) and all(abs(n - 1000) < 150 for n in counts.values())
    with pytest.raises(ValueError, match="2 items cannot be cut into 3"):
        random_segments(2, 3, rng)
    for mask in (t5_noise_mask, noise_mask):
        with pytest.raises(ValueError, match="1 tokens"):
            mask(1, rng)
        for density in (-0.1, 1.0, 15):
            with pytest.raises(ValueError, match="density"):
                mask(20, rng, density)
        with pytest.raises(ValueError, match="mean_span cannot be 0.5"):
            mask(20, rng, mean_span=0.5)
    for call, words in (
        (lambda: span_corruption_lengths(2), "at least 3 tokens"),
        (lambda: span_corruption_lengths(64, density=1.0), "density"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# --- BART ---


def test_infilling():
    rng = np.random.default_rng(0)
    ids, spans, empty = list(range(100)), [], 0
    for _ in range(400):
        out = infill(ids, rng, mask_id=-1)
        kept = [token for token in out if token >= 0]
        assert kept == sorted(kept) and len(kept) == 70
        places = [-1, *kept, 100]
        gaps = [b - a - 1 for a, b in zip(places, places[1:], strict=False)]
        masks = out.count(-1)
        spans.append(30 / masks)
        empty += sum(1 for a, b in zip(out, out[1:], strict=False) if a == -1 and 0 < b == (out[out.index(b) - 2] + 1))
        assert sum(gaps) == 30 and masks >= sum(gap > 0 for gap in gaps)
    assert 2.6 < np.mean(spans) < 3.2  # Poisson 3, the last one cut
    assert empty > 0  # spans of length 0: a mask between two tokens that are neighbours
    assert infill([], rng, -1) == [] and infill([7], rng, -1) == [7] and infill([7, 8], rng, -1, rate=1.0).count(-1) > 0
    for rate in (-0.1, 1.5):
        with pytest.raises(ValueError, match="rate"):
            infill(ids, rng, -1, rate)
        with pytest.raises(ValueError, match="rate"):
            delete_tokens(ids, rng, rate)
    for mean_span in (0, -1.0):
        with pytest.raises(ValueError, match="mean_span"):
            infill(ids, rng, -1, mean_span=mean_span)


def test_infill_spans_are_what_infill_takes_away():
    for seed in range(30):
        spans = infill_spans(50, np.random.default_rng(seed))
        assert sum(size for _, size in spans) == 15
        assert all(a + n <= b for (a, n), (b, _) in zip(spans, spans[1:], strict=False))
        expected = []
        for i in range(51):  # token by token, the slow way
            expected += [-1] * sum(start == i for start, _ in spans)
            expected += [i] if i < 50 and not any(start <= i < start + size for start, size in spans) else []
        assert infill(range(50), np.random.default_rng(seed), -1) == expected
    lengths = [n for seed in range(2000) for _, n in infill_spans(100, np.random.default_rng(seed))[:-1]]
    for n in range(7):  # Poisson but for the last span, which is cut; long ones are the last a little more often
        expected = math.exp(-3) * 3**n / math.factorial(n)
        assert abs(np.mean([m == n for m in lengths]) - expected) < 0.03
    assert infill_spans(0, np.random.default_rng(0)) == []


def test_replace_spans_refuses_overlap():
    assert replace_spans([1, 2, 3], [], 9) == [1, 2, 3]
    assert replace_spans([1, 2, 3], [(0, 0), (0, 3), (3, 0)], 9) == [9, 9, 9]
    for spans in ([(0, 2), (1, 1)], [(2, 1), (0, 1)], [(2, 2)]):
        with pytest.raises(ValueError, match="begins before"):
            replace_spans([1, 2, 3], spans, 9)


def test_repair_spans_undoes_and_survives_a_models_answer():
    rng, sentinels = np.random.default_rng(5), list(range(999, 900, -1))
    for n in [2, 3, 7, 20, 50, 200] * 10:
        ids = rng.integers(10, 800, size=n).tolist()
        pair = span_corruption(ids, noise_mask(n, rng), sentinels, end_id=1)
        assert repair_spans(*pair, sentinels, end_id=1) == ids
    assert repair_spans([5, 99, 6, 98, 1], [7, 99, 8, 1, 98, 9], [99, 98], end_id=1) == [5, 8, 6]
    assert repair_spans([5, 99, 6], [99, 8, 99, 9], [99, 98], end_id=1) == [5, 9, 6]


def test_other_noise():
    rng = np.random.default_rng(0)
    ids = list(range(40))
    orders = {tuple(permute_sentences([[1, 2], [3], [4, 5]], rng)) for _ in range(200)}
    assert len(orders) == 6 and all(sorted(order) == [1, 2, 3, 4, 5] and (1, 2) in zip(order, order[1:], strict=False)
                                    for order in orders)  # fmt: skip
    gone = [delete_tokens(ids, rng) for _ in range(50)]
    assert all(len(out) == 34 and out == sorted(out) for out in gone) and len(set(map(tuple, gone))) > 40
    turned = {tuple(rotate(ids, rng)) for _ in range(400)}
    assert len(turned) == 40 and all(sorted(t) == ids and t[(t.index(39) + 1) % 40] == 0 for t in turned)
    assert delete_tokens([], rng) == rotate([], rng) == permute_sentences([], rng) == []


# --- losses and batches ---


def test_shift_right_is_transformers():
    transformers = pytest.importorskip("transformers")
    from transformers.models.bart.modeling_bart import shift_tokens_right

    assert transformers
    labels = torch.tensor([[5, 6, 7, 1], [8, 1, -100, -100]])
    assert torch.equal(shift_right(labels, 2, 0), shift_tokens_right(labels.clone(), 0, 2))


def test_seq2seq_loss_counts_each_label_once():
    from llmkit.models.t5 import T5Config, t5

    torch.manual_seed(0)
    model = t5(T5Config(20, 16, 1, n_heads=2, head_dim=8, d_ff=16)).eval()
    pairs = [([5, 6, 7, 1], [8, 9, 1]), ([5, 1], [8, 1])]
    together = seq2seq_loss(model, *pad_pairs(pairs))
    alone = [seq2seq_loss(model, *pad_pairs([pair])) for pair in pairs]
    assert torch.allclose(together, (alone[0] * 3 + alone[1] * 2) / 5, atol=1e-6)
    by_hand = -model(torch.tensor([[5, 1]]), torch.tensor([[0, 8]])).log_softmax(-1)[0, [0, 1], [8, 1]].mean()
    assert torch.allclose(alone[1], by_hand, atol=1e-6)


def test_pair_batches():
    pairs = [(list(range(5, 5 + n)), n % 3) for n in range(1, 13)]
    batches = pair_batches(pairs, 4, seed=0)
    seen = []
    for _ in range(3):
        _, mask, labels = next(batches)
        seen += zip(mask.sum(-1).tolist(), labels.tolist(), strict=True)
    assert sorted(seen) == [(n, n % 3) for n in range(1, 13)]
    with pytest.raises(ValueError, match="12 documents do not make a batch of 13"):
        next(pair_batches(pairs, 13))
    assert next(pair_batches([([5], [7]), ([6, 7], [8, 9])], 2, pad_id=3))[0].tolist() == [[5, 3], [6, 7]]


def test_no_document_is_left_out_for_ever():
    """Ten documents in batches of 4: two are left out of every epoch, and they must not be the longest always."""
    for lengths, size in ((list(range(10)), 4), (list(range(70)), 4)):  # one stretch of 16 batches, and two
        batches = index_batches(lengths, size)
        epochs = [sum(itertools.islice(batches, len(lengths) // size), []) for _ in range(60)]
        assert all(len(set(epoch)) == len(epoch) == len(lengths) // size * size for epoch in epochs)
        assert min(Counter(sum(epochs, []))[i] for i in range(len(lengths))) > 60 * 0.5
    sorted_inside = next(index_batches(list(range(0, 640, 10)), 4))
    assert max(sorted_inside) - min(sorted_inside) == 3  # like lengths together
    firsts = [batch[0] for batch in itertools.islice(index_batches(list(range(64)), 4), 16)]
    assert firsts != sorted(firsts)  # but not the short ones before the long ones


def test_labels_of_texts_are_integers():
    for labels in ((1, 0), (np.int64(1), np.int64(0)), (True, False)):
        got = pad_pairs([([5], labels[0]), ([6, 7], labels[1])])[2]
        assert got.dtype == torch.long and got.tolist() == [1, 0]


def test_max_len_is_a_length():
    assert next(document_batches([[5, 6, 7]], 1, max_len=2))[0].tolist() == [[5, 6]]
    for max_len in (0, -1):
        with pytest.raises(ValueError, match="max_len must be at least 1"):
            next(document_batches([[5, 6, 7]], 1, max_len=max_len))


def test_labels_out_of_range_are_named():
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"from 0 to 3, but there are logits for 0 … 2"):
        cross_entropy(logits, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="from -1"):
        cross_entropy(logits, torch.tensor([-1, 2]))
