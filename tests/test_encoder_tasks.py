"""The small parts of lesson 10: word counts, the baseline on them, the drawing of entities, the Hub asked first."""

import socket

import pytest
import torch

from llmkit.data import hub
from llmkit.evaluation.spans import Span
from llmkit.models.bag_of_words import BagOfWords, word_counts
from llmkit.viz import spans


def test_word_counts_are_those_of_bincount():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(7, (5, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([9, 4, 1, 0, 6])[:, None]
    for row, real, counts in zip(ids, mask, word_counts(ids, 11, mask), strict=True):
        assert torch.equal(counts, row[real].bincount(minlength=11).float())
    assert torch.equal(word_counts(ids, 11), word_counts(ids, 11, torch.ones_like(ids)))


@pytest.mark.parametrize("d_hidden", [None, 5])
def test_a_bag_knows_no_order_and_no_padding(d_hidden):
    torch.manual_seed(0)
    model = BagOfWords(11, 3, d_hidden)
    ids = torch.tensor([[4, 9, 4, 2]])
    assert model(ids).shape == (1, 3)
    assert torch.allclose(model(ids), model(ids.flip(1)))
    padded, mask = torch.tensor([[4, 9, 4, 2, 0, 7]]), torch.tensor([[True] * 4 + [False] * 2])
    assert torch.allclose(model(ids), model(padded, mask))


def test_without_a_hidden_layer_it_is_logistic_regression():
    model = BagOfWords(11, 2)
    assert sum(p.numel() for p in model.parameters()) == 11 * 2 + 2


def test_every_span_is_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(spans, "show", lambda fig, alt: drawn.append(fig))
    words = "Lina Oakford met the Oakford Bank .".split()
    predicted, true = [Span(0, 2, "PER"), Span(4, 5, "LOC")], [Span(0, 2, "PER"), Span(4, 6, "ORG")]
    spans.show_spans([("a", words, predicted, true), ("a", words, [], [])], "title", "alt")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts.count("a") == 1 and texts.count("Lina") == 2
    assert {"PER", "LOC", "is ORG"} <= set(texts)
    with pytest.raises(ValueError, match="does not fit"):
        spans.show_spans([("a", ["word"] * 40, [], [])], "title", "alt")


def test_the_hub_is_asked_once_and_not_long(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append((*address, timeout))
        raise OSError("no network")

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert not hub.hub_reachable(timeout=0.5) and asked == [("huggingface.co", 443, 0.5)]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.hub_reachable() and len(asked) == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.test:8080")
    assert not hub.hub_reachable(1.0) and asked[-1] == ("mirror.test", 8080, 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.undo()
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.hub_reachable()
