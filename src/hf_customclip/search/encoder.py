"""A model with its processor, as search uses them: queries to vectors, and a name for whose vectors they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import PIL.Image

from .table import Location, ModelName

if TYPE_CHECKING:
    from ..inference.hubness import HubnessBank

Image: TypeAlias = Path | PIL.Image.Image
Query: TypeAlias = str | Image | tuple[str, Image]

# What decides the pixels that an image becomes; the rest of a processor's settings differs between versions.
PIXEL_SETTINGS = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
PIXEL_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")


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
        from .._digests import digest_of_json
        from ..inference.fingerprints import weights_digest

        name = getattr(self.model.config, "_name_or_path", "") or ""
        settings = self.processor.image_processor.to_dict()
        parts = {key: settings.get(key) for key in (*PIXEL_SETTINGS, *PIXEL_STEPS)}
        digest = digest_of_json([weights_digest(self.model), parts])
        return ModelName(os.path.abspath(name) if os.path.isdir(name) else name, digest, self.width)

    @cached_property
    def bank(self) -> HubnessBank | None:
        """Training embeddings saved with the model, by which images that are near to everything are told."""
        from ..inference.hubness import HubnessBank

        name = getattr(self.model.config, "_name_or_path", "")
        return HubnessBank.load(name) if name else None

    def training_captions(self) -> np.ndarray | None:
        """Vectors of captions that the model was trained on, which are like what will be asked; None without a bank."""
        from ..inference.hubness import cut_bank

        return None if self.bank is None else cut_bank(self.bank.text_embeds, self.width).cpu().numpy()

    def with_bias(self, vectors: np.ndarray) -> np.ndarray:
        """Images' vectors `[n, d]` to `[n, d + 1]`: the bias as one more component.

        Raises:
            ValueError: the model has no bank (any more).
        """
        import torch

        from ..inference.hubness import append_bias

        if self.bank is None:
            raise ValueError(
                f"The index was made with a hubness bank, which {self.model.config._name_or_path!r} has not: "
                "load the model from the folder that holds it."
            )
        images = torch.from_numpy(vectors)
        return append_bias(images, self.bank.image_bias(images)).numpy()

    @cached_property
    def width(self) -> int:
        """Of the shared space; measured, as dual encoders' configurations call it by different names."""
        return self.texts(["width"]).shape[1]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Words to vectors."""
        from ..inference import encode_texts

        return encode_texts(self.model, self.processor, list(texts), convert_to="numpy")

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """Images to vectors.

        Raises:
            UnreadableImageError: one cannot be opened.
        """
        from ..inference import encode_images

        return encode_images(self.model, self.processor, list(images), convert_to="numpy")


def split_query(query: Query) -> tuple[str | None, Image | None]:
    """The words and the image of a query.

    Raises:
        TypeError: it is neither words, an image, nor the two as a tuple.
    """
    words, image = query if isinstance(query, tuple) and len(query) == 2 else (query, None)
    if image is None and isinstance(words, (Path, PIL.Image.Image)):
        return None, words
    if isinstance(words, str) and (image is None or isinstance(image, (Path, PIL.Image.Image))):
        return words, image
    raise TypeError(
        "A query is words (str), an image (pathlib.Path or PIL image) or the two as a tuple (words, "
        f"image), not {query!r}."
    )


def load_encoder(made_by: ModelName, where: Location) -> Encoder:
    """The model that made the index `where`, from where it came from then.

    Raises:
        ValueError: it cannot be loaded.
    """
    from ..inference.load_model import load_model

    if not made_by.name:
        raise ValueError(
            f"The index in {where} was made by a model that had not been saved: pass model and processor."
        )
    try:
        model, processor = load_model(made_by.name)
        if hasattr(model.config, "truncate_dim"):
            model.config.truncate_dim = made_by.width
        return Encoder(model, processor)
    except OSError as error:
        raise ValueError(
            f"The model that made the index in {where}, {made_by}, cannot be loaded ({error}): say where "
            "it is now."
        ) from error
