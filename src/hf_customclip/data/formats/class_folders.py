"""Folders of images, one for each class: what torchvision calls an ImageFolder."""

from __future__ import annotations

import os
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from ..folders import list_folder
from ..splits import ALIASES, split_name
from .datasets_library import shards_in


def read_class_folders(root: Path, label_column: str = "label") -> DatasetDict | None:
    """The images by split, with the column `image` and their class's folder as `label_column`.

    `class/image.jpg` is all one split, called "train"; `train/class/image.jpg` says which. `datasets`' own
    imagefolder looks for splits in file names too, and keeps one image where one is called `..._train.jpg`.

    Returns:
        None where images do not lie in folders below the root, or shards of a data set lie beside them.
    """
    listing = list_folder(root)
    if not listing.images or shards_in(listing):
        return None
    parts = [Path(os.path.relpath(image, listing.root)).parts for image in listing.images]
    depth = 1 if all(each[0].lower() in ALIASES and len(each) > 2 for each in parts) else 0
    if any(len(each) < depth + 2 for each in parts):
        return None
    classes = ClassLabel(names=sorted({each[depth] for each in parts}))
    features = Features({"image": Image(), label_column: classes})
    rows: dict[str, dict[str, list[str]]] = {}
    for image, each in zip(listing.images, parts, strict=True):
        split = rows.setdefault(split_name(each[0]) if depth else "train", {"image": [], label_column: []})
        split["image"].append(image)
        split[label_column].append(each[depth])
    return DatasetDict({name: Dataset.from_dict(found, features=features) for name, found in rows.items()})
