"""Pins: metrics of each language are those of its captions alone, by numbers worked out by hand, and the usual
names hold their mean; without languages nothing changes; the table names trained and other languages."""

import pytest
import torch

from hf_customclip.evaluation.languages import format_language_table, metrics_by_language
from hf_customclip.evaluation.reports import languages_of
from hf_customclip.evaluation.retrieval import retrieval_metrics

IMAGES = torch.eye(3)
IMAGE_IDS = torch.tensor([7, 8, 9])
# English finds every image; Chinese takes the first two for each other, and has nothing of the third.
TEXTS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
TEXT_IDS = torch.tensor([7, 8, 7, 8, 9])
LANGUAGES = ["en", "en", "zh", "zh", "en"]


def test_by_hand():
    metrics = metrics_by_language(IMAGES, TEXTS, IMAGE_IDS, TEXT_IDS, languages=LANGUAGES)
    assert metrics["t2i_recall@1_en"] == metrics["i2t_recall@1_en"] == 1
    assert metrics["t2i_recall@1_zh"] == metrics["i2t_recall@1_zh"] == 0
    assert metrics["t2i_recall@5_zh"] == 1 and metrics["t2i_median_rank_zh"] == 2
    assert metrics["rsum_en"] == pytest.approx(600) and metrics["rsum_zh"] == pytest.approx(400)
    assert metrics["t2i_recall@1"] == 0.5 and metrics["rsum"] == pytest.approx(500)
    assert languages_of(metrics) == ["en", "zh"]


def test_a_language_alone_is_a_data_set_of_its_own():
    metrics = metrics_by_language(IMAGES, TEXTS, IMAGE_IDS, TEXT_IDS, languages=LANGUAGES)
    english = torch.tensor([0, 1, 4])
    alone = retrieval_metrics(IMAGES, TEXTS[english], IMAGE_IDS, TEXT_IDS[english])
    assert {name: metrics[f"{name}_en"] for name in alone} == alone


@pytest.mark.parametrize("languages", [None, ["en"] * 5])
def test_one_language_is_plain_retrieval(languages):
    found = metrics_by_language(IMAGES, TEXTS, IMAGE_IDS, TEXT_IDS, languages=languages)
    assert found == retrieval_metrics(IMAGES, TEXTS, IMAGE_IDS, TEXT_IDS)


def test_the_table():
    metrics = {
        f"eval_{name}": value
        for name, value in metrics_by_language(
            IMAGES, TEXTS, IMAGE_IDS, TEXT_IDS, languages=LANGUAGES
        ).items()
    }
    table = format_language_table(metrics, trained=["en"], prefix="eval_").splitlines()
    assert [line.split("  ")[0] for line in table[1:]] == [
        "en",
        "zh",
        "mean of 1 trained",
        "mean of 1 not trained",
    ]
    assert table[1].split()[1:] == ["1.000"] * 6 + ["600.0"] and table[4].split()[-1] == "400.0"
    assert format_language_table(metrics, prefix="eval_").splitlines()[-1].startswith("mean of 2")
