"""One pass of a tower over distinct items, into a store; read, decoded and computed by workers.

On a CPU every worker runs the tower on one thread: on two cores that is faster than one tower on both, whose
threads would wait for each other whenever decoding takes one away. For an accelerator workers only load.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from ..data.data_collator import ContrastiveCollator
from ..data.images import open_images
from .items import Captions, Images
from .store import FeatureStore
from .towers import TowerPass

# A core's cache holds a few images' activations; captions are small, and each batch reads all weights anew.
CPU_BATCH = {"image": 16, "text": 64}
ACCELERATOR_BATCH = {"image": 64, "text": 256}
MOST_WORKERS = 16
POLL_SECONDS = 0.2


class Loader(Protocol):
    """Reads items by number: the tower's inputs for those that can be read, and why others cannot."""

    def __call__(self, numbers: list[int]) -> tuple[dict[str, torch.Tensor], dict[int, str]]: ...

    def order(self) -> np.ndarray:
        """The place of each item in the store, where neighbours are computed together."""
        ...


class ImageLoader:
    """Images to pixels, exactly as in training through the tower."""

    def __init__(self, images: Images, collator: ContrastiveCollator) -> None:
        self.images, self.collator = images, collator

    def __call__(self, numbers: list[int]) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
        opened, problems = open_images(self.images[number] for number in numbers)
        unreadable = {numbers[place]: f"{error.name} ({error.reason})" for place, error in problems.items()}
        return self.collator.pixels(list(opened.values())) if opened else {}, unreadable

    def order(self) -> np.ndarray:
        """(images,) the place of each: their own, in which they are read fastest."""
        return np.arange(len(self.images))


class CaptionLoader:
    """Captions to tokens, padded to their batch's longest."""

    def __init__(self, captions: Captions, collator: ContrastiveCollator) -> None:
        self.captions, self.collator = captions, collator

    def __call__(self, numbers: list[int]) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
        return self.collator.tokens([self.captions[number] for number in numbers]), {}

    def order(self) -> np.ndarray:
        """(captions,) the place of each when they stand by their number of tokens."""
        lengths = np.zeros(len(self.captions), dtype=np.int32)
        for first in range(0, len(lengths), 1000):
            numbers = range(first, min(first + 1000, len(lengths)))
            tokens = self.collator.tokens([self.captions[number] for number in numbers])
            lengths[first : first + 1000] = tokens["attention_mask"].sum(1)
        order = np.empty(len(lengths), dtype=np.int64)
        order[np.argsort(lengths, kind="stable")] = np.arange(len(lengths))
        return order


class _Batches(Dataset[Any]):
    """Batches of store rows, loaded, and computed too where `run` is given."""

    def __init__(self, items: np.ndarray, load: Loader, run: TowerPass | None) -> None:
        self.items, self.load, self.run = items, load, run

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        numbers = self.items[rows].tolist()
        inputs, unreadable = self.load(numbers)
        readable = [place for place, number in enumerate(numbers) if number not in unreadable]
        if self.run is not None and inputs:
            inputs = {"features": self.run(inputs)}
        return {"rows": rows, "inputs": inputs, "readable": readable, "unreadable": unreadable}


class _ClaimedBatches(Sampler[list[int]]):
    """Rows of the parts that this process claims, part after part, in batches of nearly equal size."""

    def __init__(self, store: FeatureStore, batch_size: int) -> None:
        self.store, self.batch_size = store, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for part in self.store.claims():
            rows = range(*self.store.layout.span(part))
            for batch in np.array_split(rows, -(-len(rows) // self.batch_size)):
                yield batch.tolist()


def fill(
    store: FeatureStore, load: Loader, run: TowerPass, *, workers: int, unreadable: str, show_progress: bool
) -> None:
    """Compute what the store lacks, together with whoever else does, until it is finished.

    Args:
        workers: processes that load, and on a CPU compute; 0 for none.
        unreadable: "error", or "skip" to leave unreadable items without a feature.

    Raises:
        ValueError: items cannot be read; they are named.
    """
    items = np.argsort(store.order())
    # `disable=None` is quiet when piped.
    with tqdm(
        desc=f"{store.spec.tower.capitalize()} features",
        total=store.layout.count,
        initial=store.rows_done(),
        unit=store.spec.tower,
        disable=None if show_progress else True,
    ) as bar:
        try:
            while not store.finish():
                if store.has_claims():
                    _fill_claimed(store, _loader(store, items, load, run, workers), run, unreadable, bar)
                else:  # other processes are at the rest
                    time.sleep(POLL_SECONDS)
        finally:
            store.release_all()


def _loader(store: FeatureStore, items: np.ndarray, load: Loader, run: TowerPass, workers: int) -> DataLoader:
    on_cpu = computes_in_workers(run.device)
    sizes = CPU_BATCH if on_cpu else ACCELERATOR_BATCH
    return DataLoader(
        _Batches(items, load, run if on_cpu else None),
        batch_sampler=_ClaimedBatches(store, sizes[store.spec.tower]),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=run.device.type == "cuda",
        generator=torch.Generator(),  # the global one belongs to the training, which must not notice
        # Forked workers share the tower's memory.
        multiprocessing_context="fork" if on_cpu and workers and sys.platform == "linux" else None,
    )


def computes_in_workers(device: torch.device) -> bool:
    """Whether the tower runs where the batches are loaded."""
    return device.type == "cpu"


def _as_it_is(batch: Any) -> Any:
    return batch


def _fill_claimed(
    store: FeatureStore, loader: DataLoader, run: TowerPass, unreadable: str, bar: tqdm
) -> None:
    features: list[torch.Tensor] = []
    reasons: dict[int, str] = {}
    for batch in loader:
        rows, layout = batch["rows"], store.layout
        block = torch.zeros(len(rows), layout.width, dtype=layout.dtype, device=run.device)
        if inputs := batch["inputs"]:
            block[batch["readable"]] = inputs["features"] if "features" in inputs else run(inputs)
        features.append(block)
        reasons |= batch["unreadable"]
        bar.update(len(rows))
        part = rows[-1] // layout.part_rows
        if rows[-1] + 1 == layout.span(part)[1]:
            if reasons and unreadable == "error":
                raise unreadable_error(list(reasons.values()))
            store.write_part(part, torch.cat(features), reasons)
            features, reasons = [], {}
            bar.update(max(0, store.rows_done() - bar.n))  # what others have done


def unreadable_error(reasons: list[str]) -> ValueError:
    """Names what cannot be read."""
    return ValueError(
        f"{len(reasons)} image(s) cannot be read: {'; '.join(reasons)}. Repair or remove them, or leave "
        "them out of training and evaluation by unreadable_images='skip'."
    )


def worker_count(device: torch.device, asked: int, input_bytes: int) -> int:
    """How many processes should load: on a CPU one for each of torch's threads, if there are several.

    Args:
        asked: how many the user wants for an accelerator; 0 for as many as there are cores for this process.
        input_bytes: size of one input; workers hand batches over in shared memory, which may be small.
    """
    if computes_in_workers(device):
        return torch.get_num_threads() if torch.get_num_threads() > 1 else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = asked or min(MOST_WORKERS, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    if not os.path.isdir("/dev/shm"):
        return workers
    batches = shutil.disk_usage("/dev/shm").free // (ACCELERATOR_BATCH["image"] * input_bytes)
    return min(workers, batches // 3)  # each worker holds two, and makes one
