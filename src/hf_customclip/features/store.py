"""The on-disk store of one tower's outputs: a safetensors file filled part by part, and a manifest.

    <folder>/<vision|text>-<key>/features.safetensors     features (count, width), order (count,)
                                 manifest.json            what they depend on, checksums; written last
                                 features.partial, work/  while it is being filled

The space is reserved before the work. Several processes and several runs may fill one store together: each
claims parts by a file lock, which the system frees when a process is killed, and records every part it has
written with a checksum. A part depends on its items alone, so whoever writes it writes the same bytes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from transformers.utils import logging

from .._digests import digest_of_json
from .._files import read_json, readable_size, replacing, write_json
from .cached_rows import CachedRows, map_features
from .items import Captions, Images
from .layout import DTYPES, Layout

logger = logging.get_logger(__name__)

FORMAT = 1
MANIFEST, FINISHED = "manifest.json", "features.safetensors"
PARTIAL, WORK, START = "features.partial", "work", "start.json"


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds.

    Attributes:
        tower: "vision" or "text".
        ingredients: everything the features depend on, as short strings; they make the key.
        about: for people: which model and which data.
        layout: how many features, how wide, of which type.
    """

    tower: str
    ingredients: dict[str, str]
    about: dict[str, str]
    layout: Layout

    @property
    def key(self) -> str:
        """32 hexadecimal digits."""
        return digest_of_json({"format": FORMAT, "tower": self.tower, **self.ingredients})

    def describe(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {
            "format": FORMAT,
            "key": self.key,
            "tower": self.tower,
            "about": self.about,
            "ingredients": self.ingredients,
            "count": self.layout.count,
            "width": self.layout.width,
            "dtype": DTYPES[self.layout.dtype],
        }


@dataclass(frozen=True)
class Stored:
    """A finished store, checked against its checksums.

    Attributes:
        features: (count, width), memory-mapped.
        order: (count,) the row of each item.
        unreadable: items without a feature (their rows are zero), by number, and why.
        file: the safetensors file.
    """

    features: torch.Tensor
    order: np.ndarray
    unreadable: dict[int, str]
    file: Path

    def rows(self, items: Images | Captions) -> CachedRows:
        """The features by row, or caption, of the data set; out of range for captions that are not used."""
        order = np.append(self.order, len(self.order))
        return CachedRows(self.features, order[items.index], self.file)


class FeatureStore:
    """One store, for this process: open it, or fill it together with whoever else does."""

    def __init__(self, folder: Path, spec: StoreSpec) -> None:
        self.spec, self.layout = spec, spec.layout
        self.path = folder / f"{spec.tower}-{spec.key}"
        self._held: dict[int, FileLock] = {}

    # ---- Reading ----

    def open(self) -> Stored | None:
        """The features if they are all there and as they were written; damaged ones are to be made anew."""
        if not self.is_complete():
            return None
        manifest, file = read_manifest(self.path), self.path / FINISHED
        damaged = self._damaged_parts(manifest)
        if manifest is None or damaged:
            self._demote(manifest, damaged)
            return None
        if (self.path / WORK).exists():  # killed before its last step
            with self._lock():
                if self.is_complete():
                    self._discard_work()
        unreadable = {int(item): why for item, why in manifest["unreadable"].items()}
        return Stored(map_features(file), self.layout.read_order(file), unreadable, file)

    def is_complete(self) -> bool:
        """Whether somebody has finished it (unchecked)."""
        return (self.path / MANIFEST).exists()

    def _damaged_parts(self, manifest: dict[str, Any] | None) -> list[int]:
        """The parts whose bytes are not those that were written; all, where more than parts are wrong."""
        file, parts = self.path / FINISHED, list(range(self.layout.parts))
        if manifest is None or manifest["ingredients"] != self.spec.ingredients or not self.layout.fits(file):
            return parts
        if self.layout.order_checksum(file) != manifest["order_checksum"]:
            return parts
        if len(manifest["checksums"]) != len(parts):  # written with another cut into parts
            return parts
        pairs = zip(parts, manifest["checksums"], strict=True)
        return [part for part, checksum in pairs if self.layout.part_checksum(file, part) != checksum]

    def _demote(self, manifest: dict[str, Any] | None, damaged: list[int]) -> None:
        """Back to a store that is being filled, which lacks the damaged parts."""
        with self._lock():
            if not self.is_complete():
                return  # another process has been here
            logger.warning(
                f"The cached features in {self.path} are not as they were written: {len(damaged)} of "
                f"{self.layout.parts} parts are computed anew."
            )
            (self.path / MANIFEST).unlink()
            self._discard_work()
            if manifest is None or len(damaged) == self.layout.parts:
                self._discard_remains()
                return
            (self.path / WORK).mkdir(exist_ok=True)
            for part in set(range(self.layout.parts)) - set(damaged):
                of_part = {i: why for i, why in manifest["unreadable"].items() if self._part_of(i) == part}
                self._record(part, manifest["checksums"][part], of_part)
            os.replace(self.path / FINISHED, self.path / PARTIAL)
            self._write_start(manifest["order_checksum"])

    def _part_of(self, item: str) -> int:
        return int(self.layout.read_order(self.path / FINISHED)[int(item)]) // self.layout.part_rows

    # ---- Filling ----

    def begin(self, make_order: Callable[[], np.ndarray]) -> None:
        """Reserve the space, unless this or another run has begun already.

        Args:
            make_order: gives the row of each item, (count,).

        Raises:
            OSError: there is too little space on the disk.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if self.is_complete() or self._has_begun():
                return
            self._discard_remains()
            with needing_space(self.path, self.layout.disk_bytes):
                order = make_order()
                with replacing(self.path / PARTIAL) as name, name.open("w+b") as file:
                    self.layout.write_frame(file, order)
                (self.path / WORK).mkdir(exist_ok=True)
                self._write_start(self.layout.order_checksum(self.path / PARTIAL))

    def _has_begun(self) -> bool:
        partial, start = self.path / PARTIAL, read_json(self.path / WORK / START)
        if start is None:
            return False
        self._back_to_partial()
        return self.layout.fits(partial) and self.layout.order_checksum(partial) == start["order_checksum"]

    def _back_to_partial(self) -> None:
        """Undo the step before the last, where whoever took it was killed before the last."""
        if (self.path / FINISHED).exists():
            os.replace(self.path / FINISHED, self.path / PARTIAL)

    def _discard_remains(self) -> None:
        for remains in (FINISHED, PARTIAL):
            (self.path / remains).unlink(missing_ok=True)
        self._discard_work()

    def _discard_work(self) -> None:
        shutil.rmtree(self.path / WORK, ignore_errors=True)
        for remains in self.path.glob("*.tmp"):
            remains.unlink(missing_ok=True)

    def order(self) -> np.ndarray:
        """(count,) the row of each item, once begun."""
        with self._lock():  # another process may be giving the file its final name
            partial = self.path / PARTIAL
            return self.layout.read_order(partial if partial.exists() else self.path / FINISHED)

    def claims(self) -> Iterator[int]:
        """The parts that nobody has computed or is computing; each is this process's until it is written."""
        return (part for part in range(self.layout.parts) if self._claim(part))

    def has_claims(self) -> bool:
        """Whether `claims` would give a part now."""
        return any(self._claim(part) and self._release(part) for part in range(self.layout.parts))

    def write_part(self, part: int, features: torch.Tensor, unreadable: dict[int, str]) -> None:
        """Record a claimed part: its features (rows, width), and the items among them that have none."""
        checksum = self.layout.write_part(self.path / PARTIAL, part, features)
        self._record(part, checksum, {str(item): why for item, why in unreadable.items()})
        self._release(part)

    def release_all(self) -> None:
        """Leave what is claimed to others."""
        for part in list(self._held):
            self._release(part)

    def rows_done(self) -> int:
        """How many rows have been written by anybody."""
        if self.is_complete():
            return self.layout.count
        done = [part for part in range(self.layout.parts) if self._record_of(part).exists()]
        return sum(end - first for first, end in map(self.layout.span, done))

    def finish(self) -> bool:
        """Give the store its final name if every part is there, and as it was recorded."""
        if self.rows_done() < self.layout.count:
            return False
        with self._lock():
            if self.is_complete():
                return True
            self._back_to_partial()
            records = [read_json(self._record_of(part)) for part in range(self.layout.parts)]
            for part, record in enumerate(records):
                if record is None or self._partial_checksum(part) != record["checksum"]:
                    self._record_of(part).unlink(missing_ok=True)
                    return False
            self._complete(records)
        return True

    def _complete(self, records: list[dict[str, Any]]) -> None:
        manifest = {
            **self.spec.describe(),
            "order_checksum": self.layout.order_checksum(self.path / PARTIAL),
            "checksums": [record["checksum"] for record in records],
            "unreadable": {item: why for record in records for item, why in record["unreadable"].items()},
        }
        os.replace(self.path / PARTIAL, self.path / FINISHED)
        write_json(self.path / MANIFEST, {**manifest, "manifest_checksum": digest_of_json(manifest)})
        self._discard_work()

    # ---- Locks and records ----

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
        return self._record_of(part).exists() or self.is_complete()

    def _partial_checksum(self, part: int) -> str:
        return self.layout.part_checksum(self.path / PARTIAL, part)

    def _record_of(self, part: int) -> Path:
        return self.path / WORK / f"{part:05d}.json"

    def _record(self, part: int, checksum: str, unreadable: dict[str, str]) -> None:
        write_json(self._record_of(part), {"checksum": checksum, "unreadable": unreadable})

    def _write_start(self, order_checksum: str) -> None:
        write_json(self.path / WORK / START, {**self.spec.describe(), "order_checksum": order_checksum})


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest in a store's folder; None where there is none, or one that was altered."""
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict):
        return None
    checksum = manifest.pop("manifest_checksum", None)
    return manifest if digest_of_json(manifest) == checksum else None


@contextmanager
def needing_space(folder: Path, needed: int) -> Iterator[None]:
    """Raise OSError, with the numbers, where `needed` bytes do not fit, or in the end did not."""
    free = shutil.disk_usage(folder).free
    full = OSError(
        errno.ENOSPC,
        f"The cached features need {readable_size(needed)}, and {folder} has {readable_size(free)} free: "
        "make space, choose another feature_cache_dir, or train with feature_cache='never'",
    )
    if free < needed:
        raise full
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise full from error
        raise
