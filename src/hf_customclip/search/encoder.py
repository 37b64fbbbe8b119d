"""A model with its processor, as search uses them: queries to vectors, and a name for whose vectors they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from ..inference.encode import encode_images, encode_texts
from ..inference.fingerprints import digest_of_json, weights_digest

Image: TypeAlias = Path | PIL.Image.Image
Query: TypeAlias = str | Image | tuple[str, Image]

# What decides the pixels that an image becomes; the rest of a processor's settings differs between versions.
PIXEL_SETTINGS = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
PIXEL_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")


@dataclass(frozen=True)
class ModelName:
    """Whose vectors these are.

    Attributes:
        name: the folder or Hub id that the model was loaded from, for people; "" if it was never saved.
        digest: 32 hexadecimal digits of the weights' bytes and of how images are prepared.
        width: of the vectors.
    """

    name: str
    digest: str
    width: int

    def __str__(self) -> str:
        return f"{self.name or 'a model without a name'} ({self.digest[:8]})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def check_made(self, maker: ModelName, where: str) -> None:
        """Raise ValueError where `maker`, whose vectors lie at `where`, is another model than this."""
        if maker.digest != self.digest:
            raise ValueError(
                f"The vectors in {where} were made by {maker}, not by {self}, and vectors of two models cannot "
                "be compared: load the model that made them, or write to a new place."
            )


class Encoder:
    """Images, words and queries to L2-normalised float32 vectors `[n, d]`.

    Args:
        model: a `CustomClipModel`, or another dual encoder of transformers (CLIP, SigLIP).
        processor: its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    def describe(self) -> ModelName:
        """Name and digest of the model; takes about 0.2 s for each gigabyte of weights."""
        name = getattr(self.model.config, "_name_or_path", "") or ""
        settings = self.processor.image_processor.to_dict()
        parts = {key: settings.get(key) for key in (*PIXEL_SETTINGS, *PIXEL_STEPS)}
        digest = digest_of_json([weights_digest(self.model), parts])
        return ModelName(os.path.abspath(name) if os.path.isdir(name) else name, digest, self.width)

    @cached_property
    def width(self) -> int:
        """Of the shared space; measured, as dual encoders' configurations call it by different names."""
        return len(encode_texts(self.model, self.processor, "width"))

    def encode(self, queries: Sequence[Query]) -> np.ndarray:
        """Queries to vectors: words, an image, or both, which are the normalised sum of their two vectors.

        Raises:
            UnreadableImageError: a query's image cannot be opened.
            TypeError: a query is neither.
        """
        words = [_words_of(query) for query in queries]
        images = [_image_of(query) for query in queries]
        total = torch.zeros(len(queries), self.width)
        for values, encode in ((words, encode_texts), (images, encode_images)):
            rows = [row for row, value in enumerate(values) if value is not None]
            if rows:
                found = encode(self.model, self.processor, [values[row] for row in rows])  # type: ignore[misc]
                total[rows] += found.cpu()
        return F.normalize(total, dim=-1).numpy()


def _words_of(query: Query) -> str | None:
    if isinstance(query, tuple):
        query = _checked_pair(query)[0]
    return query if isinstance(query, str) else None


def _image_of(query: Query) -> Image | None:
    if isinstance(query, tuple):
        query = _checked_pair(query)[1]
    if isinstance(query, str):
        return None
    if not isinstance(query, (Path, PIL.Image.Image)):
        raise TypeError(
            "A query is words (str), an image (pathlib.Path or PIL image) or the two as a tuple (words, "
            f"image), not {type(query).__name__}."
        )
    return query


def _checked_pair(query: tuple[Any, ...]) -> tuple[str, Image]:
    if len(query) != 2 or not isinstance(query[0], str) or isinstance(query[1], (str, tuple)):
        raise TypeError("A query of both is the tuple (words, image): a str, then a Path or PIL image.")
    return query
