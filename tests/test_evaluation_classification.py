"""Classification against scikit-learn; calibration against it, brute force and the definition of a minimum."""

import pytest
import torch
from torch.nn import functional as F

from llmkit.evaluation.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability_table,
)
from llmkit.evaluation.classification import accuracy, classification_report, confusion_matrix


def _ids(generator, n_classes, n):
    return torch.randint(n_classes, (n,), generator=generator)


def _probs(generator, n, n_classes, sharpness=2.0, dtype=torch.float32):
    return (sharpness * torch.randn(n, n_classes, generator=generator, dtype=dtype)).softmax(-1)


def test_reports_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    absent = 0
    for case in range(250):
        n_classes, n = 2 + case % 6, int(torch.randint(1, 25, (1,), generator=generator))
        labels = _ids(generator, n_classes, n)
        predicted = torch.where(torch.rand(n, generator=generator) < 0.4, labels, _ids(generator, n_classes, n))
        every = list(range(n_classes))
        matrix = confusion_matrix(predicted, labels, n_classes)
        assert matrix.tolist() == metrics.confusion_matrix(labels, predicted, labels=every).tolist()
        got = classification_report(predicted, labels, n_classes)
        scores = metrics.precision_recall_fscore_support
        rows = zip(*scores(labels, predicted, labels=every, zero_division=0), strict=True)
        assert list(got.per_class) == every
        for mine, theirs in zip(got.per_class.values(), rows, strict=True):
            assert mine == pytest.approx(theirs)
        for mine, average in ((got.macro, "macro"), (got.micro, "micro")):
            assert mine[:3] == pytest.approx(scores(labels, predicted, average=average, zero_division=0)[:3])
            assert mine.support == n
        assert accuracy(predicted, labels) == pytest.approx(metrics.accuracy_score(labels, predicted))
        assert got.micro.f1 == pytest.approx(accuracy(predicted, labels))
        absent += len({*labels.tolist(), *predicted.tolist()}) < n_classes
    assert absent > 30, "classes that never occur are the difficult case"


REFUSED = {
    "too large": (torch.tensor([0, 1]), torch.tensor([0, 3]), r"labels must lie in 0\.\.2, got 3"),
    "negative": (torch.tensor([0, -1]), torch.tensor([0, 1]), r"predicted must lie in 0\.\.2, got -1$"),
    "ignored": (torch.tensor([0, 1]), torch.tensor([0, -100]), "got -100 .*keep = labels != -100"),
    "empty": (torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long), "predicted is empty"),
    "lengths": (torch.tensor([0, 1]), torch.tensor([0]), r"got \(2,\) and \(1,\)"),
    "logits": (torch.zeros(2, 3), torch.tensor([0, 1]), r"got \(2, 3\) and \(2,\)"),
    "batched": (torch.zeros(2, 3).long(), torch.zeros(2, 3).long(), r"must both be \(N,\)"),
    "floats": (torch.tensor([0.5, 0.2]), torch.tensor([0, 1]), "predicted must be class ids, got torch.float32"),
}


@pytest.mark.parametrize("predicted, labels, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_classification_is_refused(predicted, labels, message):
    for function in (confusion_matrix, classification_report):
        with pytest.raises(ValueError, match=message):
            function(predicted, labels, 3)
    if "lie in" not in message and "-100" not in message:  # accuracy does not know how many classes there are
        with pytest.raises(ValueError, match=message):
            accuracy(predicted, labels)


@pytest.mark.parametrize("n_bins", [1, 2, 5, 10, 15])
def test_reliability_equals_scikit_learn(n_bins):
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    generator = torch.Generator().manual_seed(n_bins)
    for case in range(60):
        n, n_classes = 1 + case, 2 + case % 4
        probs = _probs(generator, n, n_classes, dtype=torch.float64)
        labels = _ids(generator, n_classes, n)
        table = reliability_table(probs, labels, n_bins)
        confidence, predicted = probs.max(-1)
        right, sure = calibration_curve((predicted == labels).numpy(), confidence.numpy(), n_bins=n_bins)
        filled = table.count > 0
        assert table.accuracy[filled].tolist() == pytest.approx(right.tolist())
        assert table.confidence[filled].tolist() == pytest.approx(sure.tolist())
        assert table.confidence[~filled].isnan().all() and table.accuracy[~filled].isnan().all()
        assert table.count.sum() == n and len(table.count) == n_bins
        ece = sum(abs(a - c) * k / n for a, c, k in zip(right, sure, table.count[filled].tolist(), strict=True))
        assert expected_calibration_error(probs, labels, n_bins) == pytest.approx(ece)
        if n_bins == 10:
            assert len(reliability_table(probs, labels).count) == 10
            assert expected_calibration_error(probs, labels) == pytest.approx(ece)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_bins", [3, 7, 10, 15, 20])
def test_a_confidence_on_an_edge_belongs_to_the_lower_bin(n_bins, dtype):
    """40 classes: the largest probability is m / M, the others share the rest, so every edge can be met."""
    for m in range(1, n_bins + 1):
        edge = torch.tensor(m, dtype=dtype) / n_bins
        probs = ((1 - edge) / 39).expand(1, 40).clone()
        probs[0, 0] = edge
        table = reliability_table(probs, torch.tensor([0]), n_bins)
        assert table.count.argmax() == m - 1, m
        if m < n_bins:
            probs[0, 0] = torch.nextafter(edge, torch.ones((), dtype=dtype))
            assert reliability_table(probs, torch.tensor([0]), n_bins).count.argmax() == m, m


def test_ece_of_the_calibrated_and_of_the_sure():
    generator = torch.Generator().manual_seed(1)
    probs = _probs(generator, 40_000, 4)
    honest = probs.multinomial(1, generator=generator).squeeze(1)
    assert expected_calibration_error(probs, honest) < 0.01
    sure = F.one_hot(probs.argmax(-1), 4).float()
    right = (probs.argmax(-1) == honest).double().mean().item()
    assert expected_calibration_error(sure, honest) == pytest.approx(1 - right, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_probabilities(dtype):
    generator = torch.Generator().manual_seed(2)
    probs, labels = _probs(generator, 200, 5).to(dtype), _ids(generator, 5, 200)
    for function in (expected_calibration_error, brier_score):
        assert function(probs, labels) == pytest.approx(function(probs.float(), labels), abs=1e-7)


def test_brier_equals_scikit_learn():
    peer = pytest.importorskip("sklearn.metrics").brier_score_loss
    generator = torch.Generator().manual_seed(3)
    for case in range(150):
        n, n_classes = 1 + case % 30, 2 + case % 5
        probs, labels = _probs(generator, n, n_classes, dtype=torch.float64), _ids(generator, n_classes, n)
        expected = peer(labels, probs, labels=list(range(n_classes)), scale_by_half=False)
        assert brier_score(probs, labels) == pytest.approx(expected)


def test_what_is_no_probability_is_refused():
    labels = torch.tensor([0, 1])
    for function in (reliability_table, expected_calibration_error, brier_score):
        for probs in (
            torch.tensor([[2.0, -1.0], [0.5, 0.5]]),
            torch.full((2, 2), 0.6),
            torch.full((2, 2), 0.48),
            torch.full((2, 2), torch.nan),
        ):
            with pytest.raises(ValueError, match="softmax"):
                function(probs, labels)
    with pytest.raises(ValueError, match="n_bins must be at least 1"):
        reliability_table(torch.full((2, 2), 0.5), labels, 0)
    for function, x in ((brier_score, torch.full((2, 2), 0.5)), (fit_temperature, torch.zeros(2, 2))):
        for wrong, message in (
            (torch.tensor([0, 2]), r"labels must lie in 0\.\.1, got 2"),
            (torch.tensor([0]), r"got \(2, 2\) and \(1,\)"),
            (torch.tensor([0.0, 1.0]), "must be class ids"),
        ):
            with pytest.raises(ValueError, match=message):
                function(x, wrong)
        with pytest.raises(ValueError, match="labels is empty"):
            function(x[:0], labels[:0])
        with pytest.raises(ValueError, match=r"must be \(N, K\)"):
            function(x[0], labels)
    with pytest.raises(ValueError, match="0 < low < high"):
        fit_temperature(torch.zeros(2, 2), labels, low=3.0, high=2.0)


@pytest.mark.parametrize("true_t", [0.3, 1.0, 2.5, 8.0])
def test_temperature_is_the_minimum_and_the_one_that_made_the_labels(true_t):
    generator = torch.Generator().manual_seed(4)
    logits = true_t * 2 * torch.randn(20_000, 5, generator=generator)
    labels = (logits / true_t).softmax(-1).multinomial(1, generator=generator).squeeze(1)
    t = fit_temperature(logits, labels)
    assert t == fit_temperature(logits, labels) == pytest.approx(true_t, rel=0.04)
    at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(logits.double() / at, labels), at)
    assert abs(slope.item() * t) < 1e-6
    if true_t != 1:
        before, after = (expected_calibration_error((logits / x).softmax(-1), labels) for x in (1, t))
        assert after < 0.02 < before


def test_temperature_stops_at_its_ends():
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == pytest.approx(0.05)
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(20)
    assert fit_temperature(logits, torch.tensor([1, 0]), low=0.1, high=7.0) == pytest.approx(7.0)
