"""Classification: accuracy, the confusion matrix, F1 of each class. Legend: N examples, K classes."""

import torch
from torch import Tensor

from llmkit.evaluation.scores import Report, report


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """The share of examples whose predicted class (N,) is the label (N,), between 0 and 1.

    With unequal classes it flatters: always saying the most frequent one scores as much as that one is frequent.
    Raises ValueError for empty input and for unequal shapes.

    >>> accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    0.75
    """
    check_classes(predicted, labels)
    return (predicted == labels).sum().item() / len(labels)


def confusion_matrix(predicted: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(K, K) counts: row i, column j says how often class i was taken for class j.

    predicted, labels  (N,) class ids, 0 to n_classes - 1

    Rows are the truth, columns the prediction (scikit-learn has it so too; other books turn it round). Rows sum to
    how often a class is true, columns to how often it is predicted, the diagonal is right. Raises ValueError for
    empty input, unequal shapes, ids outside the range, ids that are not integers.

    >>> confusion_matrix(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 0]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    check_classes(predicted, labels, n_classes)
    cells = labels.long() * n_classes + predicted.long()
    return cells.bincount(minlength=n_classes**2).unflatten(0, (n_classes, n_classes))


def classification_report(predicted: Tensor, labels: Tensor, n_classes: int) -> Report:
    """Precision, recall and F1 of every class, micro and macro.

    predicted, labels  (N,) class ids, 0 to n_classes - 1

    Each example has one label, so a wrong answer is one false alarm and one miss: micro precision, recall and F1
    all equal the accuracy, and macro F1 is the one that tells whether rare classes are found. Classes that occur
    neither in predicted nor in labels are left out of macro. Raises as `confusion_matrix` does.

    >>> lazy = classification_report(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]), 2)
    >>> lazy.micro.f1, round(lazy.macro.f1, 4), lazy.per_class[1].recall
    (0.75, 0.4286, 0.0)
    """
    matrix = confusion_matrix(predicted, labels, n_classes)
    counts = torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)], dim=1).tolist()
    return report({k: tuple(three) for k, three in enumerate(counts)})


def check_classes(predicted: Tensor, labels: Tensor, n_classes: int | None = None) -> None:
    """Raise ValueError for what is no pair of class ids (N,) (N,); without n_classes the range is not looked at."""
    if predicted.shape != labels.shape or labels.dim() != 1:
        raise ValueError(
            f"predicted and labels must both be (N,), got {tuple(predicted.shape)} and {tuple(labels.shape)}"
        )
    check_labels(predicted, n_classes, "predicted")
    check_labels(labels, n_classes, "labels")


def check_labels(labels: Tensor, n_classes: int | None, name: str = "labels") -> None:
    """Raise ValueError where (N,) is empty, not integer, or holds anything but 0 to n_classes - 1."""
    if not labels.numel():
        raise ValueError(f"{name} is empty: at least one example is needed")
    if labels.is_floating_point():
        raise ValueError(f"{name} must be class ids, got {labels.dtype} (argmax forgotten?)")
    if n_classes is None:
        return
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if outside.numel():
        hint = " (positions marked -100 are to be left out before: keep = labels != -100)" if -100 in outside else ""
        raise ValueError(f"{name} must lie in 0..{n_classes - 1}, got {outside[0].item()}{hint}")
