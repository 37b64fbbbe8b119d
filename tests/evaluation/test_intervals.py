"""Pins: bootstrap intervals draw images with all their captions (compared with draws written out one by one), have
the width that theory gives, and hold the truth about as often as they say; two models are compared on the same
draws, so a model does not differ from itself, and a difference shows that separate intervals would hide."""

import numpy as np
import pytest
import torch

from hf_customclip.evaluation.intervals import bootstrap_intervals, paired_differences
from hf_customclip.evaluation.retrieval import RetrievalRanks


def made_ranks(images, texts=None, image_of_text=None):
    images = torch.as_tensor(images)
    texts = images.clone() if texts is None else torch.as_tensor(texts)
    owners = torch.arange(len(images)) if image_of_text is None else torch.as_tensor(image_of_text)
    return RetrievalRanks(images, texts, owners)


def written_out(ranks, samples, seed):
    """The same draws of images, each written out as lists of ranks; independent of the library but for the draw."""
    images, texts, owner = (x.numpy() for x in (ranks.images, ranks.texts, ranks.image_of_text))
    generator, n, sums = np.random.default_rng(seed), len(images), []
    for times in generator.multinomial(n, np.full(n, 1 / n), size=samples):
        drawn = [image for image in range(n) for _ in range(times[image])]
        of_images = [images[image] for image in drawn]
        of_texts = [rank for image in drawn for rank in texts[owner == image]]
        recalls = [np.mean(np.array(way) <= k) for way in (of_images, of_texts) for k in (1, 5, 10)]
        sums.append([*recalls, 100 * sum(recalls)])
    return np.quantile(np.array(sums), [0.025, 0.975], axis=0)


def test_draws_written_out_one_by_one():
    generator = np.random.default_rng(3)
    owner = np.repeat(np.arange(12), generator.integers(1, 6, 12))
    ranks = made_ranks(generator.integers(1, 15, 12), generator.integers(1, 15, len(owner)), owner)
    low, high = written_out(ranks, samples=40, seed=7)
    found = bootstrap_intervals(ranks, samples=40, seed=7)
    assert list(found) == [f"{w}_recall@{k}" for w in ("i2t", "t2i") for k in (1, 5, 10)] + ["rsum"]
    assert np.array(list(found.values())) == pytest.approx(np.stack([low, high], 1))


def test_width_is_that_of_a_share():
    """200 images, half of them found: a share has the standard error sqrt(0.25 / 200) = 0.0354."""
    ranks = made_ranks([1, 50] * 100)
    low, high = bootstrap_intervals(ranks, samples=4000)["i2t_recall@1"]
    assert (high - low) / 2 == pytest.approx(1.96 * 0.0354, rel=0.1)
    assert (high + low) / 2 == pytest.approx(0.5, abs=0.01)


def test_captions_of_an_image_stand_together():
    """Five captions found or lost as one are no five observations: as wide as one caption an image."""
    alone = bootstrap_intervals(made_ranks([1, 50] * 50), samples=2000)["t2i_recall@1"]
    owner = np.repeat(np.arange(100), 5)
    together = made_ranks([1, 50] * 50, np.array([1, 50] * 50)[owner], owner)
    assert bootstrap_intervals(together, samples=2000)["t2i_recall@1"] == pytest.approx(alone)


def test_holds_the_truth_about_as_often_as_said():
    generator, truth, held = np.random.default_rng(0), 0.3, 0
    for _ in range(200):
        ranks = made_ranks(np.where(generator.random(150) < truth, 1, 99))
        low, high = bootstrap_intervals(ranks, samples=200)["i2t_recall@1"]
        held += low <= truth <= high
    assert 180 <= held <= 199  # 190 expected


def test_a_model_does_not_differ_from_itself():
    ranks = made_ranks([1, 3, 7, 50, 1, 2])
    for difference in paired_differences(ranks, ranks, samples=50).values():
        assert difference.difference == difference.low == difference.high == 0
        assert not difference.is_clear


def test_the_same_draws_show_what_separate_intervals_hide():
    """The second model finds what the first finds, and 8 of 100 images more."""
    first = np.where(np.arange(100) < 50, 1, 99)
    second = np.where(np.arange(100) < 58, 1, 99)
    a, b = made_ranks(first), made_ranks(second)
    found = paired_differences(a, b)["i2t_recall@1"]
    assert (found.first, found.second, found.difference) == (0.5, 0.58, pytest.approx(0.08))
    assert found.low > 0.02 and found.high < 0.15 and found.is_clear
    apart = [bootstrap_intervals(ranks)["i2t_recall@1"] for ranks in (a, b)]
    assert apart[0][1] > apart[1][0]


def test_different_data_are_not_compared():
    with pytest.raises(ValueError, match="different images or captions"):
        paired_differences(made_ranks([1, 2]), made_ranks([1, 2, 3]))
