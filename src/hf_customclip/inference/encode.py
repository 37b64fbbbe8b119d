"""Images and texts to L2-normalised embeddings, in batches and in eval mode."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import ProcessorMixin

from ..data.images import decode_image, to_rgb
from ..data.pairs import CaptionTable
from ..evaluation.retrieval import retrieval_metrics

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
    def modules(self) -> Iterator[torch.nn.Module]: ...
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
    # Only where needed: to set it takes as long as a text does, module by module.
    training = any(module.training for module in model.modules())
    if training:
        was = model.training
        model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train(was)


def embed_images(model: DualEncoder, processor: ProcessorMixin, images: Sequence[Any]) -> Tensor:
    """One batch of images to L2-normalised float32 embeddings `[len(images), d]`.

    Args:
        images: images, paths, bytes or `datasets`' undecoded form, in any colour mode; or RGB arrays.

    Raises:
        UnreadableImageError: for an image that cannot be decoded, naming it.
    """
    return embed_pixels(model, _pixels(processor, images))


def embed_texts(model: DualEncoder, processor: ProcessorMixin, texts: Sequence[str]) -> Tensor:
    """One batch of texts to L2-normalised float32 embeddings `[len(texts), d]`."""
    length = max_text_length(model, processor)
    tokens = processor(
        text=list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
    )
    return embed_tokens(model, tokens["input_ids"], tokens["attention_mask"])


def embed_pixels(model: DualEncoder, pixel_values: Tensor) -> Tensor:
    """Processed pixels `[n, channels, height, width]` to L2-normalised float32 embeddings `[n, d]`."""
    with evaluating(model):
        return _unit(model.get_image_features(pixel_values.to(model.device, model.dtype)).pooler_output)


def embed_tokens(model: DualEncoder, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Tokens `[n, length]` to L2-normalised float32 embeddings `[n, d]`."""
    ids, mask = input_ids.to(model.device), attention_mask.to(model.device)
    with evaluating(model):
        return _unit(model.get_text_features(ids, mask).pooler_output)


def max_text_length(model: DualEncoder, processor: Any) -> int:
    """Where the model cuts its texts, in tokens; the tokenizer's own limit for models that do not say."""
    return getattr(model.config, "max_text_length", processor.tokenizer.model_max_length)


def _unit(features: Tensor) -> Tensor:
    # In float32: half precision rounds the norm's epsilon to zero.
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
    """A whole image-text data set in the shared space.

    Args:
        image_embeds: `[rows, d]`, one for each row of the data set.
        text_embeds: `[captions, d]`, row after row.
        image_ids: `[rows]`, a small integer for each distinct image.
        text_image_ids: `[captions]`, the image that each caption describes.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_ids: Tensor
    text_image_ids: Tensor

    def metrics(self) -> dict[str, float]:
        """`retrieval_metrics` of these embeddings."""
        return retrieval_metrics(self.image_embeds, self.text_embeds, self.image_ids, self.text_image_ids)


def embed_dataset(
    model: DualEncoder, processor: Any, dataset: Dataset, batch_size: int = 64, num_workers: int = 0
) -> EmbeddedDataset:
    """Embed a `datasets.Dataset` with the columns `image`, `captions` (list of str) and `image_id`.

    All captions of an image are used, however many it has. Equal captions are embedded once: in batches that
    are padded to different lengths they would differ in their last bits, and ties would be broken by luck.

    Args:
        num_workers: processes that decode and prepare images beside this one.
    """
    table = CaptionTable(dataset)
    captions = [caption for captions in dataset.with_format(None)["captions"] for caption in captions]
    position = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    text_embeds = embed_all(embed_texts, model, processor, list(position), batch_size)
    image_ids = torch.from_numpy(table.image_ids)
    captions_of_rows = torch.from_numpy(np.diff(table.first))
    return EmbeddedDataset(
        image_embeds=_embed_image_column(model, processor, dataset, batch_size, num_workers),
        text_embeds=text_embeds[[position[caption] for caption in captions]],
        image_ids=image_ids.to(model.device),
        text_image_ids=image_ids.repeat_interleave(captions_of_rows).to(model.device),
    )


def _embed_image_column(
    model: DualEncoder, processor: Any, dataset: Dataset, batch_size: int, num_workers: int
) -> Tensor:
    # Undecoded, so that an image which cannot be read is named.
    rows = dataset.with_format(None).select_columns(["image"]).cast_column("image", Image(decode=False))
    collate = partial(_pixels_of_rows, processor)
    loader = DataLoader(rows, batch_size, collate_fn=collate, num_workers=num_workers)  # type: ignore[arg-type]
    batches = tqdm(loader, desc="embed_images", disable=None, leave=False)
    return torch.cat([embed_pixels(model, pixels) for pixels in batches])


def _pixels_of_rows(processor: Any, rows: Sequence[dict[str, Any]]) -> Tensor:
    return _pixels(processor, [row["image"] for row in rows])


def _pixels(processor: Any, images: Sequence[Any]) -> Tensor:
    opened = [
        image if isinstance(image, (np.ndarray, Tensor)) else to_rgb(decode_image(image)) for image in images
    ]
    return processor(images=opened, return_tensors="pt")["pixel_values"]
