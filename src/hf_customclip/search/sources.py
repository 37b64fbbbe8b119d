"""Where pictures come from: a folder, a list of files, or a data set, all as rows with an id and a state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, Image

from ..data.pictures import PICTURE_SUFFIXES, list_folder
from ..features.hashing import digest, digest_of_json

Images: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Dataset

OWN_COLUMNS = ("id", "path", "state", "vector")


@dataclass(frozen=True)
class Source:
    """Pictures that can be embedded, each id once.

    Attributes:
        rows: Arrow columns `id`, `path` (null for pictures without a file), `state`, and metadata.
        pictures: what `decode_image` opens, one for each row; lazily read from a data set.
    """

    rows: pa.Table
    pictures: Any

    def __len__(self) -> int:
        return self.rows.num_rows

    def keys(self) -> list[str]:
        """Each picture in its present state, as one string."""
        columns = (self.column(name) for name in ("id", "path", "state"))
        return ["\n".join(map(str, row)) for row in zip(*columns, strict=True)]

    def column(self, name: str) -> list[Any]:
        """A column as a list."""
        return self.rows[name].to_pylist()


def open_source(images: Images) -> Source:
    """List pictures without opening any.

    A folder's pictures are called by their path in it, listed files by the path that was given. A data set's
    are called by `image_id`, of several rows with one id the first counts, and its other columns are
    metadata. The state changes with a file's size or time, or with a data set's bytes and metadata.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: there are no pictures, or a metadata column has a name that is taken.
    """
    if isinstance(images, Dataset):
        return _of_dataset(images)
    if isinstance(images, (str, os.PathLike)):
        folder = Path(images).expanduser()
        if not folder.exists():
            raise FileNotFoundError(f"There is no folder of pictures {str(images)!r}.")
        if folder.is_dir():
            return _of_folder(folder)
        images = [images]
    return _of_files({os.fspath(path): os.path.abspath(path) for path in images})


def _of_folder(folder: Path) -> Source:
    listing = list_folder(folder)
    if not listing.pictures:
        known = ", ".join(sorted(PICTURE_SUFFIXES))
        raise ValueError(f"The folder {str(folder)!r} holds no pictures ({known}).")
    return _of_files({Path(path).relative_to(listing.root).as_posix(): path for path in listing.pictures})


def _of_files(path_of: dict[str, str]) -> Source:
    columns = {
        "id": list(path_of),
        "path": list(path_of.values()),
        "state": [file_state(path) for path in path_of.values()],
    }
    return Source(pa.table(columns, schema=own_schema()), columns["path"])


def own_schema() -> pa.Schema:
    """The columns that every picture has, besides its vector."""
    return pa.schema([("id", pa.string()), ("path", pa.string()), ("state", pa.string())])


def file_state(path: str) -> str:
    """Size and time of last change."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no picture {path!r}.") from None
    return f"{state.st_size} {state.st_mtime_ns}"


def _of_dataset(dataset: Dataset) -> Source:
    missing = {"image", "image_id"} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"The data set has no column {' and no column '.join(sorted(missing))}; it has "
            f"{', '.join(dataset.column_names)}. `load_image_text_dataset` makes one that has them."
        )
    taken = (set(OWN_COLUMNS) & set(dataset.column_names)) - {"id"}
    if taken:
        raise ValueError(f"The columns {', '.join(sorted(taken))} of the data set need other names here.")
    dataset = dataset.with_format(None)
    ids = [str(image_id) for image_id in dataset["image_id"]]
    first = list({image_id: row for row, image_id in reversed(list(enumerate(ids)))}.values())[::-1]
    dataset = dataset.select(first)
    metadata = _metadata(dataset)
    pictures = dataset.select_columns(["image"]).cast_column("image", Image(decode=False))
    rows = pa.table(
        {
            "id": [ids[row] for row in first],
            "path": [_path_of(row["image"]) for row in pictures],
            "state": [
                f"{_picture_state(row['image'])} {digest_of_json(values)}"
                for row, values in zip(pictures, _row_dicts(metadata, len(dataset)), strict=True)
            ],
        },
        schema=own_schema(),
    )
    for name in metadata.column_names:
        rows = rows.append_column(name, metadata[name])
    return Source(rows, _Column(pictures))


@dataclass(frozen=True)
class _Column:
    """The pictures of a data set, read when they are asked for."""

    rows: Dataset

    def __getitem__(self, row: int) -> Any:
        return self.rows[row]["image"]


def _metadata(dataset: Dataset) -> pa.Table:
    """Everything but the pictures, class labels by their names; an `id` of the user's own is left out."""
    left_out = {"image", "image_id", "id"}
    names = [
        name
        for name, feature in dataset.features.items()
        if name not in left_out and not isinstance(feature, (Image, Audio))
    ]
    if not names:
        return pa.table({})
    table: pa.Table = dataset.select_columns(names).with_format("arrow")[:]
    for place, name in enumerate(names):
        feature = dataset.features[name]
        if isinstance(feature, ClassLabel):
            labels = [None if v is None or v < 0 else feature.names[v] for v in table[name].to_pylist()]
            table = table.set_column(place, name, pa.array(labels, pa.string()))
    return table.replace_schema_metadata(None)


def _row_dicts(table: pa.Table, count: int) -> list[dict[str, Any]]:
    return table.to_pylist() if table.num_columns else [{} for _ in range(count)]


def _path_of(picture: dict[str, Any] | None) -> str | None:
    path = (picture or {}).get("path")
    return os.path.abspath(path) if path and os.path.isfile(path) else None


def _picture_state(picture: dict[str, Any] | None) -> str:
    if picture and picture.get("bytes") is not None:
        return digest(picture["bytes"])
    return file_state((picture or {}).get("path") or "")
