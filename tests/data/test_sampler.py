"""Pins: batches never hold an image twice, over all processes; an epoch shows each chosen caption once;
batches are nearly equal in size, so there is no short last one; seed and epoch alone fix the order; captions are
drawn by the languages' share of them or, by language, each language as often as the others."""

import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_customclip.data.sampler import ImageBatchSampler, NoDuplicatesBatchSampler

IMAGES = st.lists(st.integers(0, 6), min_size=1, max_size=60).filter(any)


def numbered(counts):
    """Caption numbers of images with so many captions each."""
    ends = np.cumsum(counts)
    return [list(range(end - count, end)) for end, count in zip(ends, counts, strict=True)]


@given(IMAGES, st.integers(1, 20), st.integers(1, 3), st.sampled_from([None, 1, 2]), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_batches_are_duplicate_free_even_and_whole(counts, batch_size, processes, captions_per_image, epoch):
    images = numbered(counts)
    image_of = {caption: i for i, captions in enumerate(images) for caption in captions}
    chosen = [caption for captions in images for caption in captions[:captions_per_image]]
    if len(chosen) < processes:
        with pytest.raises(ValueError, match="too few"):
            NoDuplicatesBatchSampler(
                images, batch_size, captions_per_image=captions_per_image, num_processes=processes
            )
        return
    shares = []
    for rank in range(processes):
        sampler = NoDuplicatesBatchSampler(
            images,
            batch_size,
            captions_per_image=captions_per_image,
            process_index=rank,
            num_processes=processes,
        )
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    batches = [list(chain(*step)) for step in zip(*shares, strict=True)]
    assert sorted(chain(*batches)) == sorted(chosen)
    for batch in batches:
        assert len({image_of[caption] for caption in batch}) == len(batch)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(len(batch) for share in shares for batch in share) <= batch_size
    most = max(len(captions[:captions_per_image]) for captions in images)
    assert len(batches) == max(math.ceil(len(chosen) / (batch_size * processes)), most)


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = NoDuplicatesBatchSampler(numbered([2] * 30), 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_two_captions_of_an_image_meet_different_images():
    """Dealing in a fixed pattern would put the same images side by side twice an epoch."""
    sampler = NoDuplicatesBatchSampler(numbered([2] * 256), 64)
    partners = [set() for _ in range(256)]
    repeated = 0
    for batch in sampler:
        images = [caption // 2 for caption in batch]
        for image in images:
            others = set(images) - {image}
            repeated += len(partners[image] & others)
            partners[image] |= others
    # 256 images with 63 partners each time: 256 * 63 * 63 / 255 = 3,985 meet twice by chance.
    assert repeated < 2 * 3985


def test_first_captions_are_always_the_same_and_random_ones_are_not():
    images = numbered([5] * 40)

    def shown(sampling, epoch):
        sampler = NoDuplicatesBatchSampler(images, 16, captions_per_image=2, caption_sampling=sampling)
        sampler.set_epoch(epoch)
        return sorted(chain(*sampler))

    assert shown("first", 0) == shown("first", 7) == [c for captions in images for c in captions[:2]]
    assert shown("random", 0) != shown("random", 1)
    assert shown("random", 3) == shown("random", 3)
    assert all(sum(c // 5 == image for c in shown("random", 0)) == 2 for image in range(40))


def test_drop_last_gives_whole_batches_on_every_process():
    for rank in range(2):
        sampler = NoDuplicatesBatchSampler(
            numbered([2] * 50), 16, drop_last=True, process_index=rank, num_processes=2
        )
        assert [len(batch) for batch in sampler] == [16, 16, 16]
        assert sampler.num_pairs == 96


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        NoDuplicatesBatchSampler([[0]], 0)
    with pytest.raises(ValueError, match="at least 1"):
        NoDuplicatesBatchSampler([[0]], 1, captions_per_image=0)


@pytest.mark.parametrize("kind", [ImageBatchSampler, NoDuplicatesBatchSampler])
def test_languages_by_share_or_evenly(kind):
    """Six captions an image: four English, one German, one Chinese; three are drawn."""
    images, languages = numbered([6] * 200), ["en", "en", "de", "en", "zh", "en"] * 200

    def drawn(per_image, sampling):
        options = {"captions_per_image": per_image, "caption_sampling": sampling, "languages": languages}
        shown = [
            caption
            for batch in kind(images, 16, **options)
            for item in batch
            for caption in (item[1] if kind is ImageBatchSampler else [item])
        ]
        assert len(shown) == len(set(shown)) == 200 * per_image
        return [sum(languages[caption] == name for caption in shown) for name in ("en", "de", "zh")]

    assert drawn(3, "by_language") == [200, 200, 200]
    assert drawn(5, "by_language") == [600, 200, 200]
    # Binomial: 200 x 1/3 with a standard deviation of 6.7; by share 133 and 6.7.
    assert drawn(1, "by_language") == pytest.approx([67, 67, 67], abs=27)
    assert drawn(1, "random") == pytest.approx([133, 33, 33], abs=27)


def test_drawing_by_language_needs_languages():
    with pytest.raises(ValueError, match="tell none"):
        NoDuplicatesBatchSampler([[0, 1]], 2, captions_per_image=1, caption_sampling="by_language")
