"""An index on the disk.

    <directory>/index.json            the model, and the names of the files below; replaced last
                rows-<id>.arrow       rows with vectors, written once, memory-mapped
                removed-<id>.arrow    numbers of the rows that are no longer there
                neighbours-<id>.faiss candidates for large collections
                embedding-<digest>/   what a run that has not finished yet has embedded

Files are never changed, so whoever reads an older manifest still finds what it names in memory; those that the
manifest does not name are deleted after it has been replaced.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from filelock import FileLock

from .._files import write_json
from .arrow import mapped, write_arrow
from .encoder import ModelName
from .manifest import FORMAT, MANIFEST, is_index, read_manifest
from .neighbours import Neighbours
from .rows import Rows, join

PATTERNS = ("rows-*", "removed-*", "neighbours-*")
# Rows files that an index is made of before they are joined into one.
MOST_FILES = 32


@dataclass(frozen=True)
class Saved:
    """What lies in an index's directory."""

    made_by: ModelName
    rows: Rows
    neighbours: Neighbours | None


def shards_folder(directory: Path, made_by: ModelName) -> Path:
    """Where what is embedded lies until the index holds it."""
    return directory / f"embedding-{made_by.digest}"


def drop_shards(folder: Path) -> None:
    """Forget what was embedded, by this model or another."""
    for old in folder.parent.glob("embedding-*"):
        shutil.rmtree(old, ignore_errors=True)


def read(directory: Path) -> Saved:
    """Open what the manifest names.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is damaged, or of a later version.
    """
    manifest = read_manifest(directory)
    try:
        return _open(directory, manifest)
    except (KeyError, TypeError, IndexError, OSError, pa.ArrowInvalid, RuntimeError) as error:
        if manifest != read_manifest(directory):  # another process has replaced it meanwhile
            return read(directory)
        raise ValueError(
            f"The index in {directory} is damaged ({error}): delete it, and index the images again."
        ) from error


def _open(directory: Path, manifest: dict[str, Any]) -> Saved:
    tables = [mapped(directory / name) for name in manifest["rows"]]
    rows = join(tables)
    removed = np.zeros(len(rows), dtype=bool)
    if manifest["removed"]:
        removed[mapped(directory / manifest["removed"])["row"].to_numpy()] = True
    saved = tuple(
        (directory.resolve() / name, len(t)) for name, t in zip(manifest["rows"], tables, strict=True)
    )
    neighbours = manifest["neighbours"]
    return Saved(
        made_by=ModelName(**manifest["model"]),
        rows=Rows(rows, removed, saved),
        neighbours=Neighbours.open(directory.resolve(), neighbours) if neighbours else None,
    )


def write(directory: Path, made_by: ModelName, rows: Rows, neighbours: Neighbours | None) -> Rows:
    """Make the directory hold this index, by writing what it lacks; rows that are now mapped from its files.

    Raises:
        ValueError: the directory holds another model's index.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        old = read_manifest(directory) if is_index(directory) else None
        if old is not None:
            made_by.check_made(ModelName(**old["model"]), str(directory))
        names = _write_rows(directory, rows)
        manifest = {
            "format": FORMAT,
            "model": made_by.to_dict(),
            "count": len(rows),
            "rows": names,
            "removed": _write_removed(directory, rows),
            "neighbours": _write_neighbours(directory, neighbours),
        }
        write_json(directory / MANIFEST, manifest)
        _delete_others(directory, manifest)
    return read(directory).rows


def _write_rows(directory: Path, rows: Rows) -> list[str]:
    """Names of the files that hold the rows, of which only what is new is written."""
    kept = [file for file, _ in rows.saved]
    there = all(file.parent == directory.resolve() and file.exists() for file in kept)
    if not there or len(kept) > MOST_FILES:
        return [_write(directory, "rows", rows.table)]
    new = rows.table.slice(sum(count for _, count in rows.saved))
    names = [file.name for file in kept]
    return [*names, _write(directory, "rows", new)] if len(new) or not names else names


def _write_removed(directory: Path, rows: Rows) -> str | None:
    numbers = np.flatnonzero(rows.removed)
    return _write(directory, "removed", pa.table({"row": numbers})) if len(numbers) else None


def _write_neighbours(directory: Path, neighbours: Neighbours | None) -> dict[str, Any] | None:
    if neighbours is None:
        return None
    if (
        neighbours.file is None
        or neighbours.file.parent != directory.resolve()
        or not neighbours.file.exists()
    ):
        neighbours.write(directory.resolve() / f"neighbours-{uuid4().hex[:12]}.faiss")
    return neighbours.describe()


def _write(directory: Path, kind: str, table: pa.Table) -> str:
    name = f"{kind}-{uuid4().hex[:12]}.arrow"
    write_arrow(directory / name, table)
    return name


def _delete_others(directory: Path, manifest: dict[str, Any]) -> None:
    named = {*manifest["rows"], manifest["removed"], (manifest["neighbours"] or {}).get("file")}
    for pattern in PATTERNS:
        for file in directory.glob(pattern):
            if file.name not in named:
                file.unlink(missing_ok=True)
