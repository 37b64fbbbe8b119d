"""The images that a command was given: files, folders, or a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .data_options import DataOptions

if TYPE_CHECKING:
    from datasets import Dataset

Images = Annotated[
    str, typer.Argument(metavar="IMAGES", help="A folder of images, or a data set: a table, a Hub id, …")
]
IsDataset = Annotated[
    bool,
    typer.Option(
        "--dataset",
        help="The folder is a data set, as it is too with any option of data; its columns become metadata.",
    ),
]


class DatasetImages(Sequence[tuple[str, Any]]):
    """A data set's rows as names with what `decode_image` opens, read when they are asked for."""

    def __init__(self, dataset: Dataset) -> None:
        from datasets import Image

        self.dataset = dataset.select_columns(["image", "image_id"]).cast_column("image", Image(decode=False))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Any) -> Any:
        row = self.dataset[place]
        return row["image"]["path"] or str(row["image_id"]), row["image"]


def find_images(paths: Sequence[str], options: DataOptions) -> Sequence[tuple[str, Any]]:
    """Names, and what `decode_image` opens, of every image file named, of every one in the folders named, each once
    and in a stable order; or of one data set.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a folder without images, or a data set that cannot be read.
    """
    if len(paths) == 1 and is_dataset(paths[0], options):
        return DatasetImages(options.load(paths[0], "all")[0])
    from ..data.folders import IMAGE_SUFFIXES, list_folder

    found: list[str] = []
    for path in paths:
        if os.path.isfile(path):
            found.append(path)  # asked for by name: whatever it is called, it is opened
        elif not os.path.isdir(path):
            raise FileNotFoundError(f"There is no image or folder {path!r}.")
        else:
            images = list_folder(path).images
            if not images:
                raise ValueError(
                    f"The folder {path!r} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
                )
            found += [os.path.relpath(image) if not os.path.isabs(path) else image for image in images]
    return [(path, path) for path in dict.fromkeys(found)]


def is_dataset(source: str, options: DataOptions) -> bool:
    """Whether a source is to be read as data with captions: by an option that says how, or a table of them."""
    from ..data.folders import DATA_SUFFIXES

    return bool(options.given()) or Path(source).suffix.lower() in DATA_SUFFIXES


def folder_or_dataset(source: str, dataset: bool, split: str, options: DataOptions) -> Any:
    """What a command is to embed: a folder, or a data set with its columns of metadata."""
    if not (dataset or is_dataset(source, options)):
        return source
    from ..search.table import OWN_COLUMNS

    loaded, _ = options.load(source, split, keep_columns=True)
    return loaded.remove_columns([name for name in loaded.column_names or [] if name in OWN_COLUMNS])
