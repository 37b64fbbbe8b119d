"""Images to vectors: on several processes under `accelerate launch`, and taken up again after a kill.

Every process writes what it has embedded in shards, each whole or not at all, under the image's id, path
and state; whoever comes next, in this run or another, embeds only what no shard holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.images import open_images
from ..inference.encode import encode_pixels
from .arrow import mapped, write_arrow
from .encoder import Encoder
from .rows import rows_table
from .sources import Source

# What a killed process loses.
SHARD_IMAGES, SHARD_SECONDS = 2048, 30.0


@dataclass(frozen=True)
class Embedded:
    """What came of embedding.

    Attributes:
        numbers: (embedded,) the rows of the source that have a vector, ascending.
        vectors: (embedded, width) float16.
        unreadable: why, for each of the rows that have none, by id.
    """

    numbers: np.ndarray
    vectors: np.ndarray
    unreadable: dict[str, str]


def embed_source(
    encoder: Encoder,
    source: Source,
    numbers: Sequence[int],
    shards: Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Embedded:
    """Embed some rows of a source, shared out over the processes; every process gets everything.

    Args:
        numbers: which rows, ascending.
        shards: the folder for what is done so far, of this model alone; None to keep it in memory, which is
            for a single process.
        num_workers: processes that read and prepare images, for each process that embeds.

    Raises:
        ValueError: there are several processes and no folder that they share.
    """
    state = processes()
    if state.num_processes > 1 and shards is None:
        raise ValueError("To embed on several processes, name a directory where they can put the parts.")
    if state.num_processes > 1:
        encoder.model.to(state.device)
    keys = source.keys()
    found = read_shards(shards)
    todo = [number for number in numbers if keys[number] not in found]
    # Nobody may write before everybody has seen what there is to do.
    state.wait_for_everyone()
    with state.split_between_processes(todo) as mine:
        loader = _loader(encoder, source, mine, batch_size, num_workers)
        made, unreadable = _embed(encoder, loader, len(mine), keys, shards, state.is_local_main_process)
    if state.num_processes > 1:
        unreadable = gather_object(unreadable)
        state.wait_for_everyone()
    found |= read_shards(shards) if shards else made
    state.wait_for_everyone()  # until all have read them, shards may not be deleted
    have = [number for number in numbers if keys[number] in found]
    vectors = np.empty((len(have), encoder.width), dtype=np.float16)
    for row, number in enumerate(have):
        vectors[row] = found[keys[number]]
    return Embedded(np.array(have, dtype=np.int64), vectors, dict(unreadable))


def processes() -> PartialState:
    """The processes that `accelerate launch` or `torchrun` started, or this one alone."""
    # Without an accelerator, Accelerate joins processes only when told that they are on CPUs.
    return PartialState(cpu=not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))


Problems = list[tuple[str, str]]  # id and reason


class _Collate:
    """Numbers of a batch to pixels; a class, so that spawned workers can have it too."""

    def __init__(self, encoder: Encoder, source: Source) -> None:
        self.processor, self.images, self.ids = encoder.processor, source.images, source.column("id")

    def __call__(self, numbers: list[int]) -> tuple[list[int], Tensor | None, Problems]:
        images, unreadable = open_images(self.images[number] for number in numbers)
        problems = [(self.ids[numbers[place]], error.reason) for place, error in unreadable.items()]
        if not images:
            return [], None, problems
        pixels = self.processor(images=list(images.values()), return_tensors="pt")["pixel_values"]
        return [numbers[place] for place in images], pixels, problems


def _loader(
    encoder: Encoder, source: Source, numbers: Sequence[int], batch_size: int, num_workers: int
) -> DataLoader:
    collate = _Collate(encoder, source)
    return DataLoader(list(numbers), batch_size, collate_fn=collate, num_workers=num_workers)  # type: ignore[arg-type]


def _embed(
    encoder: Encoder, loader: DataLoader, count: int, keys: list[str], shards: Path | None, is_main: bool
) -> tuple[dict[str, np.ndarray], Problems]:
    """What was not written to shards, by key, and the problems."""
    made: dict[str, np.ndarray] = {}
    problems: Problems = []
    begun = time.monotonic()
    # `disable=None` is quiet when piped.
    with tqdm(total=count, desc="embed", unit="image", leave=False, disable=None if is_main else True) as bar:
        for numbers, pixels, batch_problems in loader:
            problems += batch_problems
            if pixels is not None:
                vectors = encode_pixels(encoder.model, pixels).cpu().numpy().astype(np.float16)
                made.update(zip((keys[number] for number in numbers), vectors, strict=True))
            bar.update(len(numbers) + len(batch_problems))
            late = time.monotonic() - begun > SHARD_SECONDS
            if shards and made and (late or len(made) >= SHARD_IMAGES):
                write_shard(shards, made)
                made, begun = {}, time.monotonic()
    if shards and made:
        write_shard(shards, made)
    return made, problems


def write_shard(folder: Path, vectors: dict[str, np.ndarray]) -> None:
    """Add vectors, by key, to what is done."""
    folder.mkdir(parents=True, exist_ok=True)
    table = rows_table(pa.table({"key": list(vectors)}), np.stack(list(vectors.values())))
    write_arrow(folder / f"{uuid4().hex}.arrow", table)


def read_shards(folder: Path | None) -> dict[str, np.ndarray]:
    """Everything that is done, by key."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.arrow")) if folder else []:
        for chunk in mapped(file).to_batches():
            vectors = chunk["vector"].flatten().to_numpy().reshape(chunk.num_rows, -1)
            found.update(zip(chunk["key"].to_pylist(), vectors, strict=True))
    return found
