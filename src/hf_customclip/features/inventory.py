"""What is kept on the disk, how big it is and for what, and how to be rid of it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .._files import read_json
from .shard_folder import MANIFEST, PLAN

STORE_NAME = re.compile(r"(vision|text)-[0-9a-f]{32}")


@dataclass(frozen=True)
class StoreInfo:
    """One kept store.

    Attributes:
        tower: "vision" or "text".
        key: 32 hexadecimal digits, unique.
        path: its folder.
        about: which model and which data, as far as their names are known.
        count, width, dtype: how many features, how wide, of which type ("F32", "BF16").
        size: bytes on the disk.
        complete: whether it is finished; others are resumed by the next run that needs them.
    """

    tower: str
    key: str
    path: Path
    about: dict[str, str]
    count: int
    width: int
    dtype: str
    size: int
    complete: bool


def list_stores(folder: Path) -> list[StoreInfo]:
    """The stores in a feature folder, by tower and key; other files in it are passed over."""
    found = [path for path in folder.glob("*-*") if STORE_NAME.fullmatch(path.name) and path.is_dir()]
    return [_info(path) for path in sorted(found)]


def clear_stores(folder: Path, key: str | None = None) -> list[StoreInfo]:
    """Delete the stores whose key begins with `key`, or all of them; those that are gone.

    Raises:
        ValueError: no store has that key, or more than one.
    """
    stores = [store for store in list_stores(folder) if key is None or store.key.startswith(key)]
    if key is not None and len(stores) != 1:
        raise ValueError(f"{len(stores)} stores in {folder} have a key that begins with {key!r}, not one")
    for store in stores:
        shutil.rmtree(store.path)
    if key is None:
        shutil.rmtree(folder / "digests", ignore_errors=True)
    return stores


def _info(path: Path) -> StoreInfo:
    tower, key = path.name.split("-")
    found = read_json(path / MANIFEST) or read_json(path / PLAN) or {}
    return StoreInfo(
        tower=tower,
        key=key,
        path=path,
        about=found.get("about", {}),
        count=found.get("count", 0),
        width=found.get("width", 0),
        dtype=found.get("dtype", ""),
        size=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        complete=(path / MANIFEST).exists(),
    )
