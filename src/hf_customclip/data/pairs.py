"""Image-caption pairs and images with all their captions, read row by row from a `datasets.Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset, Image, IterableDataset

from .part import captions_per_row
from .preparation import open_rgb
from .sampler import ImageBatchSampler, ImageItem, NoDuplicatesBatchSampler
from .shared_captions import GROUP, caption_numbers, number_equal

IMAGES_AT_ONCE = 1024
COLUMNS = ("image", "captions", "image_id")
# Inputs of a batch that are not the model's: a teacher's embeddings of its images and captions, and features and
# embeddings of images without captions, for the teacher's loss alone.
TEACHER = ("teacher_images", "teacher_texts")
UNPAIRED = ("unpaired_features", "teacher_unpaired")


def check_columns(dataset: Dataset) -> None:
    """A ValueError that says which columns are missing and how to get them, or what to do with a stream."""
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "A stream cannot be trained on or measured on as it is: load it with streaming=False, or turn it into "
            "features first (hf-customclip features extract) and train on those."
        )
    missing = [name for name in COLUMNS if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"The dataset lacks the column(s) {', '.join(missing)}; "
            f"it has {', '.join(dataset.column_names)}. "
            "hf_customclip.data.load_image_text_dataset makes one with image, captions and image_id."
        )


class ImageColumn:
    """The images of a data set as `decode_image` takes them, read when asked for, never decoded before."""

    def __init__(self, dataset: Dataset) -> None:
        rows = dataset.with_format(None).select_columns(["image"])
        self.rows = rows.cast_column("image", Image(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows[int(row)]["image"]


class CaptionTable:
    """Where each image's captions stand in the list of all captions, without holding their texts.

    Attributes:
        first: (rows + 1,) the caption number at which each row's begin.
        image_ids: (rows,) a small integer for each distinct `image_id`.
        names: the distinct `image_id`s, which those integers index.
        languages: of each caption, where the column `languages` tells them.
        caption_ids: (captions,) the same integer for equal captions; None where no two images share one.
        group_ids: (rows,) the same integer for images of one group, where the column `group_id` tells them.
    """

    def __init__(self, dataset: Dataset) -> None:
        check_columns(dataset)
        counts = [count or 0 for count in captions_per_row(dataset)]
        self.first = np.cumsum([0, *counts], dtype=np.int64)
        ids = np.asarray(dataset.with_format(None)["image_id"][:])
        told = dataset.with_format(None)["languages"] if "languages" in dataset.column_names else None
        self.languages = None if told is None else [language for row in told for language in row]
        self.names, inverse = np.unique(ids, return_inverse=True)
        self.image_ids = inverse.reshape(-1)
        self.caption_ids = self._shared(caption_numbers(dataset))
        grouped = GROUP in dataset.column_names
        self.group_ids = number_equal(map(str, dataset.with_format(None)[GROUP])) if grouped else None

    def _shared(self, numbers: np.ndarray) -> np.ndarray | None:
        owners = np.repeat(self.image_ids, np.diff(self.first))
        pairs = np.unique(np.stack([numbers, owners], 1), axis=0)
        return numbers if len(pairs) > len(np.unique(numbers)) else None

    def ids_of(self, rows: np.ndarray, captions: np.ndarray) -> dict[str, torch.Tensor]:
        """`group_ids` of rows and `caption_ids` of captions, as the losses take them, where there are any."""
        ids = {"group_ids": (self.group_ids, rows), "caption_ids": (self.caption_ids, captions)}
        return {name: torch.from_numpy(of[chosen]) for name, (of, chosen) in ids.items() if of is not None}

    def __len__(self) -> int:
        return int(self.first[-1])

    def rows_of(self, captions: Sequence[int] | np.ndarray) -> np.ndarray:
        """The row to which each caption number belongs."""
        return np.searchsorted(self.first, captions, side="right") - 1

    def captions_of(self, row: int) -> range:
        """The caption numbers of a row."""
        return range(int(self.first[row]), int(self.first[row + 1]))

    def captions_of_images(self) -> list[list[int]]:
        """The caption numbers of each distinct image, in the dataset's order."""
        images: dict[int, list[int]] = {}
        for row, image in enumerate(self.image_ids.tolist()):
            images.setdefault(image, []).extend(self.captions_of(row))
        return list(images.values())

    def first_captions(self, captions_per_image: int | None) -> np.ndarray:
        """The numbers of each distinct image's first so many captions, or of all."""
        images = self.captions_of_images()
        return np.array([number for numbers in images for number in numbers[:captions_per_image]], np.int64)


class FeatureRows(Protocol):
    """Features by row: a tensor, or cached features that are read when asked for."""

    def __getitem__(self, rows: Any, /) -> torch.Tensor: ...


class CountedRows(FeatureRows, Protocol):
    """The same, of so many rows."""

    def __len__(self) -> int: ...


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """What pairs and retrieval items share: reading rows, or features in place of a tower's input.

    Args:
        table: of the same data set, where it is there already.
        image_features: (rows, width), the vision tower's pooled output, instead of images.
        text_features: (captions, width), the text tower's, instead of captions.
        image_transform: from RGB image to RGB image, such as an augmentation.
    """

    def __init__(
        self,
        dataset: Dataset,
        table: CaptionTable | None = None,
        image_features: FeatureRows | None = None,
        text_features: FeatureRows | None = None,
        image_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.table = CaptionTable(dataset) if table is None else table
        self.images = None if image_features is not None else ImageColumn(dataset)
        plain = dataset.with_format(None)
        self.captions = None if text_features is not None else plain.select_columns(["captions"])
        self.image_features, self.text_features = image_features, text_features
        self.image_transform = image_transform

    @property
    def is_cached(self) -> bool:
        """Whether features stand in for images and captions both, so that there is nothing to load."""
        return self.image_features is not None and self.text_features is not None

    def _example(self, row: int, captions: Sequence[int]) -> dict[str, Any]:
        ids = self.table.ids_of(np.array([row]), np.asarray(captions))
        example: dict[str, Any] = {"image_id": int(self.table.image_ids[row]), **ids}
        if self.images is None:
            assert self.image_features is not None
            example["image_features"] = self.image_features[row]
        else:
            image = open_rgb(self.images[row])
            example["image"] = self.image_transform(image) if self.image_transform else image
        return example | self._texts(row, captions)

    def _texts(self, row: int, captions: Sequence[int]) -> dict[str, Any]:
        if self.captions is None:
            assert self.text_features is not None
            return {"text_features": self.text_features[captions[0] : captions[-1] + 1]}
        texts, begin = self.captions[int(row)]["captions"], self.table.first[row]
        return {"captions": [texts[caption - begin] for caption in captions]}


@dataclass(frozen=True)
class FeatureBatch:
    """Features of some images `[n, width]`, of their captions `[m, width]`, and the image of each caption `[m]`."""

    images: torch.Tensor
    texts: torch.Tensor
    image_of_text: torch.Tensor


class TrainingDataset(_Rows):
    """What training is shown: images each with some of its captions, or pairs of an image and one caption.

    Asked by `ImageBatchSampler`'s items, (view, caption numbers), or by the caption number of a pair.

    Args:
        batch_of: "images" or "pairs", which is what `batch_sampler` deals out.
        image_views: further views' features, as `image_features`, which are view 0. Without any features a view's
            number is ignored.
        teacher: (rows, width) and (captions, width), whose products are a teacher's logits; beside cached features.
        unpaired: features and the teacher's embeddings of images without captions, (images, width) each, of which
            every batch gets as many as it has images.
    """

    def __init__(
        self,
        dataset: Dataset,
        *args: Any,
        batch_of: str = "images",
        image_views: Sequence[FeatureRows] = (),
        teacher: Sequence[FeatureRows] = (),
        unpaired: Sequence[CountedRows] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, *args, **kwargs)
        self.of_images, self.image_views = batch_of == "images", list(image_views)
        self.teacher = dict(zip(TEACHER, teacher, strict=False))
        self.unpaired = dict(zip(UNPAIRED, unpaired, strict=False))

    def __len__(self) -> int:
        return len(self.table.names) if self.of_images else len(self.table)

    def __getitem__(self, item: ImageItem | int) -> dict[str, Any]:
        view, captions = _image_item(item)
        rows = self.table.rows_of(captions)
        example = self._example(int(rows[0]), [captions[0]])
        if view and self.image_features is not None:
            example["image_features"] = self.image_views[view - 1][int(rows[0])]
        # One by one: captions of an image may stand in several rows, and in any order.
        others = [
            self._texts(int(row), [caption]) for row, caption in zip(rows[1:], captions[1:], strict=True)
        ]
        for other in others:
            for name, texts in other.items():
                both = [example[name], texts]
                example[name] = torch.cat(both) if name == "text_features" else both[0] + both[1]
        example |= self.table.ids_of(rows[:1], np.asarray(captions))
        if self.of_images:
            example["text_image_ids"] = [example["image_id"]] * len(captions)
        return example

    def __getitems__(
        self, items: Sequence[ImageItem | int]
    ) -> list[dict[str, Any]] | dict[str, torch.Tensor]:
        """The examples, or of cached features the whole batch at once, which an epoch's speed rests on."""
        if not self.is_cached:
            return [self[item] for item in items]
        return self._cached_batch(items) | self._draw_unpaired(items)

    def _draw_unpaired(self, items: Sequence[ImageItem | int]) -> dict[str, torch.Tensor]:
        """Drawn by the batch's own numbers, so that a resumed run draws the same."""
        if not self.unpaired:
            return {}
        generator = np.random.default_rng([number for item in items for number in _image_item(item)[1]])
        count = len(self.unpaired[UNPAIRED[0]])
        rows = generator.choice(count, min(len(items), count), replace=False)
        return {name: embeds[rows] for name, embeds in self.unpaired.items()}

    def _cached_batch(self, items: Sequence[ImageItem | int]) -> dict[str, torch.Tensor]:
        assert self.image_features is not None and self.text_features is not None
        views, captions_of = zip(*map(_image_item, items), strict=True)
        captions = np.fromiter(chain.from_iterable(captions_of), np.int64)
        rows = self.table.rows_of([numbers[0] for numbers in captions_of])
        ids = torch.from_numpy(self.table.image_ids[rows])
        batch = {
            "image_ids": ids,
            "image_features": self._images_in_views(self.image_features, rows, np.array(views)),
            "text_features": self.text_features[captions],
            **self.table.ids_of(rows, captions),
        }
        for (name, embeds), chosen in zip(self.teacher.items(), (rows, captions), strict=False):
            batch[name] = embeds[chosen]
        if self.of_images:
            batch["text_image_ids"] = ids.repeat_interleave(torch.tensor(list(map(len, captions_of))))
        return batch

    def draw_pairs(
        self, size: int, generator: np.random.Generator, captions_per_image: int | None
    ) -> dict[str, torch.Tensor]:
        """The batch of at most `size` random images with a random one of their first so many captions each."""
        captions = [numbers[:captions_per_image] for numbers in self.table.captions_of_images() if numbers]
        chosen = np.sort(generator.permutation(len(captions))[:size])
        return self._cached_batch([(0, (int(generator.choice(captions[i])),)) for i in chosen])

    def _images_in_views(self, features: FeatureRows, rows: np.ndarray, views: np.ndarray) -> torch.Tensor:
        images = features[rows]
        for view, others in enumerate(self.image_views, start=1):
            if len(chosen := np.flatnonzero(views == view)):
                images[torch.from_numpy(chosen)] = others[rows[chosen]].to(images.device)
        return images

    def batch_sampler(self, batch_size: int, **options: Any) -> ImageBatchSampler | NoDuplicatesBatchSampler:
        """Batches of images or duplicate-free batches of pairs; options as those of their samplers."""
        images = self.table.captions_of_images()
        options["languages"] = self.table.languages
        if not self.of_images:
            return NoDuplicatesBatchSampler(images, batch_size, **options)
        return ImageBatchSampler(images, batch_size, num_views=1 + len(self.image_views), **options)

    def feature_batches(self, captions_per_image: int | None) -> Iterator[FeatureBatch]:
        """The cached features of images and of their first so many captions, in order."""
        captions = (of_image[:captions_per_image] for of_image in self.table.captions_of_images())
        items: list[ImageItem] = [(0, tuple(of_image)) for of_image in captions if of_image]
        for first in range(0, len(items), IMAGES_AT_ONCE):
            chosen = items[first : first + IMAGES_AT_ONCE]
            batch = self._cached_batch(chosen)
            counts = torch.tensor([len(numbers) for _, numbers in chosen])
            owners = torch.arange(len(chosen)).repeat_interleave(counts)
            yield FeatureBatch(batch["image_features"], batch["text_features"], owners)


def _image_item(item: ImageItem | int) -> ImageItem:
    return item if isinstance(item, tuple) else (0, (int(item),))


class RetrievalDataset(_Rows):
    """One example for every row: the image with all its captions."""

    def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self.dataset = dataset  # its images are drawn where features stand in for them

    def __len__(self) -> int:
        return len(self.table.first) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        captions = self.table.captions_of(row)
        if not captions:
            raise ValueError(f"Row {row} of the dataset has no caption; leave such rows out.")
        return self._example(row, captions)
