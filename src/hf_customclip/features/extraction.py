"""One pass of a tower over distinct items, into a store; read, decoded and, on a CPU, computed by workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from tqdm.auto import tqdm

from ..data.preparation import text_inputs
from ..inference.loading import (
    ACCELERATOR_BATCH,
    ImageInputs,
    LoadedBatch,
    TextInputs,
    batch_size,
    load_batches,
)
from ..modeling.towers_custom_clip import image_input_shape
from .items import Captions, Images
from .reasons import check_readable
from .store import FeatureStore, Stored
from .tower_pass import TowerPass

POLL_SECONDS = 0.2


class _ClaimedBatches(Sampler[list[int]]):
    """Items of the parts that this process claims, part after part, in batches of nearly equal size."""

    def __init__(self, store: FeatureStore, batch_size: int) -> None:
        self.store, self.batch_size = store, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for part in self.store.claims():
            items = self.store.order[self.store.spec.rows(part)]
            for batch in np.array_split(items, -(-len(items) // self.batch_size)):
                yield batch.tolist()


def storage_order(items: Images | Captions, processor: Any, max_text_length: int) -> np.ndarray:
    """The items' numbers in the order of the store, where neighbours are computed together.

    Images stand in their own order, in which they are read fastest; captions by their number of tokens.
    """
    if isinstance(items, Images):
        return np.arange(len(items))
    lengths = np.zeros(len(items), dtype=np.int32)
    for first in range(0, len(lengths), 1000):
        texts = [items[number] for number in range(first, min(first + 1000, len(lengths)))]
        tokens = text_inputs(processor, texts, max_text_length)
        lengths[first : first + 1000] = tokens["attention_mask"].sum(1)
    return np.argsort(lengths, kind="stable")


def filled(
    store: FeatureStore,
    items: Images | Captions,
    make_run: Callable[[], TowerPass],
    processor: Any,
    max_text_length: int,
    *,
    num_workers: int,
    unreadable: str,
    show_progress: bool,
) -> Stored:
    """The store as it is or, first, with what it lacks computed, together with whoever else does so.

    Args:
        make_run: makes the tower's pass.
        num_workers: processes that load, and on a CPU compute; 0 for none.
        unreadable: "error", or "skip" to leave unreadable items without a feature.

    Raises:
        ValueError: items cannot be read; they are named.
        OSError: there is too little space on the disk.
    """
    load: Any = ImageInputs(processor, items)
    if isinstance(items, Captions):
        load = TextInputs(processor, items, max_text_length)
    while (stored := store.open()) is None:
        if store.begin(lambda: storage_order(items, processor, max_text_length)):
            _fill(store, load, make_run(), num_workers, unreadable, show_progress)
    return stored


def _fill(
    store: FeatureStore, load: Any, run: TowerPass, num_workers: int, unreadable: str, show_progress: bool
) -> None:
    # `disable=None` is quiet when piped.
    with tqdm(
        desc=f"{store.spec.tower.capitalize()} features",
        total=store.spec.count,
        initial=store.rows_done(),
        disable=None if show_progress else True,
    ) as bar:
        try:
            while not store.finish():
                if store.has_claims():
                    claimed = _ClaimedBatches(store, batch_size(store.spec.tower, run.device))
                    batches = load_batches(load, claimed, device=run.device, num_workers=num_workers, run=run)
                    _fill_claimed(store, batches, run.device, unreadable, bar)
                else:  # other processes are at the rest
                    time.sleep(POLL_SECONDS)
        finally:
            store.release_all()


def _fill_claimed(
    store: FeatureStore, batches: Iterator[LoadedBatch], device: torch.device, unreadable: str, bar: tqdm
) -> None:
    spec, row_of = store.spec, np.argsort(store.order)
    features: list[torch.Tensor] = []
    reasons: dict[int, str] = {}
    for batch in batches:
        block = torch.zeros(len(batch.numbers), spec.width, dtype=spec.dtype, device=device)
        if batch.inputs:
            block[batch.readable] = batch.inputs["outputs"]
        features.append(block)
        reasons |= batch.reasons
        bar.update(len(block))
        last = int(row_of[batch.numbers[-1]])
        part = last // spec.part_rows
        if last == spec.rows(part)[-1]:
            check_readable(reasons.values(), unreadable)
            store.write_part(part, torch.cat(features), reasons)
            features, reasons = [], {}
            bar.update(max(0, store.rows_done() - bar.n))  # what others have done


def pixel_batch_bytes(model: Any) -> int:
    """Size of a batch of pixels for an accelerator, in bytes."""
    channels, height, width = image_input_shape(model.config.vision_config)
    return 4 * channels * height * width * ACCELERATOR_BATCH["vision"]
