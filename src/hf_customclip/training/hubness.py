"""The bank of training embeddings by which rankings are corrected for hubs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.pairs import TrainingDataset
from ..features.shard_dataset import FeatureShards
from ..inference.encode import evaluating
from ..inference.hubness import HubnessBank


def hubness_bank(
    model: Any,
    images: TrainingDataset | FeatureShards,
    size: int,
    seed: int,
    captions_per_image: int | None = None,
) -> HubnessBank:
    """At most `size` training images, and a caption of each, as the model embeds them now.

    Args:
        images: with cached features of both towers.
        seed: it draws the images and the captions.
        captions_per_image: of how many captions of an image, the first ones, features are there; None for all.
    """
    batch = images.draw_pairs(size, np.random.default_rng(seed), captions_per_image)
    heads = {"image": model.visual_projection, "text": model.text_projection}
    with evaluating(model):
        embeds = {
            f"{kind}_embeds": _unit(head, batch[f"{kind}_features"].to(model.device))
            for kind, head in heads.items()
        }
    return HubnessBank(**embeds)


def _unit(head: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    return F.normalize(head(features.to(next(head.parameters()).dtype)).float(), dim=-1)
