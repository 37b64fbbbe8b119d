"""One pass of a tower over distinct items, into a store; read, decoded and, on a CPU, computed by workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from .store import FeatureStore
from .tower_pass import TowerPass

POLL_SECONDS = 0.2


class _InStoreOrder:
    """Items by their row in the store."""

    def __init__(self, items: Images | Captions, order: np.ndarray) -> None:
        self.items, self.numbers = items, np.argsort(order)

    def __getitem__(self, row: int) -> Any:
        return self.items[int(self.numbers[row])]


class _ClaimedBatches(Sampler[list[int]]):
    """Rows of the parts that this process claims, part after part, in batches of nearly equal size."""

    def __init__(self, store: FeatureStore, batch_size: int) -> None:
        self.store, self.batch_size = store, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for part in self.store.claims():
            rows = range(*self.store.layout.span(part))
            for batch in np.array_split(rows, -(-len(rows) // self.batch_size)):
                yield batch.tolist()


def storage_order(items: Images | Captions, processor: Any, max_text_length: int) -> np.ndarray:
    """(items,) the row of each in the store, where neighbours are computed together.

    Images stand in their own order, in which they are read fastest; captions by their number of tokens.
    """
    if isinstance(items, Images):
        return np.arange(len(items))
    lengths = np.zeros(len(items), dtype=np.int32)
    for first in range(0, len(lengths), 1000):
        texts = [items[number] for number in range(first, min(first + 1000, len(lengths)))]
        tokens = text_inputs(processor, texts, max_text_length)
        lengths[first : first + 1000] = tokens["attention_mask"].sum(1)
    order = np.empty(len(lengths), dtype=np.int64)
    order[np.argsort(lengths, kind="stable")] = np.arange(len(lengths))
    return order


def fill(
    store: FeatureStore,
    items: Images | Captions,
    run: TowerPass,
    processor: Any,
    max_text_length: int,
    *,
    num_workers: int,
    unreadable: str,
    show_progress: bool,
) -> None:
    """Compute what the store lacks, together with whoever else does, until it is finished.

    Args:
        num_workers: processes that load, and on a CPU compute; 0 for none.
        unreadable: "error", or "skip" to leave unreadable items without a feature.

    Raises:
        ValueError: items cannot be read; they are named.
    """
    ordered = _InStoreOrder(items, store.order())
    load: Any = ImageInputs(processor, ordered)
    if isinstance(items, Captions):
        load = TextInputs(processor, ordered, max_text_length)
    # `disable=None` is quiet when piped.
    with tqdm(
        desc=f"{store.spec.tower.capitalize()} features",
        total=store.layout.count,
        initial=store.rows_done(),
        disable=None if show_progress else True,
    ) as bar:
        try:
            while not store.finish():
                if store.has_claims():
                    claimed = _ClaimedBatches(store, batch_size(store.spec.tower, run.device))
                    batches = load_batches(load, claimed, device=run.device, num_workers=num_workers, run=run)
                    _fill_claimed(store, batches, run.device, ordered.numbers, unreadable, bar)
                else:  # other processes are at the rest
                    time.sleep(POLL_SECONDS)
        finally:
            store.release_all()


def _fill_claimed(
    store: FeatureStore,
    batches: Iterator[LoadedBatch],
    device: torch.device,
    numbers: np.ndarray,
    unreadable: str,
    bar: tqdm,
) -> None:
    features: list[torch.Tensor] = []
    reasons: dict[int, str] = {}
    for batch in batches:
        rows, layout = batch.numbers, store.layout
        block = torch.zeros(len(rows), layout.width, dtype=layout.dtype, device=device)
        if batch.inputs:
            block[batch.readable] = batch.inputs["outputs"]
        features.append(block)
        reasons |= {int(numbers[row]): f"{e.name} ({e.reason})" for row, e in batch.unreadable.items()}
        bar.update(len(rows))
        part = rows[-1] // layout.part_rows
        if rows[-1] + 1 == layout.span(part)[1]:
            if reasons and unreadable == "error":
                raise unreadable_error(list(reasons.values()))
            store.write_part(part, torch.cat(features), reasons)
            features, reasons = [], {}
            bar.update(max(0, store.rows_done() - bar.n))  # what others have done


def pixel_batch_bytes(model: Any) -> int:
    """Size of a batch of pixels for an accelerator, in bytes."""
    channels, height, width = image_input_shape(model.config.vision_config)
    return 4 * channels * height * width * ACCELERATOR_BATCH["vision"]


def unreadable_error(reasons: list[str]) -> ValueError:
    """Names what cannot be read."""
    return ValueError(
        f"{len(reasons)} image(s) cannot be read: {'; '.join(reasons)}. Repair or remove them, or leave "
        "them out of training and evaluation by unreadable_images='skip'."
    )
