"""Image-caption pairs and images with all their captions, read row by row from a `datasets.Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Image, IterableDataset

from .preparation import open_rgb
from .sampler import NoDuplicatesBatchSampler

FEATURES_AT_ONCE = 8192
COLUMNS = ("image", "captions", "image_id")


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
    """

    def __init__(self, dataset: Dataset) -> None:
        check_columns(dataset)
        counts = [
            pc.list_value_length(batch["captions"]).to_numpy(zero_copy_only=False)
            for batch in dataset.select_columns(["captions"]).with_format("arrow").iter(10_000)
        ]
        counts_of_rows = np.concatenate([np.zeros(0, dtype=np.int64), *counts])
        self.first = np.concatenate([[0], np.cumsum(np.nan_to_num(counts_of_rows))]).astype(np.int64)
        ids = np.asarray(dataset.with_format(None)["image_id"][:])
        told = dataset.with_format(None)["languages"] if "languages" in dataset.column_names else None
        self.languages = None if told is None else [language for row in told for language in row]
        self.names, inverse = np.unique(ids, return_inverse=True)
        self.image_ids = inverse.reshape(-1)

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
        example: dict[str, Any] = {"image_id": int(self.table.image_ids[row])}
        if self.images is None:
            assert self.image_features is not None
            example["image_features"] = self.image_features[row]
        else:
            image = open_rgb(self.images[row])
            example["image"] = self.image_transform(image) if self.image_transform else image
        if self.captions is None:
            assert self.text_features is not None
            example["text_features"] = self.text_features[captions[0] : captions[-1] + 1]
        else:
            texts, begin = self.captions[int(row)]["captions"], self.table.first[row]
            example["captions"] = [texts[caption - begin] for caption in captions]
        return example


class PairDataset(_Rows):
    """One example for every caption: the caption, its image and a number that tells images apart."""

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, caption: int) -> dict[str, Any]:
        return self._example(int(self.table.rows_of([caption])[0]), [int(caption)])

    def __getitems__(self, captions: list[int]) -> list[dict[str, Any]] | dict[str, torch.Tensor]:
        """The examples, or of cached features the whole batch at once, which an epoch's speed rests on."""
        if self.image_features is None or self.text_features is None:
            return [self[caption] for caption in captions]
        numbers = np.asarray(captions)
        rows = self.table.rows_of(numbers)
        return {
            "image_ids": torch.from_numpy(self.table.image_ids[rows]),
            "image_features": self.image_features[rows],
            "text_features": self.text_features[numbers],
        }

    def batch_sampler(self, batch_size: int, **options: Any) -> NoDuplicatesBatchSampler:
        """Duplicate-free batches; options as those of `NoDuplicatesBatchSampler`."""
        return NoDuplicatesBatchSampler(self.table.captions_of_images(), batch_size, **options)

    def feature_batches(self, captions_per_image: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Image and text features, row by row a pair, of the first so many captions of every image."""
        captions = self.table.first_captions(captions_per_image).tolist()
        for first in range(0, len(captions), FEATURES_AT_ONCE):
            batch = self.__getitems__(captions[first : first + FEATURES_AT_ONCE])
            assert isinstance(batch, dict), "features of both towers are not cached"
            yield batch["image_features"], batch["text_features"]


class RetrievalDataset(_Rows):
    """One example for every row: the image with all its captions."""

    def __len__(self) -> int:
        return len(self.table.first) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        captions = self.table.captions_of(row)
        if not captions:
            raise ValueError(f"Row {row} of the dataset has no caption; leave such rows out.")
        return self._example(row, captions)
