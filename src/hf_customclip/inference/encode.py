"""The one encoder: images and texts to embeddings, in batches, in eval mode, decoded by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.images import UnreadableImageError
from ..data.preparation import text_inputs
from .loading import ImageInputs, load_batches

logger = logging.get_logger(__name__)
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


@dataclass(frozen=True)
class EncodedBatch:
    """Some images' embeddings.

    Attributes:
        numbers: which of the images were embedded, ascending.
        embeds: `[len(numbers), d]`, float32, on the model's device.
        unreadable: why the others of this batch have none, by number.
    """

    numbers: list[int]
    embeds: Tensor
    unreadable: dict[int, UnreadableImageError]


def iter_encoded_images(
    model: DualEncoder,
    processor: Any,
    images: Sequence[Any],
    *,
    numbers: Sequence[int] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress_bar: bool = True,
    normalize: bool = True,
) -> Iterator[EncodedBatch]:
    """`encode_images` a batch at a time, for more images than fit in memory; no unreadable image stops it.

    Args:
        images: anything that gives an image, path, bytes or array at `images[number]`.
        numbers: which of them, in this order; all if None. `split_between_processes` of `process_state()`
            shares them out.
    """
    numbers = range(len(images)) if numbers is None else numbers
    loaded = load_batches(
        ImageInputs(processor, images),
        list(batched(numbers, batch_size)),
        device=model.device,
        num_workers=num_workers,
    )
    with _progress_bar("Images", len(numbers), batch_size, show_progress_bar) as bar:
        for batch in loaded:
            found = [batch.numbers[place] for place in batch.readable]
            embeds = torch.empty(0)
            if found:
                embeds = encode_pixels(model, batch.inputs["pixel_values"], normalize=normalize)
            yield EncodedBatch(found, embeds, batch.unreadable)
            bar.update(len(batch.numbers))


def encode_images(
    model: DualEncoder,
    processor: Any,
    images: Any,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress_bar: bool = True,
    normalize: bool = True,
    unreadable: Literal["error", "skip"] = "error",
    convert_to: Literal["tensor", "numpy"] = "tensor",
) -> Any:
    """Images to float32 embeddings `[len(images), d]`, or `[d]` for one image.

    Args:
        images: one or many: paths, PIL images, bytes, `datasets`' undecoded form, or RGB arrays, in any mode.
        num_workers: processes that read, decode and prepare images beside this one.
        show_progress_bar: for more than one batch; quiet when piped.
        normalize: to length 1.
        unreadable: "error", or "skip" to give NaN for images that cannot be decoded, with one warning.
        convert_to: "tensor" on the model's device, or "numpy".

    Raises:
        UnreadableImageError: for an image that cannot be decoded, naming it.
    """
    one = _is_one_image(images)
    many = [images] if one else images
    embeds: Tensor | None = None
    problems: list[UnreadableImageError] = []
    for batch in iter_encoded_images(
        model,
        processor,
        many,
        batch_size=batch_size,
        num_workers=num_workers,
        show_progress_bar=show_progress_bar,
        normalize=normalize,
    ):
        problems += batch.unreadable.values()
        if problems and unreadable == "error":
            raise problems[0]
        if embeds is None and batch.numbers:
            embeds = batch.embeds.new_full((len(many), batch.embeds.shape[1]), torch.nan)
        if embeds is not None and batch.numbers:
            embeds[batch.numbers] = batch.embeds
    if problems:
        names = "; ".join(f"{problem.name} ({problem.reason})" for problem in problems)
        logger.warning(f"{len(problems)} image(s) cannot be read and have no embedding: {names}")
    return _converted(_checked(embeds, "image"), one, convert_to)


def encode_texts(
    model: DualEncoder,
    processor: Any,
    texts: str | Sequence[str],
    *,
    batch_size: int = 64,
    show_progress_bar: bool = True,
    normalize: bool = True,
    convert_to: Literal["tensor", "numpy"] = "tensor",
) -> Any:
    """Texts to float32 embeddings `[len(texts), d]`, or `[d]` for one text; longer ones are cut.

    Equal texts are embedded once: in batches that are padded to different lengths they would differ in their
    last bits, and ties would be broken by luck. Other arguments as in `encode_images`.
    """
    one = isinstance(texts, str)
    many = [texts] if isinstance(texts, str) else list(texts)
    position = {text: number for number, text in enumerate(dict.fromkeys(many))}
    length, parts = max_text_length(model, processor), []
    with _progress_bar("Texts", len(position), batch_size, show_progress_bar) as bar:
        for batch in batched(position, batch_size):
            tokens = text_inputs(processor, batch, length)
            parts.append(encode_tokens(model, **tokens, normalize=normalize))
            bar.update(len(batch))
    embeds = _checked(torch.cat(parts) if parts else None, "text")
    embeds = embeds if len(position) == len(many) else embeds[[position[text] for text in many]]
    return _converted(embeds, one, convert_to)


def encode_pixels(model: DualEncoder, pixel_values: Tensor, *, normalize: bool = True) -> Tensor:
    """Processed pixels `[n, channels, height, width]` to float32 embeddings `[n, d]`."""
    pixels = pixel_values.to(model.device, model.dtype, non_blocking=True)
    with evaluating(model):
        return _embeds(model.get_image_features(pixels), normalize)


def encode_tokens(
    model: DualEncoder, input_ids: Tensor, attention_mask: Tensor, *, normalize: bool = True
) -> Tensor:
    """Tokens `[n, length]` to float32 embeddings `[n, d]`."""
    ids, mask = input_ids.to(model.device), attention_mask.to(model.device)
    with evaluating(model):
        return _embeds(model.get_text_features(ids, mask), normalize)


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


def max_text_length(model: DualEncoder, processor: Any) -> int:
    """Where the model cuts its texts, in tokens; of models that do not say, the tokenizer's limit and theirs."""
    stated = getattr(model.config, "max_text_length", None)
    if stated is not None:
        return int(stated)
    positions = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
    limit = int(processor.tokenizer.model_max_length)
    return limit if positions is None else min(limit, positions)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items, the last one shorter; nothing is read ahead of its batch."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def process_state() -> PartialState:
    """The processes that `accelerate launch` or `torchrun` started, or this one alone."""
    # Without an accelerator, Accelerate joins processes only when told that they are on CPUs.
    return PartialState(cpu=not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))


def _is_one_image(images: Any) -> bool:
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim < 4
    return isinstance(images, (str, bytes, dict, os.PathLike, PIL.Image.Image))


def _embeds(outputs: Any, normalize: bool) -> Tensor:
    # In float32: half precision rounds the norm's epsilon to zero.
    features = outputs.pooler_output.float()
    return F.normalize(features, dim=-1) if normalize else features


def _checked(embeds: Tensor | None, kind: str) -> Tensor:
    if embeds is None:
        raise ValueError(f"There is no {kind} to embed: none was given, or none can be read.")
    return embeds


def _converted(embeds: Tensor, one: bool, convert_to: str) -> Tensor | np.ndarray:
    embeds = embeds[0] if one else embeds
    return embeds.cpu().numpy() if convert_to == "numpy" else embeds


def _progress_bar(name: str, total: int, batch_size: int, show: bool) -> tqdm:
    # `disable=None` is quiet when piped.
    disable = None if show and total > batch_size else True
    return tqdm(total=total, desc=name, disable=disable, leave=False)
