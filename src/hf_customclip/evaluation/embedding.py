"""Images and texts to L2-normalised embeddings, in batches and in eval mode."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import ProcessorMixin

from .retrieval import retrieval_metrics

T = TypeVar("T")


class DualEncoder(Protocol):
    """What evaluation asks of a model: `CustomClipModel`, and transformers' CLIP, SigLIP and their kin."""

    config: Any
    training: bool
    logit_scale: Tensor

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def train(self, mode: bool = True) -> Any: ...
    def get_image_features(self, pixel_values: Tensor) -> Any: ...
    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any: ...


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items, the last one shorter; nothing is read ahead of its batch."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def evaluating(model: DualEncoder) -> Iterator[None]:
    """Eval mode and no graph inside, the mode as it was afterwards."""
    training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def embed_images(model: DualEncoder, processor: ProcessorMixin, images: Sequence[Any]) -> Tensor:
    """One batch of images (PIL, arrays) to L2-normalised float32 embeddings `[len(images), d]`."""
    # Grey and palette pictures are common in classification data; image towers take three channels.
    images = [image.convert("RGB") if hasattr(image, "convert") else image for image in images]
    inputs = processor(images=images, return_tensors="pt").to(model.device)
    with evaluating(model):
        features = model.get_image_features(inputs["pixel_values"].to(model.dtype)).pooler_output
    return F.normalize(features.float(), dim=-1)


def embed_texts(model: DualEncoder, processor: ProcessorMixin, texts: Sequence[str]) -> Tensor:
    """One batch of texts to L2-normalised float32 embeddings `[len(texts), d]`."""
    inputs = processor(text=list(texts), return_tensors="pt").to(model.device)
    with evaluating(model):
        features = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    return F.normalize(features.float(), dim=-1)


def embed_all(
    embed: Callable[[DualEncoder, ProcessorMixin, Sequence[T]], Tensor],
    model: DualEncoder,
    processor: ProcessorMixin,
    items: Sequence[T],
    batch_size: int,
) -> Tensor:
    """`embed` (`embed_images` or `embed_texts`) over many items, with a progress bar on a terminal."""
    with tqdm(total=len(items), desc=embed.__name__, disable=None, leave=False) as bar:
        embeds = []
        for batch in batched(items, batch_size):
            embeds.append(embed(model, processor, batch))
            bar.update(len(batch))
    return torch.cat(embeds)


@dataclass
class EmbeddedDataset:
    """A whole image-text data set in the shared space; ids are positions of the first row with that image."""

    image_embeds: Tensor
    text_embeds: Tensor
    image_ids: Tensor
    text_image_ids: Tensor
    captions: list[str] = field(repr=False)

    def metrics(self) -> dict[str, float]:
        """`retrieval_metrics` of these embeddings."""
        return retrieval_metrics(self.image_embeds, self.text_embeds, self.image_ids, self.text_image_ids)


def embed_dataset(
    model: DualEncoder, processor: ProcessorMixin, dataset: Any, batch_size: int = 64
) -> EmbeddedDataset:
    """Embed a `datasets.Dataset` with the columns `image`, `captions` (list of str) and `image_id`.

    All captions of an image are used, however many it has; rows with an id seen before add their captions.
    """
    rows_of_ids: dict[Any, int] = {}
    row_ids = [rows_of_ids.setdefault(image_id, row) for row, image_id in enumerate(dataset["image_id"])]
    captions_of_rows = list(dataset["captions"])
    captions = [caption for captions in captions_of_rows for caption in captions]
    text_ids = [i for i, captions in zip(row_ids, captions_of_rows, strict=True) for _ in captions]
    unique_rows = list(rows_of_ids.values())
    images = dataset.select(unique_rows)["image"]
    return EmbeddedDataset(
        image_embeds=embed_all(embed_images, model, processor, images, batch_size),
        text_embeds=embed_all(embed_texts, model, processor, captions, batch_size),
        image_ids=torch.tensor(unique_rows, device=model.device),
        text_image_ids=torch.tensor(text_ids, device=model.device),
        captions=captions,
    )
