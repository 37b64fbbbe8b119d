"""Pins: the terminal tables' exact text; `model-index` data survives a real model card round trip."""

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from hf_customclip.evaluation.chance import retrieval_chance
from hf_customclip.evaluation.reports import (
    classification_eval_results,
    format_classification_table,
    format_retrieval_table,
    retrieval_eval_results,
)
from hf_customclip.evaluation.retrieval import retrieval_metrics

IDS = torch.arange(20)
CLASSIFICATION = {"accuracy": 0.5, "top5_accuracy": 0.9, "mean_per_class_recall": 0.4567}


@pytest.fixture
def metrics():
    return retrieval_metrics(torch.eye(20), torch.eye(20), IDS, IDS)


def test_retrieval_table(metrics):
    assert format_retrieval_table(metrics, retrieval_chance(IDS, IDS)).splitlines() == [
        "                  R@1     R@5    R@10  median rank  mean rank",
        "image to text  1.0000  1.0000  1.0000          1.0        1.0",
        "  by chance    0.0500  0.2500  0.5000         10.0       10.5",
        "text to image  1.0000  1.0000  1.0000          1.0        1.0",
        "  by chance    0.0500  0.2500  0.5000         10.0       10.5",
        "rsum 600.0 of 600 (by chance 160.0)",
    ]


def test_retrieval_table_with_intervals(metrics):
    intervals = {name: (0.25, 0.5) for name in metrics if "recall" in name} | {"rsum": (590.0, 600.0)}
    lines = format_retrieval_table(metrics, retrieval_chance(IDS, IDS), intervals).splitlines()
    assert lines[2].split() == ["95", "%", "interval", *["0.250-0.500"] * 3]
    assert lines[3].startswith("  by chance") and lines[5] == lines[2]
    assert lines[-1] == "rsum 600.0 of 600 (95 % interval 590.0-600.0, by chance 160.0)"


def test_retrieval_table_of_trainer_metrics_without_chance(metrics):
    prefixed = {f"eval_{name}": value for name, value in metrics.items()} | {"eval_loss": 0.1}
    table = format_retrieval_table(prefixed, prefix="eval_")
    assert len(table.splitlines()) == 4
    assert table.endswith("rsum 600.0 of 600")


def test_classification_table():
    assert format_classification_table(CLASSIFICATION, num_labels=4).splitlines() == [
        "                       measured  by chance",
        "Top-1 accuracy           0.5000     0.2500",
        "Top-5 accuracy           0.9000     1.0000",
        "Mean per-class recall    0.4567     0.2500",
    ]


def test_model_index_survives_a_model_card(metrics, tmp_path):
    results = retrieval_eval_results(
        metrics, dataset_type="user/flickr", dataset_name="Flickr", dataset_split="test"
    ) + classification_eval_results(CLASSIFICATION, dataset_type="cifar10", dataset_name="CIFAR-10")
    data = ModelCardData(model_name="mine", eval_results=results)
    ModelCard(f"---\n{data.to_yaml()}\n---\n# mine\n").save(tmp_path / "README.md")
    index = ModelCard.load(tmp_path / "README.md").data.to_dict()["model-index"]
    name, loaded = model_index_to_eval_results(index)
    assert name == "mine"
    assert len(loaded) == len(results) == 9 + 3
    values = {(r.task_type, r.metric_type): r.metric_value for r in loaded}
    assert values["image-text-retrieval", "i2t_recall@1"] == 1.0
    assert values["image-text-retrieval", "rsum"] == 600.0
    assert values["zero-shot-image-classification", "mean_per_class_recall"] == 0.4567
    assert loaded[0].dataset_split == "test"
