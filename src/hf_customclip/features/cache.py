"""Which tower's outputs are kept for a data set, and how they stand in for images and captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import constants
from transformers.utils import logging

from ..data.data_collator import ContrastiveCollator
from ..data.pairs import CaptionTable, check_columns
from ..inference.fingerprints import weights_digest, weights_state
from ..modeling.freezing_custom_clip import is_trained
from ..modeling.towers_custom_clip import image_input_shape
from .cached_rows import CachedRows
from .extraction import CaptionLoader, ImageLoader, fill, unreadable_error, worker_count
from .items import Captions, Images, distinct_captions, distinct_images
from .keys import has_random_tokens, image_ingredients, text_ingredients
from .layout import DTYPES, Layout
from .store import FeatureStore, Stored, StoreSpec
from .towers import MODULES, TowerPass, feature_width, resolve_precision

logger = logging.get_logger(__name__)

TOWERS = ("image", "text")
# Of the accelerator's free memory, at most so much is taken for the features of one data set.
DEVICE_MEMORY_SHARE = 0.25
NAMES_SHOWN = 20


def default_folder() -> Path:
    """Where features are kept unless `feature_cache_dir` says otherwise."""
    return Path(constants.HF_HOME) / "customclip_features"


class FeatureCache:
    """Runs frozen towers once over a data set, and opens what was kept before.

    Args:
        mode: "auto", "always" or "never" (see `CustomClipTrainingArguments.feature_cache`).
        folder: where stores lie; `default_folder()` if None.
        precision: "auto", "float32" or "bfloat16".
        unreadable: what becomes of unreadable images: "error" or "skip".
        device: where the towers run.
        workers: loading processes for an accelerator; 0 for a good number.
        split_weights: whether every process holds only a part of the towers (FSDP, ZeRO-3).
        is_main: whether this process talks; others stay quiet.
        show_progress: whether it also draws progress bars.
    """

    def __init__(
        self,
        *,
        mode: str = "auto",
        folder: str | Path | None = None,
        precision: str = "auto",
        unreadable: str = "error",
        device: torch.device | str = "cpu",
        workers: int = 0,
        split_weights: bool = False,
        is_main: bool = True,
        show_progress: bool = True,
    ) -> None:
        self.mode, self.precision, self.unreadable = mode, precision, unreadable
        self.folder = default_folder() if folder is None else Path(folder)
        self.device, self.workers = torch.device(device), workers
        self.split_weights = split_weights
        self.is_main, self.show_progress = is_main, show_progress
        self._weights: dict[str, tuple[Any, str]] = {}
        self._opened: dict[Any, tuple[Dataset, dict[str, Any]]] = {}
        self._said: set[str] = set()

    def inputs(
        self,
        model: Any,
        dataset: Dataset,
        collator: Any,
        *,
        captions_per_image: int | None = None,
        image_transform: Callable[[Any], Any] | None = None,
    ) -> dict[str, Any]:
        """Arguments for `PairDataset` or `RetrievalDataset`: the data set, with features where they are kept.

        Args:
            captions_per_image: how many captions of an image are asked for, the first ones; None for all.
            image_transform: the augmentation of training images, which forbids keeping them.

        Raises:
            ValueError: `mode` is "always" and a tower's outputs cannot be kept; or images cannot be read.
            OSError: there is too little space on the disk.
        """
        check_columns(dataset)
        if hasattr(model, "get_base_model"):  # PEFT's wrapper
            model = model.get_base_model()
        kept = [tower for tower in TOWERS if self._keeps(tower, model, collator, dataset, image_transform)]
        states = tuple(weights_state(getattr(model, MODULES[tower])) for tower in kept)
        key = (id(dataset), id(model), id(collator), captions_per_image, *kept, *states)
        if key not in self._opened:
            # With the data set, whose id might else be another's one day.
            self._opened[key] = dataset, self._make(kept, model, dataset, collator, captions_per_image)
        return {**self._opened[key][1], "image_transform": image_transform}

    def _make(
        self, kept: list[str], model: Any, dataset: Dataset, collator: Any, captions_per_image: int | None
    ) -> dict[str, Any]:
        features: dict[str, CachedRows] = {}
        if "image" in kept:
            dataset, features["image_features"] = self._images(model, dataset, collator)
        if "text" in kept:
            features["text_features"] = self._texts(model, dataset, collator, captions_per_image)
        if len(features) == len(TOWERS) and self._fit_on_device(features):
            features = {name: rows.on(self.device) for name, rows in features.items()}
        return {"dataset": dataset, **features}

    # ---- Whether ----

    def _keeps(self, tower: str, model: Any, collator: Any, dataset: Dataset, image_transform: Any) -> bool:
        if self.mode == "never":
            return False
        reason = reason_against(tower, model, collator, dataset, image_transform)
        if self.split_weights:
            reason = "its weights are split over the processes"
        if reason is None:
            return True
        if self.mode == "always":
            raise ValueError(f"feature_cache='always' cannot keep the {tower} tower's outputs: {reason}.")
        self._say(f"The {tower} tower runs at every step: {reason}.")
        return False

    def _say(self, message: str) -> None:
        if self.is_main and message not in self._said:
            self._said.add(message)
            logger.warning(message)

    def _fit_on_device(self, features: dict[str, CachedRows]) -> bool:
        memory: Any = getattr(torch, self.device.type, None)
        if not hasattr(memory, "mem_get_info"):
            return False
        free, _ = memory.mem_get_info(self.device)
        return sum(rows.features.nbytes for rows in features.values()) < DEVICE_MEMORY_SHARE * free

    # ---- The two towers ----

    def _images(self, model: Any, dataset: Dataset, collator: Any) -> tuple[Dataset, CachedRows]:
        """The data set without the rows whose image cannot be read, and the features of the others."""
        images = distinct_images(dataset, self.folder)
        ingredients = {**image_ingredients(model, collator), "data": images.digest}
        stored = self._stored("image", model, dataset, ingredients, images, ImageLoader(images, collator))
        rows = stored.order[images.index]
        if stored.unreadable:
            readable = np.flatnonzero(~np.isin(images.index, list(stored.unreadable)))
            self._report_unreadable(stored, len(dataset) - len(readable))
            dataset, rows = dataset.select(readable), rows[readable]
        return dataset, CachedRows(stored.features, rows, stored.file)

    def _report_unreadable(self, stored: Stored, rows: int) -> None:
        reasons = list(stored.unreadable.values())
        if self.unreadable == "error":
            raise unreadable_error(reasons)
        names = "; ".join(reasons[:NAMES_SHOWN]) + ("; …" if len(reasons) > NAMES_SHOWN else "")
        self._say(
            f"{len(reasons)} image(s) cannot be read and are left out, {rows} row(s) with them: {names}"
        )

    def _texts(
        self, model: Any, dataset: Dataset, collator: Any, captions_per_image: int | None
    ) -> CachedRows:
        captions = distinct_captions(dataset, _first_captions(dataset, captions_per_image))
        ingredients = {**text_ingredients(model, collator), "data": captions.digest}
        stored = self._stored(
            "text", model, dataset, ingredients, captions, CaptionLoader(captions, collator)
        )
        # One more place, out of range, for captions that are not used.
        order = np.append(stored.order, len(captions))
        return CachedRows(stored.features, order[captions.index], stored.file)

    def _stored(
        self,
        tower: str,
        model: Any,
        dataset: Dataset,
        ingredients: dict[str, str],
        items: Images | Captions,
        load: ImageLoader | CaptionLoader,
    ) -> Stored:
        dtype = resolve_precision(self.precision, self.device)
        spec = StoreSpec(
            tower=tower,
            ingredients={
                **ingredients,
                "weights": self._weights_digest(model, tower),
                "precision": DTYPES[dtype],
            },
            about={"model": _tower_name(model, tower), "data": _data_name(dataset)},
            layout=Layout(len(items), feature_width(model, tower), dtype),
        )
        store = FeatureStore(self.folder, spec)
        while (stored := store.open()) is None:
            store.begin(load.order)
            channels, height, width = image_input_shape(model.config.vision_config)
            fill(
                store,
                load,
                TowerPass(model, tower, dtype, self.device),
                workers=worker_count(self.device, self.workers, 4 * channels * height * width),
                unreadable=self.unreadable,
                show_progress=self.is_main and self.show_progress,
            )
        return stored

    def _weights_digest(self, model: Any, tower: str) -> str:
        module = getattr(model, MODULES[tower])
        state = (id(model), weights_state(module))
        if tower not in self._weights or self._weights[tower][0] != state:
            self._weights[tower] = state, weights_digest(module)
        return self._weights[tower][1]


def reason_against(
    tower: str, model: Any, collator: Any, dataset: Dataset, image_transform: Any = None
) -> str | None:
    """Why a tower's outputs cannot stand in for its inputs, in a few words; None where they can."""
    if not hasattr(model, "pool_image"):
        return f"the model is a {type(model).__name__}, not a CustomClipModel"
    if type(collator) is not ContrastiveCollator or collator.processor is None:
        return "its inputs are prepared by a data_collator of your own"
    if len(dataset) == 0:
        return "the data set is empty"
    module = getattr(model, MODULES[tower])
    if is_trained(module):
        return "it is trained"
    if tower == "image" and image_transform is not None:
        return "the training images are augmented"
    if tower == "text" and has_random_tokens(collator.processor.tokenizer):
        return "its tokenizer cuts words at random"
    return None


def check_still_frozen(model: Any, inputs: dict[str, Any]) -> None:
    """Raise ValueError where a tower that has been unfrozen since is fed its cached outputs."""
    for tower in TOWERS:
        if f"{tower}_features" in inputs and is_trained(getattr(model, MODULES[tower])):
            raise ValueError(
                f"The {tower} tower was unfrozen after training on its cached outputs had begun, so it would "
                "not be trained: train with feature_cache='never'."
            )


def _first_captions(dataset: Dataset, captions_per_image: int | None) -> np.ndarray | None:
    if captions_per_image is None:
        return None
    images = CaptionTable(dataset).captions_of_images()
    return np.array([caption for captions in images for caption in captions[:captions_per_image]], np.int64)


def _tower_name(model: Any, tower: str) -> str:
    name = getattr(model.config, {"image": "vision_name", "text": "text_name"}[tower])
    return name or type(getattr(model, MODULES[tower])).__name__


def _data_name(dataset: Dataset) -> str:
    name = dataset.info.dataset_name or dataset.builder_name or "data set without a name"
    return f"{name} ({dataset.split})" if dataset.split else name
