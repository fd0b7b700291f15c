"""Calibration: of the answers given with 80% confidence, are 80% right? Legend: N examples, K classes, M bins."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llmkit.evaluation.classification import check_labels


class Reliability(NamedTuple):
    """One row for each bin of confidence, all (M,); an empty bin has NaN confidence and accuracy."""

    confidence: Tensor
    accuracy: Tensor
    count: Tensor


def reliability_table(probs: Tensor, labels: Tensor, n_bins: int = 10) -> Reliability:
    """Sort predictions into bins by confidence: how sure was the model in each, how often right?

    probs    (N, K), rows sum to 1; the confidence is the largest of a row, the prediction its place
             (of equals the first)
    labels   (N,), 0 to K - 1
    n_bins   M bins of equal width: bin m is (m / M, (m + 1) / M], so a confidence on an edge belongs to the lower
             bin (edges are m / M rounded to the type of probs; 16-bit probs are read as float32)

    Raises ValueError for empty input, wrong shapes, labels out of range, and rows that are no probabilities
    (logits, for example). Source: Guo et al. 2017 (arXiv 1706.04599), section 2.

    >>> probs = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    >>> table = reliability_table(probs, torch.tensor([0, 0, 0]), n_bins=2)
    >>> table.count, table.accuracy[1]
    (tensor([0, 3]), tensor(0.6667, dtype=torch.float64))
    """
    _check_bins(n_bins)
    probs, labels = _check_probs(probs, labels)
    confidence, predicted = probs.max(-1)
    inner_edges = torch.arange(1, n_bins).type_as(probs) / n_bins
    bins = torch.bucketize(confidence, inner_edges)  # right=False: a value on an edge goes to the left of it
    count = bins.bincount(minlength=n_bins)
    confidence_sum = bins.bincount(confidence.double(), minlength=n_bins)
    correct_sum = bins.bincount((predicted == labels).double(), minlength=n_bins)
    return Reliability(confidence_sum / count, correct_sum / count, count)  # 0 / 0 is NaN


def expected_calibration_error(probs: Tensor, labels: Tensor, n_bins: int = 10) -> float:
    """ECE: the mean gap between confidence and accuracy of a bin, weighted by the bin's examples; 0 to 1.

    Arguments, bins and errors as in `reliability_table`. Over- and underconfidence inside one bin cancel, and the
    number depends on n_bins: compare only at the same n_bins. Source: Guo et al. 2017, equation 3; Naeini et al. 2015.

    >>> probs = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    >>> expected_calibration_error(probs, torch.tensor([0, 1]))   # 75% sure, 50% right
    0.25
    """
    table = reliability_table(probs, labels, n_bins)
    gap = (table.confidence - table.accuracy).abs()
    filled = table.count > 0
    return ((gap * table.count)[filled].sum() / table.count.sum()).item()


def brier_score(probs: Tensor, labels: Tensor) -> float:
    """Mean over examples of the squared distance between probs (N, K) and the one-hot label; 0 (sure and right) to 2.

    Unlike the ECE it cannot be made good by always giving the base rates: it rewards being sure where one is right.
    For two classes some books give half of it (only the second class is summed). Raises as `reliability_table` does.
    Source: Brier 1950.

    >>> brier_score(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 1]))
    1.25
    """
    probs, labels = _check_probs(probs, labels)
    one_hot = F.one_hot(labels, probs.size(-1))
    return (probs - one_hot).square().sum(-1).mean().item()


def fit_temperature(logits: Tensor, labels: Tensor, low: float = 0.05, high: float = 20.0) -> float:
    """The temperature T with the least mean -log softmax(logits / T)[label].

    logits     (N, K) of a validation set: not the training set, where the model is surer than it should be
    labels     (N,), 0 to K - 1
    low, high  T is sought between them; an end comes back where the loss has no minimum inside (all predictions
               right: ever smaller T is better)

    One number for all classes: the order of the logits stays, so no prediction changes, only its confidence. The loss
    has one minimum, since it is convex in 1 / T, and golden-section search finds it: of the loss at two inner points
    of an interval, the worse one becomes the new end. Computed in float64. Raises ValueError for empty input, wrong
    shapes, labels out of range. Source: Guo et al. 2017, section 4.2.

    >>> logits = torch.tensor([[3.0, 0.0]] * 4)   # 95% sure
    >>> T = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))   # 75% right
    >>> round(T, 4), (logits / T).softmax(-1)[0]
    (2.7307, tensor([0.7500, 0.2500]))
    """
    if not 0 < low < high:
        raise ValueError(f"fit_temperature needs 0 < low < high, got {low} and {high}")
    _check_shapes(logits, labels, "logits")
    logits, labels = logits.detach().cpu().double(), labels.cpu().long()

    def loss(log_t: float) -> float:
        return F.cross_entropy(logits / math.exp(log_t), labels).item()

    golden = (math.sqrt(5) - 1) / 2
    left, right = math.log(low), math.log(high)
    for _ in range(60):  # 0.618^60 = 3e-13 of the first interval
        a, b = right - golden * (right - left), left + golden * (right - left)
        if loss(a) <= loss(b):
            right = b
        else:
            left = a
    return math.exp((left + right) / 2)


def _check_bins(n_bins: int) -> None:
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")


def _check_shapes(x: Tensor, labels: Tensor, name: str) -> None:
    if x.dim() != 2 or labels.dim() != 1 or len(x) != len(labels):
        raise ValueError(f"{name} must be (N, K) and labels (N,), got {tuple(x.shape)} and {tuple(labels.shape)}")
    check_labels(labels, x.size(-1))


def _check_probs(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU, where there is always float64."""
    _check_shapes(probs, labels, "probs")
    probs, labels = probs.detach().cpu(), labels.cpu().long()
    probs = probs if probs.dtype == torch.float64 else probs.float()
    off = (probs.sum(-1) - 1).abs().amax().item()
    # 16-bit probabilities are off by less than 1e-2; logits are not near at all. NaN fails the comparison too.
    if not (probs.amin() >= 0 and off < 1e-2):
        raise ValueError("probs must be at least 0 and sum to 1 in every row (logits? softmax(-1) them first)")
    return probs, labels
