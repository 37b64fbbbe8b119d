"""One pass of both frozen towers over a stream of images with captions, into feature shards.

The stream's own shards (tars, Parquet files) are the items of work, shared out over processes; where there are
fewer of them than processes, `split_dataset_by_node` cuts each into slices. Workers decode, and on a CPU compute.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from datasets import Image, IterableDataset
from datasets.distributed import split_dataset_by_node
from tqdm.auto import tqdm

from ..data.data_collator import ContrastiveCollator
from ..data.shared_captions import normalised
from ..inference.encode import batched, process_state
from ..inference.loading import RowImages, TextInputs, batch_size, load_batches, worker_count
from ..modeling.freezing_custom_clip import TOWERS
from .extraction import pixel_batch_bytes
from .keys import tower_ingredients
from .reasons import check_readable, reason_against
from .shard_folder import DTYPES, FORMAT, MANIFEST, PLAN, Shard, ShardFolder
from .tower_pass import TowerPass, feature_width, resolve_precision

SHARD_ROWS = 8192


def extract_features(
    model: Any,
    processor: Any,
    dataset: IterableDataset,
    out: str,
    *,
    precision: str = "auto",
    unreadable: str = "skip",
    num_workers: int = 0,
    process_index: int | None = None,
    num_processes: int | None = None,
    show_progress: bool = True,
) -> dict[str, Any] | None:
    """Run both towers over a stream, together with whoever else does; killed, it goes on where it was.

    Args:
        model, processor: of frozen towers; the model is left as it is, on its device.
        dataset: a stream with `image`, `captions`, `image_id` (`load_image_text_dataset(streaming=True)`);
            images of one `group_id` are one image to the loss.
        out: a folder or fsspec address for the shards.
        precision: "auto", "float32" or "bfloat16".
        unreadable: "skip" counts and leaves out images that cannot be read, "error" stops at the first.
        num_workers: processes that decode for an accelerator; 0 for a good number.
        process_index, num_processes: this process's share, where no launcher says it (a SLURM array).

    Returns:
        The manifest, or None while other processes are still at their shares.

    Raises:
        ValueError: a tower is trained, `out` holds other features, or an image cannot be read.
    """
    collator = ContrastiveCollator(processor, model.config.max_text_length)
    for tower in TOWERS:
        if reason := reason_against(tower, model, collator, dataset):
            raise ValueError(f"Features of the {tower} tower cannot be extracted: {reason}.")
    dtype = resolve_precision(precision, model.device)
    if num_processes is None or process_index is None:
        state = process_state()
        process_index, num_processes = state.process_index, state.num_processes
    folder = ShardFolder(out)
    plan = _plan(folder, model, collator, dataset, dtype, num_processes)
    if (done := folder.read_json(MANIFEST)) is not None:
        return done
    extraction = _Extraction(model, collator, folder, dtype, unreadable, num_workers)
    finished, items = folder.records(), range(process_index, plan["items"], num_processes)
    undecoded = dataset.cast_column("image", Image(decode=False))
    # `disable=None` is quiet when piped.
    with tqdm(
        desc="Features", unit="pair", disable=None if show_progress and not process_index else True
    ) as bar:
        for item in items:
            if item not in finished:
                extraction.run_item(item, _rows_of_item(undecoded, item, plan), bar)
    return folder.finish(plan)


def _plan(
    folder: ShardFolder,
    model: Any,
    collator: ContrastiveCollator,
    dataset: IterableDataset,
    dtype: torch.dtype,
    num_processes: int,
) -> dict[str, Any]:
    """What was begun in the folder, or what this run begins."""
    slices = math.ceil(num_processes / dataset.num_shards)
    plan = {
        "format": FORMAT,
        "source_shards": dataset.num_shards,
        "slices": slices,
        "items": dataset.num_shards * slices,
        "dtype": DTYPES[dtype],
        "widths": {tower: feature_width(model, tower) for tower in TOWERS},
        "ingredients": {tower: tower_ingredients(tower, model, collator) for tower in TOWERS},
    }
    begun = folder.read_json(PLAN)
    if begun is None:
        folder.write_json(PLAN, plan)
        return plan
    for name in ("format", "source_shards", "dtype", "ingredients"):
        if begun[name] != plan[name]:
            raise ValueError(
                f"{folder.address} was begun with other {name.replace('_', ' ')} than now asked for: "
                "extract to a new place, or delete it."
            )
    return begun  # with its slices, whatever the number of processes now


def _rows_of_item(dataset: IterableDataset, item: int, plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shard, place = divmod(item, plan["slices"])
    rows = dataset.shard(plan["source_shards"], shard)
    return iter(split_dataset_by_node(rows, place, plan["slices"]) if plan["slices"] > 1 else rows)


class _Extraction:
    """The two passes of one process, and the rows on their way into a shard."""

    def __init__(
        self,
        model: Any,
        collator: ContrastiveCollator,
        folder: ShardFolder,
        dtype: torch.dtype,
        unreadable: str,
        num_workers: int,
    ) -> None:
        self.folder, self.collator, self.unreadable, self.device = folder, collator, unreadable, model.device
        self.passes = {tower: TowerPass(model, tower, dtype, self.device) for tower in TOWERS}
        self.sizes = {tower: batch_size(tower, self.device) for tower in TOWERS}
        self.workers = worker_count(self.device, num_workers, pixel_batch_bytes(model))

    def run_item(self, item: int, rows: Iterator[dict[str, Any]], bar: tqdm) -> None:
        """Compute an item's shards, then its record."""
        waiting: dict[int, dict[str, Any]] = {}  # ids and captions, by row

        def batches() -> Iterator[list[tuple[int, Any]]]:
            for batch in batched(enumerate(rows), self.sizes["vision"]):
                waiting.update({n: {"id": _identity(row), "captions": row["captions"]} for n, row in batch})
                yield [(number, row["image"]) for number, row in batch]

        shards: list[dict[str, Any]] = []
        problems: list[str] = []
        kept: list[dict[str, Any]] = []
        features: list[torch.Tensor] = []
        for batch in self._batches("vision", RowImages(self.collator.processor), batches()):
            problems += batch.reasons.values()
            check_readable(problems, self.unreadable)
            of_batch = [waiting.pop(number) for number in batch.numbers]
            if batch.inputs:
                features.append(batch.inputs["outputs"].cpu())
                kept += [of_batch[place] for place in batch.readable]
            bar.update(len(of_batch))
            if len(kept) >= SHARD_ROWS:
                shards.append(self._write(item, len(shards), features, kept))
                kept, features = [], []
        if kept:
            shards.append(self._write(item, len(shards), features, kept))
        self.folder.record(item, shards, problems)

    def _write(
        self, item: int, part: int, features: list[torch.Tensor], rows: list[dict[str, Any]]
    ) -> dict[str, Any]:
        counts = [len(row["captions"]) for row in rows]
        captions = [text for row in rows for text in row["captions"]]
        shard = Shard(
            image_features=torch.cat(features),
            text_features=self._texts(captions),
            first=torch.tensor([0, *counts]).cumsum(0),
            image_ids=torch.tensor([_number(row["id"]) for row in rows]),
            caption_ids=torch.tensor([_number(normalised(text)) for text in captions]),
        )
        by_count = {str(count): rows for count, rows in sorted(Counter(counts).items())}
        return self.folder.write_shard(
            item, part, vars(shard), rows=len(rows), captions=sum(counts), rows_by_captions=by_count
        )

    def _texts(self, texts: list[str]) -> torch.Tensor:
        """(texts, width); equal texts once, and those of nearly equal length together."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        place = {text: number for number, text in enumerate(distinct)}
        load = TextInputs(self.collator.processor, distinct, self.collator.max_text_length)
        batches = list(batched(range(len(distinct)), self.sizes["text"]))
        found = [batch.inputs["outputs"].cpu() for batch in self._batches("text", load, batches)]
        return torch.cat(found)[[place[text] for text in texts]]

    def _batches(self, tower: str, load: Any, batches: Any) -> Iterator[Any]:
        run = self.passes[tower]
        return load_batches(load, batches, device=self.device, num_workers=self.workers, run=run)


def _identity(row: Mapping[str, Any]) -> str:
    """What no two negatives share: the image, or the group that it is of."""
    return str(row.get("group_id") or row["image_id"])


def _number(name: str) -> int:
    """63 bits of its hash: among a billion images two collide once in twenty times."""
    return xxhash.xxh3_64_intdigest(name.encode()) >> 1
