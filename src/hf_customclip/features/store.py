"""One tower's outputs over the distinct images or captions of a listing: a folder of shards (`shard_folder.py`).

    <folder>/<vision|text>-<key>/       shards, one for each part of the images or captions, and the manifest
                                 work/  records, locks, and the order of the whole, while it is being filled

Several processes and several runs may fill one store together: each claims parts by a file lock, which the system
frees when a process is killed. A part depends on its items alone, so whoever writes it writes the same bytes.
"""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers.utils import logging

from .._digests import digest_of_json
from .._files import readable_size
from .cached_rows import CachedRows, MappedFeatures
from .items import Captions, Images
from .shard_folder import DTYPES, FEATURES_OF, FORMAT, MANIFEST, PLAN, WORK, ShardFolder, is_intact

logger = logging.get_logger(__name__)

ORDER = f"{WORK}/order.safetensors"
# A part is what a killed run loses, and what processes share out.
PARTS, FEWEST_ROWS, MOST_ROWS = 64, 64, 2048
PAGE = 4096


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds.

    Attributes:
        tower: "vision" or "text".
        ingredients: everything the features depend on, as short strings; they make the key.
        about: for people: which model and which data.
        count, width, dtype: how many features, how wide, of which type.
    """

    tower: str
    ingredients: dict[str, str]
    about: dict[str, str]
    count: int
    width: int
    dtype: torch.dtype

    @property
    def key(self) -> str:
        """32 hexadecimal digits."""
        parts = {"format": FORMAT, "tower": self.tower, "part_rows": self.part_rows}
        return digest_of_json({**parts, **self.ingredients})

    @property
    def part_rows(self) -> int:
        """How many features are in a part; the last may have fewer."""
        return min(max(math.ceil(self.count / PARTS), FEWEST_ROWS), MOST_ROWS)

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return math.ceil(self.count / self.part_rows)

    def rows(self, part: int) -> range:
        """The rows of a part."""
        return range(part * self.part_rows, min((part + 1) * self.part_rows, self.count))

    def disk_bytes(self, rows: int) -> int:
        """What so many rows take, with the order, and of each part the header, the record and the lock."""
        pages = 4 * (math.ceil(rows / self.part_rows) + 2)
        return rows * (self.width * self.dtype.itemsize + 16) + pages * PAGE

    def plan(self) -> dict[str, Any]:
        """As it stands in the plan and the manifest."""
        begin = {"format": FORMAT, "items": self.parts, "key": self.key}
        return {**begin, **vars(self), "dtype": DTYPES[self.dtype]}


@dataclass(frozen=True)
class Stored:
    """A finished store, checked against its checksums.

    Attributes:
        features: (count, width), memory-mapped.
        order: (count,) the row of each item.
        unreadable: items without a feature (their rows are zero), by number, and why.
    """

    features: MappedFeatures
    order: np.ndarray
    unreadable: dict[int, str]

    def rows(self, items: Images | Captions) -> CachedRows:
        """The features by row, or caption, of the data set; out of range for captions that are not used."""
        order = np.append(self.order, len(self.order))
        return CachedRows(self.features, order[items.index])


class FeatureStore:
    """One store, for this process: open it, or fill it together with whoever else does."""

    def __init__(self, folder: Path, spec: StoreSpec) -> None:
        self.spec, self.path = spec, folder.absolute() / f"{spec.tower}-{spec.key}"
        self.folder = ShardFolder(str(self.path))
        # The items' numbers in the order of their rows, once begun.
        self.order = np.zeros(0, np.int64)
        self._held: dict[int, FileLock] = {}

    # ---- Reading ----

    def open(self) -> Stored | None:
        """The features if they are all there and as they were written; damaged ones are to be made anew."""
        if not self.is_complete():
            return None
        manifest = self.folder.read_json(MANIFEST)
        if damaged := self._damaged_parts(manifest):
            self._reopen(manifest, damaged)
            return None
        if (self.path / WORK).exists():  # killed before its last step
            self.finish()
        shards, order = manifest["shards"], np.empty(self.spec.count, np.int64)
        for part, shard in enumerate(shards):
            order[self.folder.read_tensors(shard["name"])["numbers"].numpy()] = self.spec.rows(part)
        features = MappedFeatures(
            [self.path / shard["name"] for shard in shards], FEATURES_OF[self.spec.tower]
        )
        unreadable = {int(item): why for shard in shards for item, why in shard["unreadable"].items()}
        return Stored(features, order, unreadable)

    def is_complete(self) -> bool:
        """Whether somebody has finished it (unchecked)."""
        return (self.path / MANIFEST).exists()

    def _damaged_parts(self, manifest: Any) -> list[int]:
        """The parts whose bytes are not those that were written; all, where the manifest is damaged."""
        if not is_intact(manifest) or manifest["key"] != self.spec.key:
            return list(range(self.spec.parts))
        shards = enumerate(manifest["shards"])
        return [part for part, shard in shards if self.folder.checksum(shard["name"]) != shard["checksum"]]

    def _reopen(self, manifest: Any, damaged: list[int]) -> None:
        """Back to a store that is being filled, which lacks the damaged parts."""
        with self._lock():
            if not self.is_complete():
                return  # another process has been here
            logger.warning(
                f"The cached features in {self.path} are not as they were written: {len(damaged)} of "
                f"{self.spec.parts} parts are computed anew."
            )
            self._discard_work()
            for part in set(range(self.spec.parts)) - set(damaged):
                self._record(part, manifest["shards"][part])
            (self.path / MANIFEST).unlink()

    # ---- Filling ----

    def begin(self, make_order: Callable[[], np.ndarray]) -> bool:
        """Lay down what is to be done, unless this or another run has; False where another has finished it since.

        Args:
            make_order: gives the items' numbers in the order in which they are to be stored, (count,).

        Raises:
            OSError: there is too little space on the disk.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if self.is_complete():
                return False
            self._check_space()
            if not self._read_order():
                self.order = make_order()
                self.folder.write_tensors(ORDER, {"numbers": torch.from_numpy(self.order)})
            if self.folder.read_json(PLAN) is None:
                self.folder.write_json(PLAN, self.spec.plan())
        return True

    def _read_order(self) -> bool:
        with suppress(FileNotFoundError, SafetensorError):
            self.order = self.folder.read_tensors(ORDER)["numbers"].numpy().copy()
        return np.array_equal(np.sort(self.order), np.arange(self.spec.count))

    def claims(self) -> Iterator[int]:
        """The parts that nobody has computed or is computing; each is this process's until it is written."""
        return (part for part in range(self.spec.parts) if self._claim(part))

    def has_claims(self) -> bool:
        """Whether `claims` would give a part now."""
        return any(self._claim(part) and self._release(part) for part in range(self.spec.parts))

    def write_part(self, part: int, features: torch.Tensor, unreadable: dict[int, str]) -> None:
        """Write a claimed part: its features (rows, width), and the items among them that have none."""
        rows = self.spec.rows(part)
        tensors = {
            FEATURES_OF[self.spec.tower]: features.to("cpu", self.spec.dtype).contiguous(),
            "numbers": torch.from_numpy(self.order[rows]),
        }
        reasons = {str(item): why for item, why in unreadable.items()}
        try:
            shard = self.folder.write_shard(part, 0, tensors, rows=len(rows), unreadable=reasons)
            self._record(part, shard)
        except OSError:
            self._check_space()  # others may have filled the disk
            raise
        self._release(part)

    def release_all(self) -> None:
        """Leave what is claimed to others."""
        for part in list(self._held):
            self._release(part)

    def rows_done(self) -> int:
        """How many rows have been written by anybody."""
        if self.is_complete():
            return self.spec.count
        return sum(len(self.spec.rows(part)) for part in self.folder.records())

    def finish(self) -> bool:
        """Write the manifest if every part is there."""
        with self._lock():
            if not self.is_complete() and self.folder.finish(self.spec.plan(), ["rows"]) is None:
                return False
            self._discard_work()
        return True

    def _discard_work(self) -> None:
        shutil.rmtree(self.path / WORK, ignore_errors=True)
        for remains in self.path.glob("*.tmp"):
            remains.unlink(missing_ok=True)

    # ---- Locks, records, space ----

    def _lock(self) -> FileLock:
        return FileLock(self.path / ".lock")

    def _claim(self, part: int) -> bool:
        if self._is_written(part):
            return False
        lock = FileLock(self.path / WORK / f"{part:05d}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError:
            if self.is_complete():  # whoever finished it has just cleared the locks away
                return False
            raise
        self._held[part] = lock
        # Asked again: it may have been written while this process asked.
        return not (self._is_written(part) and self._release(part))

    def _release(self, part: int) -> bool:
        self._held.pop(part).release()
        return True

    def _is_written(self, part: int) -> bool:
        return (self.path / WORK / f"{part:05d}.json").exists() or self.is_complete()

    def _record(self, part: int, shard: dict[str, Any]) -> None:
        self.folder.record(part, [shard], list(shard["unreadable"].values()))

    def _check_space(self) -> None:
        needed = self.spec.disk_bytes(self.spec.count - self.rows_done())
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"The cached features need {readable_size(needed)}, and {self.path} has {readable_size(free)} free: "
                "make space, choose another feature_cache_dir, or train with feature_cache='never'",
            )
