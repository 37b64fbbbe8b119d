"""Where images come from: a folder, a list of files, or a data set, all as rows with an id and a state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, ClassLabel, Dataset, Image, IterableDataset
from pyarrow import csv, json, parquet

from .._digests import digest_of_json, image_identity
from ..data.folders import IMAGE_SUFFIXES, list_folder
from ..data.pairs import ImageColumn
from .table import OWN_COLUMNS

Images: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Dataset

# As `datasets` knows them from its imagefolder: a line for each image, which its column `file_name` names.
FILE_NAME = "file_name"
METADATA_FILES: dict[str, Callable[[Path], pa.Table]] = {
    "metadata.csv": csv.read_csv,
    "metadata.jsonl": json.read_json,
    "metadata.parquet": parquet.read_table,
}


@dataclass(frozen=True)
class Source:
    """Images that can be embedded, each id once.

    Attributes:
        rows: Arrow columns `id`, `path` (null for images without a file), `state`, and metadata.
        images: what `decode_image` opens, one for each row; lazily read from a data set.
    """

    rows: pa.Table
    images: Any

    def column(self, name: str) -> list[Any]:
        """A column as a list."""
        return self.rows[name].to_pylist()


def open_source(images: Images) -> Source:
    """List images without opening any.

    A folder's images are called by their path in it, listed files by the path that was given. Metadata of a
    folder's images come from `metadata.csv`, `.jsonl` or `.parquet` in it, with a column `file_name`. A data
    set's images are called by `image_id`, of several rows with one id the first counts, and its other columns
    are metadata. The state changes with a file's size or time or a data set's bytes, and with the metadata.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: there are no images, a metadata column has a name that is taken, or it is a stream.
    """
    if isinstance(images, IterableDataset):
        raise ValueError("A stream cannot be indexed or embedded as it is: load it with streaming=False.")
    if isinstance(images, Dataset):
        return _of_dataset(images)
    if isinstance(images, (str, os.PathLike)):
        folder = Path(images).expanduser()
        if not folder.exists():
            raise FileNotFoundError(f"There is no folder of images {str(images)!r}.")
        if folder.is_dir():
            return _of_folder(folder)
        images = [images]
    paths = {os.fspath(path): os.path.abspath(path) for path in images}
    return _source(list(paths), paths.values(), map(file_state, paths.values()), list(paths.values()))


def _of_folder(folder: Path) -> Source:
    listing = list_folder(folder)
    if not listing.images:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"The folder {str(folder)!r} holds no images ({known}).")
    ids = [Path(path).relative_to(listing.root).as_posix() for path in listing.images]
    file = next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)
    metadata = None if file is None else _metadata_of(file, pa.array(ids))
    return _source(ids, listing.images, map(file_state, listing.images), listing.images, metadata)


def _metadata_of(file: Path, ids: pa.Array) -> pa.Table:
    """The columns of a metadata file, a row for each image, null for images that it does not name."""
    try:
        table = METADATA_FILES[file.name](file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
    if FILE_NAME not in table.column_names:
        raise ValueError(f"{file} has no column {FILE_NAME!r}, which says what image a line is about.")
    names = table[FILE_NAME].cast(pa.string())
    if len(names.unique()) < len(names):
        raise ValueError(f"{file} names an image twice.")
    return table.drop_columns([FILE_NAME]).take(pc.index_in(ids, value_set=names.combine_chunks()))


def _of_dataset(dataset: Dataset) -> Source:
    missing = {"image", "image_id"} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"The data set has no column {' and no column '.join(sorted(missing))}; it has "
            f"{', '.join(dataset.column_names)}. `load_image_text_dataset` makes one that has them."
        )
    dataset = dataset.with_format(None)
    first: dict[str, int] = {}
    for row, image_id in enumerate(dataset["image_id"]):
        first.setdefault(str(image_id), row)
    dataset = dataset.select(first.values())
    images = ImageColumn(dataset)
    stored = images.rows["image"]
    return _source(list(first), map(_path_of, stored), map(_image_state, stored), images, _metadata(dataset))


def _metadata(dataset: Dataset) -> pa.Table:
    """Everything but the images, class labels by their names; an `id` of the user's own is left out."""
    features = {
        name: feature
        for name, feature in dataset.features.items()
        if name not in ("image", "image_id", "id") and not isinstance(feature, (Image, Audio))
    }
    if not features:
        return pa.table({})
    table: pa.Table = dataset.select_columns(list(features)).with_format("arrow")[:]
    for place, (name, feature) in enumerate(features.items()):
        if isinstance(feature, ClassLabel):
            labels = [None if v is None or v < 0 else feature.names[v] for v in table[name].to_pylist()]
            table = table.set_column(place, name, pa.array(labels, pa.string()))
    return table.replace_schema_metadata(None)


def _source(
    ids: list[str], paths: Iterable[Any], states: Iterable[str], images: Any, metadata: pa.Table | None = None
) -> Source:
    """With metadata, which are part of an image's state."""
    names, columns = ["id", "path", "state"], []
    if metadata is not None:
        if taken := [name for name in metadata.column_names if name in OWN_COLUMNS]:
            raise ValueError(f"The columns {', '.join(taken)} of the metadata need other names here.")
        values = metadata.to_pylist() if metadata.num_columns else [{}] * len(ids)
        states = [f"{state} {digest_of_json(row)}" for state, row in zip(states, values, strict=True)]
        names, columns = [*names, *metadata.column_names], metadata.columns
    own = [pa.array(list(values), pa.string()) for values in (ids, paths, states)]
    return Source(pa.table([*own, *columns], names=names), images)


def file_state(path: str) -> str:
    """Size and time of last change."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {path!r}.") from None
    return f"{state.st_size} {state.st_mtime_ns}"


def _path_of(image: dict[str, Any] | None) -> str | None:
    path = (image or {}).get("path")
    return os.path.abspath(path) if path and os.path.isfile(path) else None


def _image_state(image: dict[str, Any] | None) -> str:
    if image and image.get("bytes") is not None:
        return image_identity(image["bytes"], None).hex()
    return file_state((image or {}).get("path") or "")
