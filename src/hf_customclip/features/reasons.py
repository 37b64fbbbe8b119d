"""Why a tower's outputs are not cached, or cannot be, in sentences for the user."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from datasets import Dataset, IterableDataset

from ..data.data_collator import ContrastiveCollator
from ..modeling.freezing_custom_clip import TOWERS, is_trained
from .keys import has_random_tokens
from .shard_folder import FEATURES_OF


def reason_against(
    tower: str, model: Any, collator: Any, dataset: Dataset | IterableDataset, image_transform: Any = None
) -> str | None:
    """Why a tower's outputs cannot stand in for its inputs, in a few words; None where they can."""
    if not hasattr(model, "pool_image"):
        return f"the model is a {type(model).__name__}, not a CustomClipModel"
    if type(collator) is not ContrastiveCollator or collator.processor is None:
        return "its inputs are prepared by a data_collator of your own"
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        return "the data set is empty"
    module = getattr(model, f"{tower}_model")
    if is_trained(module):
        return "it is trained"
    if tower == "vision" and image_transform is not None:
        return "the training images are augmented"
    if tower == "text" and has_random_tokens(collator.processor.tokenizer):
        return "its tokenizer cuts words at random"
    return None


def not_cached(setting: str) -> ValueError:
    """Of a training argument that asks for the cached features of both towers."""
    return ValueError(
        f"{setting} needs the cached features of both towers, and here not both are kept: freeze both, with "
        "feature_cache='auto' and without image augmentation."
    )


def check_still_frozen(model: Any, inputs: dict[str, Any]) -> None:
    """Raise ValueError where a tower that has been unfrozen since is fed its cached outputs."""
    for tower in TOWERS:
        if FEATURES_OF[tower] in inputs and is_trained(getattr(model, f"{tower}_model")):
            raise ValueError(
                f"The {tower} tower was unfrozen after training on its cached outputs had begun, so it would "
                "not be trained: train with feature_cache='never'."
            )


def check_readable(reasons: Collection[str], unreadable: str) -> None:
    """Raise ValueError, which names what cannot be read, where that is to be an error."""
    if reasons and unreadable == "error":
        raise ValueError(
            f"{len(reasons)} image(s) cannot be read: {'; '.join(reasons)}. Repair or remove them, or leave "
            "them out of training and evaluation by unreadable_images='skip'."
        )
