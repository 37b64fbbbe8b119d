"""Images with class labels, for zero-shot classification: what `datasets` loads, and the names of the classes."""

from __future__ import annotations

from pathlib import Path

from datasets import ClassLabel, Dataset, Image

from .formats.datasets_library import load_from_hub, load_repo_folder
from .from_datasets import image_columns
from .report import DataError


def load_labelled_images(source: str, split: str, label_column: str = "label") -> tuple[Dataset, list[str]]:
    """One split of a Hub data set, or of a folder that `datasets` reads, such as one subfolder for each class.

    Returns:
        The split with the columns `image` (undecoded) and `label` (positions), and the names of the classes,
        with blanks where folders and tables write underscores.

    Raises:
        DataError: there is no such split or column, or no image column.
    """
    folder = Path(source)
    loaded = (
        load_repo_folder(folder, None, False) if folder.is_dir() else load_from_hub(source, None, None, False)
    )
    if split not in loaded:
        raise DataError(f"{source} has no split {split!r}; it has {', '.join(loaded)}.")
    dataset = loaded[split]
    images = image_columns(dataset.features)
    if not images or label_column not in dataset.column_names:
        raise DataError(
            f"{source} needs a column of images and the column {label_column!r} with their classes; it has "
            f"{', '.join(dataset.column_names)}."
        )
    if not isinstance(dataset.features[label_column], ClassLabel):
        dataset = dataset.class_encode_column(label_column)
    names = [name.replace("_", " ") for name in dataset.features[label_column].names]
    dataset = dataset.select_columns([images[0], label_column])
    dataset = dataset.rename_columns({images[0]: "image", label_column: "label"})
    return dataset.cast_column("image", Image(decode=False)), names
