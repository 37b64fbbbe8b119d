"""Batches of inputs for a tower: read, decoded and prepared by worker processes, unreadable images named."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.images import UnreadableImageError
from ..data.preparation import image_inputs, open_rgb, text_inputs

Inputs = dict[str, Tensor]
MOST_WORKERS = 16
# A core's cache holds a few images' activations; captions are small, and each batch reads all weights anew.
CPU_BATCH = {"vision": 16, "text": 64}
ACCELERATOR_BATCH = {"vision": 64, "text": 256}


@dataclass(frozen=True)
class LoadedBatch:
    """What a worker hands over.

    Attributes:
        numbers: what was asked for.
        inputs: of those that can be read, in this order; or {"outputs"} of the tower.
        unreadable: why the others cannot, by number.
    """

    numbers: list[int]
    inputs: Inputs
    unreadable: dict[int, UnreadableImageError]

    @property
    def readable(self) -> list[int]:
        """The places in `numbers` of those that can be read."""
        return [place for place, number in enumerate(self.numbers) if number not in self.unreadable]

    @property
    def reasons(self) -> dict[int, str]:
        """Names of those that cannot be read and why, by number."""
        return {number: f"{error.name} ({error.reason})" for number, error in self.unreadable.items()}

    def pin_memory(self) -> LoadedBatch:
        """Called by torch's loader."""
        return replace(self, inputs={name: value.pin_memory() for name, value in self.inputs.items()})


class ImageInputs:
    """Reads images by number; a class, so that spawned workers can have it too.

    Args:
        images: anything that gives an image, path, bytes, array or undecoded form at `images[number]`.
    """

    def __init__(self, processor: Any, images: Any) -> None:
        self.rows, self.images = RowImages(processor), images

    def __call__(self, numbers: list[int]) -> LoadedBatch:
        return self.rows((number, self.images[number]) for number in numbers)


class RowImages:
    """Prepares images that come with their numbers, as those of a stream do."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Iterable[tuple[int, Any]]) -> LoadedBatch:
        numbers: list[int] = []
        opened: list[Any] = []
        unreadable: dict[int, UnreadableImageError] = {}
        for number, image in rows:
            numbers.append(number)
            try:
                opened.append(open_rgb(image))
            except UnreadableImageError as error:
                unreadable[number] = error
        inputs = image_inputs(self.processor, opened) if opened else {}
        return LoadedBatch(numbers, inputs, unreadable)


class TextInputs:
    """Reads texts by number, cut at `max_length` tokens."""

    def __init__(self, processor: Any, texts: Any, max_length: int) -> None:
        self.processor, self.texts, self.max_length = processor, texts, max_length

    def __call__(self, numbers: list[int]) -> LoadedBatch:
        texts = [self.texts[number] for number in numbers]
        return LoadedBatch(numbers, text_inputs(self.processor, texts, self.max_length), {})


# From a batch of numbers, or of rows, to what a tower takes.
Load = Callable[[list[Any]], LoadedBatch]


class _Batches(Dataset[Any]):
    def __init__(self, load: Load, run: Callable[[Inputs], Tensor] | None) -> None:
        self.load, self.run = load, run

    def __getitems__(self, batch: list[Any]) -> LoadedBatch:
        loaded = self.load(batch)
        return loaded if self.run is None else _computed(loaded, self.run)


def load_batches(
    load: Load,
    batches: Iterable[list[Any]],
    *,
    device: torch.device,
    num_workers: int = 0,
    run: Callable[[Inputs], Tensor] | None = None,
) -> Iterator[LoadedBatch]:
    """The batches in order, prepared by workers and pinned for a GPU.

    Args:
        device: where the tower is.
        run: the tower, where "outputs" are asked for and not its inputs. On a CPU the workers compute, one thread
            each; for an accelerator this process.
    """
    in_workers = run is not None and computes_in_workers(device)
    # Forked workers share the tower's memory.
    fork = in_workers and num_workers and sys.platform == "linux"
    loader: DataLoader[Any] = DataLoader(
        _Batches(load, run if in_workers else None),
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the global one belongs to a training, which must not notice
        multiprocessing_context="fork" if fork else None,
    )
    for batch in loader:
        yield batch if run is None or in_workers else _computed(batch, run)


def _computed(batch: LoadedBatch, run: Callable[[Inputs], Tensor]) -> LoadedBatch:
    return replace(batch, inputs={"outputs": run(batch.inputs)}) if batch.inputs else batch


def _as_it_is(batch: Any) -> Any:
    return batch


def computes_in_workers(device: torch.device) -> bool:
    """Whether the tower runs where the batches are loaded.

    On two cores that is faster than one tower on both, whose threads would wait for each other whenever
    decoding takes one away.
    """
    return device.type == "cpu"


def batch_size(tower: str, device: torch.device) -> int:
    """How many images or captions go through a tower at a time when features are extracted."""
    return (CPU_BATCH if computes_in_workers(device) else ACCELERATOR_BATCH)[tower]


def worker_count(device: torch.device, asked: int, batch_bytes: int) -> int:
    """How many processes should load: on a CPU one for each of torch's threads, if there are several.

    Args:
        asked: how many the user wants for an accelerator; 0 for as many as there are cores for this process.
        batch_bytes: size of one batch; workers hand them over in shared memory, which may be small.
    """
    if computes_in_workers(device):
        return torch.get_num_threads() if torch.get_num_threads() > 1 else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = asked or min(MOST_WORKERS, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    if not os.path.isdir("/dev/shm"):
        return workers
    batches = shutil.disk_usage("/dev/shm").free // batch_bytes
    return min(workers, batches // 3)  # each worker holds two, and makes one
