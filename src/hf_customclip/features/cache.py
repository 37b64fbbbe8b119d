"""Which tower's outputs are cached for a data set, and the data sets that training and evaluation read then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import constants
from transformers.utils import logging

from ..data.pairs import CaptionTable, RetrievalDataset, TrainingDataset, check_columns
from ..inference.loading import worker_count
from ..modeling.freezing_custom_clip import TOWERS
from .cached_rows import CachedRows
from .extraction import filled, pixel_batch_bytes
from .items import Captions, Images, data_name, distinct_captions, distinct_images
from .keys import tower_ingredients, tower_weights_digest
from .reasons import check_readable, not_cached, reason_against
from .shard_folder import DTYPES
from .store import FeatureStore, Stored, StoreSpec
from .teacher import teacher_embeddings, without_captions
from .tower_pass import TowerPass, feature_width, resolve_precision
from .views import ImagesInView

logger = logging.get_logger(__name__)

# Of the accelerator's free memory, at most so much is taken for the features of one data set.
DEVICE_MEMORY_SHARE = 0.25
NAMES_SHOWN = 20


def default_folder() -> Path:
    """Where features are kept unless `feature_cache_dir` says otherwise."""
    return Path(constants.HF_HOME) / "customclip_features"


@dataclass(frozen=True)
class _Opened:
    """A data set without its unreadable rows, its captions' numbers, the features by their names, and as far as they
    were asked for those of its images' further views, a teacher's embeddings, and both of images without captions."""

    dataset: Dataset
    table: CaptionTable
    features: dict[str, CachedRows]
    views: list[CachedRows] = field(default_factory=list)
    teacher: list[CachedRows] = field(default_factory=list)
    unpaired: list[CachedRows] = field(default_factory=list)


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
        self._opened: dict[Any, tuple[Dataset, _Opened]] = {}
        self._said: set[str] = set()

    def training_items(
        self,
        model: Any,
        dataset: Dataset,
        collator: Any,
        *,
        batch_of: str = "images",
        captions_per_image: int | None = None,
        image_transform: Callable[[Any], Any] | None = None,
        views: int = 1,
        teacher: str | None = None,
        unpaired_images: str | None = None,
    ) -> TrainingDataset:
        """What training reads, with features in the place of what frozen towers would see.

        Args:
            batch_of: "images" or "pairs".
            captions_per_image: how many captions of an image are asked for, the first ones; None for all.
            image_transform: the augmentation of training images, which forbids caching them.
            views: of each image, where the vision tower's outputs are cached; see `views.py`.
            teacher: a folder or Hub id; see `teacher.py`.
            unpaired_images: a folder of images without captions, for the teacher's loss.

        Raises:
            ValueError: `mode` is "always", or there is a teacher, and a tower's outputs cannot be cached; or images
                cannot be read.
            OSError: there is too little space on the disk.
        """
        found = self._open(model, dataset, collator, captions_per_image, image_transform)
        if "image_features" in found.features:
            # A model that averages mirror images sees nothing new in view 1.
            skipped = int(model.config.average_mirrored)
            for view in range(1 + len(found.views) + skipped, views + skipped):
                # Of the rows that are left, should some images be unreadable.
                found.views.append(self._images(model, found.dataset, collator, view)[1])
        if teacher is not None and not found.teacher:
            if len(found.features) < len(TOWERS):
                raise not_cached(f"teacher={teacher!r}")
            used = None if captions_per_image is None else found.table.first_captions(captions_per_image)
            others, features = None, []
            if unpaired_images is not None:
                others, rows = self._images(model, without_captions(unpaired_images), collator)
                features = [rows]
            images, texts, *of_others = teacher_embeddings(self, teacher, found.dataset, used, others)
            found.teacher.extend([images, texts])
            found.unpaired.extend([*features, *of_others])
        return TrainingDataset(
            found.dataset,
            found.table,
            **found.features,
            image_transform=image_transform,
            batch_of=batch_of,
            image_views=found.views[: views - 1],
            teacher=found.teacher,
            unpaired=found.unpaired,
        )

    def retrieval_items(self, model: Any, dataset: Dataset, collator: Any) -> RetrievalDataset:
        """Images with all their captions, which evaluation reads; raises as `training_items` does."""
        found = self._open(model, dataset, collator)
        return RetrievalDataset(found.dataset, found.table, **found.features, image_transform=None)

    def _open(
        self,
        model: Any,
        dataset: Dataset,
        collator: Any,
        captions_per_image: int | None = None,
        image_transform: Callable[[Any], Any] | None = None,
    ) -> _Opened:
        check_columns(dataset)
        if hasattr(model, "get_base_model"):  # PEFT's wrapper
            model = model.get_base_model()
        cached = [tower for tower in TOWERS if self._caches(tower, model, collator, dataset, image_transform)]
        weights = [tower_weights_digest(tower, model) for tower in cached]
        key = (id(dataset), id(collator), captions_per_image, *cached, *weights)
        if key not in self._opened:
            made = self._make(cached, model, dataset, collator, captions_per_image)
            # With the data set, whose id might else be another's one day.
            self._opened[key] = dataset, made
        return self._opened[key][1]

    def _make(
        self, cached: list[str], model: Any, dataset: Dataset, collator: Any, captions_per_image: int | None
    ) -> _Opened:
        features: dict[str, CachedRows] = {}
        if "vision" in cached:
            dataset, features["image_features"] = self._images(model, dataset, collator)
        table = CaptionTable(dataset)
        if "text" in cached:
            used = None if captions_per_image is None else table.first_captions(captions_per_image)
            features["text_features"] = self._texts(model, dataset, collator, used)
        if len(features) == len(TOWERS) and self._fit_on_device(features):
            features = {name: rows.on(self.device) for name, rows in features.items()}
        return _Opened(dataset, table, features)

    # ---- Whether ----

    def _caches(self, tower: str, model: Any, collator: Any, dataset: Dataset, image_transform: Any) -> bool:
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

    def _images(
        self, model: Any, dataset: Dataset, collator: Any, view: int = 0
    ) -> tuple[Dataset, CachedRows]:
        """The data set without the rows whose image cannot be read, and the features of the others."""
        images = distinct_images(dataset, self.folder)
        if view:
            images = ImagesInView.of(images, view)
        stored = self._stored("vision", model, dataset, collator, images)
        rows = stored.order[images.index]
        if stored.unreadable:
            readable = np.flatnonzero(~np.isin(images.index, list(stored.unreadable)))
            self._report_unreadable(stored, len(dataset) - len(readable))
            dataset, rows = dataset.select(readable), rows[readable]
        return dataset, CachedRows(stored.features, rows)

    def _report_unreadable(self, stored: Stored, rows: int) -> None:
        reasons = list(stored.unreadable.values())
        check_readable(reasons, self.unreadable)
        names = "; ".join(reasons[:NAMES_SHOWN]) + ("; …" if len(reasons) > NAMES_SHOWN else "")
        self._say(
            f"{len(reasons)} image(s) cannot be read and are left out, {rows} row(s) with them: {names}"
        )

    def _texts(self, model: Any, dataset: Dataset, collator: Any, used: np.ndarray | None) -> CachedRows:
        captions = distinct_captions(dataset, used)
        return self._stored("text", model, dataset, collator, captions).rows(captions)

    def _stored(
        self,
        tower: str,
        model: Any,
        dataset: Dataset,
        collator: Any,
        items: Images | Captions,
    ) -> Stored:
        dtype = resolve_precision(self.precision, self.device)
        spec = StoreSpec(
            tower=tower,
            ingredients={
                **tower_ingredients(tower, model, collator),
                **({"view": str(items.view)} if isinstance(items, ImagesInView) else {}),
                "data": items.digest,
                "precision": DTYPES[dtype],
            },
            about={"model": _tower_name(model, tower), "data": data_name(dataset)},
            count=len(items),
            width=feature_width(model, tower),
            dtype=dtype,
        )
        run = partial(TowerPass, model, tower, dtype, self.device)
        return self.filled(spec, items, run, model, collator.processor, collator.max_text_length)

    def filled(
        self,
        spec: StoreSpec,
        items: Images | Captions,
        make_run: Callable[[], Any],
        model: Any,
        processor: Any,
        max_text_length: int,
    ) -> Stored:
        """The store of what `make_run` makes a pass for, opened or filled first."""
        return filled(
            FeatureStore(self.folder, spec),
            items,
            make_run,
            processor,
            max_text_length,
            num_workers=worker_count(self.device, self.workers, pixel_batch_bytes(model)),
            unreadable=self.unreadable,
            show_progress=self.is_main and self.show_progress,
        )


def _tower_name(model: Any, tower: str) -> str:
    return getattr(model.config, f"{tower}_name") or type(getattr(model, f"{tower}_model")).__name__
