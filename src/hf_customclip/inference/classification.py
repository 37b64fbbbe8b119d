"""Accuracy, mean per-class recall and the confusion matrix of predicted classes."""

from dataclasses import dataclass

import torch
from torch import Tensor


def rank_of_target(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """1-based rank of the right class, and the predicted class, for scores `[n, num_classes]`.

    As in retrieval a tie counts against: where a wrong class scores no lower than the right one, the right
    one is behind it, and the (first) best wrong class is what was predicted.
    """
    right = scores.gather(1, target[:, None])
    wrong = scores.scatter(1, target[:, None], -torch.inf)
    # `not lower`, rather than `higher or equal`, so that NaN counts against too.
    rank = 1 + (~(wrong < right)).sum(1) - (~(right > -torch.inf)).squeeze(1).long()
    best_wrong = wrong.nan_to_num(nan=torch.inf).argmax(1)
    return rank, torch.where(rank == 1, target, best_wrong)


@dataclass
class ClassificationResult:
    """How a data set was classified.

    Args:
        labels: the class names.
        targets: `[n]`, the right classes.
        predicted: `[n]`, the predicted classes.
        ranks: `[n]`, 1-based ranks of the right classes.
    """

    labels: list[str]
    targets: Tensor
    predicted: Tensor
    ranks: Tensor

    @property
    def confusion_matrix(self) -> Tensor:
        """`[num_classes, num_classes]` counts: rows are the right classes, columns the predicted ones."""
        n = len(self.labels)
        return torch.bincount(self.targets * n + self.predicted, minlength=n * n).reshape(n, n)

    @property
    def per_class_accuracy(self) -> dict[str, float]:
        """The share of each class's images that was classified right; classes without images are left out."""
        matrix = self.confusion_matrix
        right, total = matrix.diagonal().tolist(), matrix.sum(1).tolist()
        return {label: r / t for label, r, t in zip(self.labels, right, total, strict=True) if t}

    @property
    def metrics(self) -> dict[str, float]:
        """`accuracy`, `top5_accuracy` and `mean_per_class_recall` (over the classes that have images)."""
        per_class = self.per_class_accuracy.values()
        return {
            "accuracy": (self.ranks <= 1).double().mean().item(),
            "top5_accuracy": (self.ranks <= 5).double().mean().item(),
            "mean_per_class_recall": sum(per_class) / len(per_class),
        }
