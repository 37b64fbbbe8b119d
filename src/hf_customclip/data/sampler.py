"""Batches in which no image stands twice, so that no caption is its own image's negative.

Of pairs, or of images each with all its chosen captions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

ImageItem = tuple[int, tuple[int, ...]]
"""The number of a view of an image, and the numbers of its captions."""
Item = TypeVar("Item", ImageItem, int)


class _BatchSampler(torch.utils.data.Sampler[list[Item]]):
    """What the samplers of images and of pairs share.

    Args:
        captions_of_images: for every image the numbers of its captions; images without any are left out.
        batch_size: images or pairs in a batch of one process, at most.
        captions_per_image: how many captions of an image an epoch shows; None for all.
        caption_sampling: "first" ones always the same, "random" ones anew each epoch (each language by its share of
            the captions), or random ones "by_language": each of an image's languages once before any comes twice.
        languages: of every caption number, for "by_language".
        drop_last: batches of exactly `batch_size`; a random rest is left out of each epoch.
        seed: with the epoch's number it fixes order, captions and views.
        process_index, num_processes: whose share this is.

    Raises:
        ValueError: a number below 1, too few to fill a batch with on every process, or no languages to draw by.
    """

    num_batches: int

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
    ) -> None:
        if batch_size < 1 or (captions_per_image is not None and captions_per_image < 1):
            raise ValueError(
                f"batch_size={batch_size}, captions_per_image={captions_per_image}: at least 1 is needed"
            )
        if caption_sampling == "by_language" and languages is None:
            raise ValueError(
                "caption_sampling='by_language' needs captions that tell their language, and these tell none; "
                "'random' draws from all of an image's captions alike."
            )
        self.captions_of_images = [np.asarray(captions) for captions in captions_of_images if len(captions)]
        self.captions_per_image, self.caption_sampling = captions_per_image, caption_sampling
        self.languages: Sequence[str | None] = languages or ()
        self.batch_size, self.whole, self.drop_last = batch_size, batch_size * num_processes, drop_last
        self.process_index, self.num_processes = process_index, num_processes
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is iterated next."""
        self.epoch = epoch

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])

    def _filled(self, count: int, what: str) -> int:
        """In how many batches so many images or pairs go."""
        if count < self.num_processes:
            raise ValueError(f"{count} {what} are too few for {self.num_processes} process(es)")
        return count // self.whole if self.drop_last else math.ceil(count / self.whole)

    def _count(self, captions: np.ndarray) -> int:
        return len(captions[: self.captions_per_image])

    def _chosen(self, image: int, generator: np.random.Generator) -> list[int]:
        """The captions of an image that this epoch shows."""
        captions = self.captions_of_images[image]
        count = self._count(captions)
        if self.caption_sampling == "random":
            chosen = generator.choice(captions, count, replace=False)
        elif self.caption_sampling == "by_language":
            chosen = _languages_in_turn(captions, self.languages, generator)[:count]
        else:
            chosen = generator.permutation(captions[:count])
        return chosen.tolist()


class ImageBatchSampler(_BatchSampler[ImageItem]):
    """Shows each image once an epoch with all its chosen captions, in batches of nearly equal size.

    Each process gets its share of every batch.

    Args:
        num_views: each image is shown in a view drawn from so many.
        choice, more: what both samplers take.
    """

    def __init__(self, *choice: Any, num_views: int = 1, **more: Any) -> None:
        super().__init__(*choice, **more)
        count = len(self.captions_of_images)
        self.num_views = num_views
        self.num_batches = max(1, self._filled(count, "images with captions"))
        self.num_images = min(count, self.num_batches * self.whole) if self.drop_last else count

    def __iter__(self) -> Iterator[list[ImageItem]]:
        generator = self._generator()
        order = generator.permutation(len(self.captions_of_images))[: self.num_images]
        for batch in np.array_split(order, self.num_batches):
            # Drawn for the whole batch, so that it is the same however many processes share it.
            items = [self._item(image, generator) for image in batch]
            yield items[self.process_index :: self.num_processes]

    def _item(self, image: int, generator: np.random.Generator) -> ImageItem:
        captions = tuple(self._chosen(image, generator))
        return int(generator.integers(self.num_views)), captions


class NoDuplicatesBatchSampler(_BatchSampler[int]):
    """Shows each chosen caption once an epoch, in batches of nearly equal size that hold no image twice.

    The batch over all processes is duplicate-free, and each process gets its share of every one of them. An epoch
    has as many batches as pairs fill, but at least as many as one image has captions.

    Args:
        num_batches: in how many batches, where another count is wanted than that above.
        choice, more: what both samplers take.
    """

    def __init__(self, *choice: Any, num_batches: int | None = None, **more: Any) -> None:
        super().__init__(*choice, **more)
        counts = [self._count(captions) for captions in self.captions_of_images]
        filled = self._filled(sum(counts), "image-caption pairs")
        self.num_batches = num_batches or max(filled, max(counts))
        self.num_pairs = min(sum(counts), self.num_batches * self.whole)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches(self._generator()):
            share = batch[self.process_index :: self.num_processes]
            yield share[: self.batch_size] if self.drop_last else share

    def _batches(self, generator: np.random.Generator) -> list[list[int]]:
        """Deal every image's captions to different batches, always to the emptiest ones."""
        batches: list[list[int]] = [[] for _ in range(self.num_batches)]
        emptiest: list[int] = []  # batches that this round of dealing has not reached yet, in random order
        for image in generator.permutation(len(self.captions_of_images)):
            dealt: set[int] = set()
            for caption in self._chosen(image, generator):
                free = next((place for place, batch in enumerate(emptiest) if batch not in dealt), None)
                if free is None:
                    emptiest += generator.permutation(self.num_batches).tolist()
                    free = next(place for place, batch in enumerate(emptiest) if batch not in dealt)
                batch = emptiest.pop(free)
                dealt.add(batch)
                batches[batch].append(caption)
        return batches


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
