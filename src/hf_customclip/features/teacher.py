"""A ready dual encoder's embeddings of the training images and captions, computed once and kept: its similarities are
soft targets in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset

from ..data.folders import list_folder
from ..data.part import FEATURES
from ..inference.encode import encode_pixels, encode_texts, encode_tokens, max_text_length
from ..inference.load_model import load_model
from .cached_rows import CachedRows
from .items import Captions, Images, data_name, distinct_captions, distinct_images
from .keys import teacher_ingredients
from .store import StoreSpec

if TYPE_CHECKING:
    from .cache import FeatureCache


def without_captions(folder: str) -> Dataset:
    """The images of a folder, as a data set whose rows have no captions.

    Raises:
        ValueError: there are none.
    """
    images = list_folder(folder).images
    if not images:
        raise ValueError(f"unpaired_images={folder!r} holds no images.")
    columns = {"image": images, "captions": [[] for _ in images], "image_id": images}
    return Dataset.from_dict(columns, features=FEATURES)


class TeacherPass:
    """From a batch of inputs to normalised embeddings, float32; those of images times the inverse temperature."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model.to(device), device

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(batch, width)"""
        if "pixel_values" in inputs:
            scale = self.model.logit_scale.detach().float().exp()
            return scale * encode_pixels(self.model, inputs["pixel_values"])
        return encode_tokens(self.model, inputs["input_ids"], inputs["attention_mask"])


def teacher_embeddings(
    cache: FeatureCache, name: str, dataset: Dataset, used: np.ndarray | None, unpaired: Dataset | None = None
) -> list[CachedRows]:
    """(rows, width) of images and (captions, width) of captions, whose products are the teacher's logits; and of
    images without captions, where there are any.

    Args:
        name: folder or Hub id of a `CustomClipModel` or another dual encoder of transformers, such as CLIP.
        used: which captions' numbers are asked for; None for all.

    Raises:
        ValueError: the model does not embed images and texts alike.
    """
    model, processor = load_model(name)
    if not all(hasattr(model, part) for part in ("get_image_features", "get_text_features", "logit_scale")):
        raise ValueError(
            f"teacher={name!r} is a {type(model).__name__}, which does not compare images with texts: give a CLIP, "
            "a SigLIP or a model made by hf-customclip."
        )
    run, length = TeacherPass(model, cache.device), max_text_length(model, processor)
    width = encode_texts(model, processor, "a").shape[-1]
    ingredients, embeds = teacher_ingredients(model, processor, length), []
    items: list[tuple[str, Images | Captions]] = [
        ("vision", distinct_images(dataset, cache.folder)),
        ("text", distinct_captions(dataset, used)),
    ]
    if unpaired is not None:
        items.append(("vision", distinct_images(unpaired, cache.folder)))
    for tower, of_tower in items:
        spec = StoreSpec(
            tower=tower,
            ingredients={**ingredients, "data": of_tower.digest},
            about={"model": f"teacher {name}", "data": data_name(dataset)},
            count=len(of_tower),
            width=width,
            dtype=torch.float32,
        )
        stored = cache.filled(spec, of_tower, lambda: run, model, processor, length)
        embeds.append(stored.rows(of_tower))
    return embeds
