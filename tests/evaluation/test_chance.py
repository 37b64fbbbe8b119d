"""Pins: chance values against the hypergeometric formula in exact integers and against random rankings."""

from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_customclip.evaluation.chance import chance_recall, retrieval_chance
from hf_customclip.evaluation.retrieval import retrieval_metrics


def test_flickr30k_1k_protocol():
    assert chance_recall(1, 1000) == pytest.approx(0.001)
    assert chance_recall(10, 1000) == pytest.approx(0.01)
    # Five right captions among 5,000: a little under 5 x 1/5,000 x 10.
    assert chance_recall(1, 5000, positives=5) == pytest.approx(0.001)
    assert chance_recall(10, 5000, positives=5) == pytest.approx(0.0099640, abs=1e-7)


@given(st.integers(1, 60), st.data())
def test_is_the_hypergeometric_tail(n, data):
    positives, k = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    assert chance_recall(k, n, positives) == pytest.approx(1 - comb(n - positives, k) / comb(n, k), abs=1e-12)


def test_everything_found_when_k_covers_the_candidates():
    assert chance_recall(10, 4) == chance_recall(3, 4, positives=2) == 1


@pytest.mark.parametrize("arguments", [(0, 10), (1, 10, 0), (1, 10, 11)])
def test_impossible_questions_are_errors(arguments):
    with pytest.raises(ValueError, match="needs k of at least 1"):
        chance_recall(*arguments)


def test_retrieval_chance_is_what_random_embeddings_score_on_average():
    """Varying captions per image; 400 random models, so the means are known to about two hundredths."""
    generator = torch.Generator().manual_seed(0)
    image_ids = torch.arange(12)
    text_ids = torch.cat([image_ids, image_ids[:6], image_ids[:3]])
    runs = []
    for _ in range(400):
        images, texts = torch.randn(12, 64, generator=generator), torch.randn(21, 64, generator=generator)
        runs.append(retrieval_metrics(images, texts, image_ids, text_ids))
    chance = retrieval_chance(image_ids, text_ids)
    assert chance.keys() == runs[0].keys()
    for name, tolerance in [("recall@1", 0.02), ("recall@5", 0.02), ("recall@10", 0.02), ("mean_rank", 0.25)]:
        for way in ("i2t", "t2i"):
            measured = sum(run[f"{way}_{name}"] for run in runs) / len(runs)
            assert chance[f"{way}_{name}"] == pytest.approx(measured, abs=tolerance)
    assert chance["t2i_median_rank"] == 6.0


def test_duplicate_images_count_once():
    ids = torch.tensor([3, 3, 4, 5])
    assert retrieval_chance(ids, ids[1:]) == retrieval_chance(ids[1:], ids[1:])
