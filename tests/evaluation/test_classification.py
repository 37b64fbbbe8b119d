"""Pins: accuracies and the confusion matrix on worked numbers; ties and NaN count against."""

import math

import pytest
import torch

from hf_customclip.inference.classification import ClassificationResult, rank_of_target

LABELS = ["cat", "dog", "fox"]


def test_ranks_and_predictions_of_hand_made_scores():
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    rank, predicted = rank_of_target(scores, torch.tensor([0, 1, 2]))
    assert rank.tolist() == [1, 2, 3]
    assert predicted.tolist() == [0, 0, 0]


def test_a_tie_is_not_a_hit_whatever_the_order():
    rank, predicted = rank_of_target(torch.full((3, 3), 0.5), torch.arange(3))
    assert rank.tolist() == [3, 3, 3]
    assert predicted.tolist() == [1, 0, 0]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_useless_score_is_last(bad):
    rank, predicted = rank_of_target(torch.tensor([[bad, 0.5, 0.1], [0.2, bad, 0.1]]), torch.tensor([0, 1]))
    assert rank.tolist() == [3, 3]
    assert predicted.tolist() == [1, 0]


def test_a_wrong_class_with_nan_is_ahead():
    rank, predicted = rank_of_target(torch.tensor([[0.9, math.nan, 0.1]]), torch.tensor([0]))
    assert (rank.item(), predicted.item()) == (2, 1)


def test_result_on_worked_numbers():
    """Three cats (two right), one dog (wrong), no fox: accuracy 2/4, mean per-class recall (2/3 + 0) / 2."""
    targets, predicted = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 2, 0])
    result = ClassificationResult(LABELS, targets, predicted, ranks=torch.tensor([1, 1, 2, 3]))
    assert result.confusion_matrix.tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert result.per_class_accuracy == {"cat": pytest.approx(2 / 3), "dog": 0.0}
    assert result.metrics == pytest.approx(
        {"accuracy": 0.5, "top5_accuracy": 1.0, "mean_per_class_recall": 1 / 3}
    )
