"""Batches in which no image stands twice, so that no caption is its own image's negative.

Of pairs, or of images each with all its chosen captions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

ImageItem = tuple[int, tuple[int, ...]]
"""The number of a view of an image, and the numbers of its captions."""


class ImageBatchSampler(torch.utils.data.Sampler[list[ImageItem]]):
    """Shows each image once an epoch with all its chosen captions, in batches of nearly equal size.

    Each process gets its share of every batch.

    Args:
        captions_of_images: for every image the numbers of its captions; images without any are left out.
        batch_size: images in a batch of one process, at most.
        captions_per_image: how many captions of an image an epoch shows; None for all.
        caption_sampling: "first" ones always the same, "random" ones anew each epoch (each language by its share of
            the captions), or random ones "by_language": each of an image's languages once before any comes twice.
        languages: of every caption number, for "by_language".
        num_views: each image is shown in a view drawn from so many.
        drop_last: batches of exactly `batch_size`; a random rest of the images is left out of each epoch.
        seed: with the epoch's number it fixes order, captions and views.
        process_index, num_processes: whose share this is.

    Raises:
        ValueError: a number below 1, no images to fill a batch with on every process, or no languages to draw by.
    """

    def __init__(
        self,
        captions_of_images: Sequence[Sequence[int]],
        batch_size: int,
        *,
        captions_per_image: int | None = None,
        caption_sampling: str = "first",
        languages: Sequence[str | None] | None = None,
        num_views: int = 1,
        drop_last: bool = False,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        _check_sizes(batch_size, captions_per_image)
        self.languages = _checked_languages(caption_sampling, languages)
        self.captions_of_images = [np.asarray(captions) for captions in captions_of_images if len(captions)]
        self.captions_per_image, self.caption_sampling = captions_per_image, caption_sampling
        self.num_views, self.seed, self.epoch = num_views, seed, 0
        self.process_index, self.num_processes = process_index, num_processes
        count, whole = len(self.captions_of_images), batch_size * num_processes
        if count < num_processes:
            raise ValueError(f"{count} images with captions are too few for {num_processes} process(es)")
        self.num_batches = max(1, count // whole if drop_last else math.ceil(count / whole))
        self.num_images = min(count, self.num_batches * whole) if drop_last else count

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is iterated next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[ImageItem]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.captions_of_images))[: self.num_images]
        for batch in np.array_split(order, self.num_batches):
            # Drawn for the whole batch, so that it is the same however many processes share it.
            items = [self._item(image, generator) for image in batch]
            yield items[self.process_index :: self.num_processes]

    def _item(self, image: int, generator: np.random.Generator) -> ImageItem:
        captions = self.captions_of_images[image]
        chosen = _chosen(captions, self.captions_per_image, self.caption_sampling, self.languages, generator)
        return int(generator.integers(self.num_views)), tuple(chosen.tolist())


class NoDuplicatesBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Shows each chosen caption once an epoch, in batches of nearly equal size that hold no image twice.

    The batch over all processes is duplicate-free, and each process gets its share of every one of them. An epoch
    has as many batches as pairs fill, but at least as many as one image has captions.

    Args:
        captions_of_images: for every image the numbers of its captions.
        batch_size: pairs in a batch of one process, at most.
        captions_per_image: how many captions of an image an epoch shows; None for all.
        caption_sampling: "first" ones always the same, "random" ones anew each epoch (each language by its share of
            the captions), or random ones "by_language": each of an image's languages once before any comes twice.
        languages: of every caption number, for "by_language".
        drop_last: batches of exactly `batch_size`; a random rest of the pairs is left out of each epoch.
        seed: with the epoch's number it fixes the order.
        process_index, num_processes: whose share this is.
        num_batches: in how many batches, where another count is wanted than that above.

    Raises:
        ValueError: a number below 1, no pairs to fill a batch with on every process, or no languages to draw by.
    """

    def __init__(
        self,
        captions_of_images: Sequence[Sequence[int]],
        batch_size: int,
        *,
        captions_per_image: int | None = None,
        caption_sampling: str = "first",
        languages: Sequence[str | None] | None = None,
        drop_last: bool = False,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        num_batches: int | None = None,
    ) -> None:
        _check_sizes(batch_size, captions_per_image)
        self.languages = _checked_languages(caption_sampling, languages)
        self.captions_of_images = [np.asarray(captions) for captions in captions_of_images if len(captions)]
        self.batch_size, self.captions_per_image, self.caption_sampling = (
            batch_size,
            captions_per_image,
            caption_sampling,
        )
        self.drop_last, self.seed, self.epoch = drop_last, seed, 0
        self.process_index, self.num_processes = process_index, num_processes

        chosen = [_count(captions, captions_per_image) for captions in self.captions_of_images]
        total, whole = sum(chosen), batch_size * num_processes
        if total < num_processes:
            raise ValueError(f"{total} image-caption pairs are too few for {num_processes} process(es)")
        filled = total // whole if drop_last else math.ceil(total / whole)
        self.num_batches = num_batches or max(filled, max(chosen))
        self.num_pairs = min(total, self.num_batches * whole)

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is iterated next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        for batch in self._batches(generator):
            share = batch[self.process_index :: self.num_processes]
            yield share[: self.batch_size] if self.drop_last else share

    def _batches(self, generator: np.random.Generator) -> list[list[int]]:
        """Deal every image's captions to different batches, always to the emptiest ones."""
        batches: list[list[int]] = [[] for _ in range(self.num_batches)]
        emptiest: list[int] = []  # batches that this round of dealing has not reached yet, in random order
        for image in generator.permutation(len(self.captions_of_images)):
            dealt: set[int] = set()
            captions = self.captions_of_images[image]
            for caption in _chosen(
                captions, self.captions_per_image, self.caption_sampling, self.languages, generator
            ):
                free = next((place for place, batch in enumerate(emptiest) if batch not in dealt), None)
                if free is None:
                    emptiest += generator.permutation(self.num_batches).tolist()
                    free = next(place for place, batch in enumerate(emptiest) if batch not in dealt)
                batch = emptiest.pop(free)
                dealt.add(batch)
                batches[batch].append(int(caption))
        return batches


def _check_sizes(batch_size: int, captions_per_image: int | None) -> None:
    if batch_size < 1 or (captions_per_image is not None and captions_per_image < 1):
        raise ValueError(
            f"batch_size={batch_size}, captions_per_image={captions_per_image}: at least 1 is needed"
        )


def _count(captions: np.ndarray, captions_per_image: int | None) -> int:
    return len(captions) if captions_per_image is None else min(len(captions), captions_per_image)


def _checked_languages(caption_sampling: str, languages: Sequence[str | None] | None) -> Sequence[str | None]:
    if caption_sampling == "by_language" and languages is None:
        raise ValueError(
            "caption_sampling='by_language' needs captions that tell their language, and these tell none; "
            "'random' draws from all of an image's captions alike."
        )
    return languages or ()


def _chosen(
    captions: np.ndarray,
    captions_per_image: int | None,
    sampling: str,
    languages: Sequence[str | None],
    generator: np.random.Generator,
) -> np.ndarray:
    count = _count(captions, captions_per_image)
    if sampling == "random":
        return generator.choice(captions, count, replace=False)
    if sampling == "by_language":
        return _languages_in_turn(captions, languages, generator)[:count]
    return generator.permutation(captions[:count])


def _languages_in_turn(
    captions: np.ndarray, languages: Sequence[str | None], generator: np.random.Generator
) -> np.ndarray:
    """An image's captions in random order, but the n-th of each language before the n+1st of any."""
    drawn = generator.permutation(captions)
    place: dict[str | None, float] = {}
    turns: Counter[str | None] = Counter()
    keys = []
    for language in (languages[caption] for caption in drawn):
        keys.append((turns[language], place.setdefault(language, generator.random())))
        turns[language] += 1
    return drawn[sorted(range(len(drawn)), key=keys.__getitem__)]
