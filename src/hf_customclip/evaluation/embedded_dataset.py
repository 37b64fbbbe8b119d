"""A whole image-text data set in the shared space, and its retrieval metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ..data.pairs import CaptionTable, ImageColumn
from ..inference.encode import DualEncoder, encode_images, encode_texts
from .languages import metrics_by_language


@dataclass
class EmbeddedDataset:
    """A whole image-text data set in the shared space.

    Args:
        image_embeds: `[rows, d]`, one for each row of the data set.
        text_embeds: `[captions, d]`, row after row.
        image_ids: `[rows]`, a small integer for each distinct image.
        text_image_ids: `[captions]`, the image that each caption describes.
        languages: of each caption, where the data tell them.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_ids: Tensor
    text_image_ids: Tensor
    languages: list[str] | None = None

    def metrics(self) -> dict[str, float]:
        """`retrieval_metrics` of these embeddings; of several languages, each one's and their mean."""
        sides = self.image_embeds, self.text_embeds, self.image_ids, self.text_image_ids
        return metrics_by_language(*sides, languages=self.languages)


def embed_dataset(
    model: DualEncoder, processor: Any, dataset: Dataset, batch_size: int = 64, num_workers: int = 0
) -> EmbeddedDataset:
    """Embed a `datasets.Dataset` with the columns `image`, `captions` (list of str) and `image_id`.

    All captions of an image are used, however many it has.

    Args:
        num_workers: processes that decode and prepare images beside this one.
    """
    table = CaptionTable(dataset)
    captions = [caption for captions in dataset.with_format(None)["captions"] for caption in captions]
    image_ids = torch.from_numpy(table.image_ids)
    captions_of_rows = torch.from_numpy(np.diff(table.first))
    return EmbeddedDataset(
        image_embeds=encode_images(
            model, processor, ImageColumn(dataset), batch_size=batch_size, num_workers=num_workers
        ),
        text_embeds=encode_texts(model, processor, captions, batch_size=batch_size),
        image_ids=image_ids.to(model.device),
        text_image_ids=image_ids.repeat_interleave(captions_of_rows).to(model.device),
        languages=table.languages,
    )
