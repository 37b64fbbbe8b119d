"""What a model folder knows of its training data, and whether images to be measured on are among them.

One small file lies beside the weights: in its metadata where the data came from and how they were divided, in its
tensors 8 bytes of every training image's content and 8 of its look. No image can be told from them, but whoever
has the image can tell that it is there, under whatever name and in whatever container.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import cached_file

from .._files import replacing
from ..data.near_duplicates import alike, hash_of_bytes, map_image_files
from ..inference.fingerprints import digest

RECORD_FILE = "training_data.safetensors"
PATH_OPTIONS = ("images", "captions_file", "karpathy_file")


@dataclass(frozen=True)
class DataOrigin:
    """Where training data came from, as far as that is known.

    Attributes:
        source: the Hub id, or the name (no more) of the folder or file.
        options: arguments of `load_image_text_dataset` that chose columns and splits; paths by their names.
        split_rule: how the splits came about, in words.
    """

    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    split_rule: str = ""

    @classmethod
    def of(cls, source: str, options: Mapping[str, Any], split_rule: str) -> DataOrigin:
        """Of what `load_image_text_dataset` was told, without the folders that paths lie in."""
        kept = {
            name: os.path.basename(os.fspath(value)) if name in PATH_OPTIONS else value
            for name, value in options.items()
        }
        return cls(_name_of(source), kept, split_rule)


@dataclass(frozen=True)
class TrainingRecord:
    """The data that a model was trained on.

    Attributes:
        origin: where they came from.
        contents: `[images]`, uint64 of each training image's bytes.
        looks: `[readable images]`, the images' difference hashes.
    """

    origin: DataOrigin
    contents: np.ndarray
    looks: np.ndarray

    def is_of(self, source: str) -> bool:
        """Whether `source` is called as the training data were."""
        return _name_of(source) == self.origin.source

    @classmethod
    def of(cls, dataset: Dataset, origin: DataOrigin) -> TrainingRecord:
        """Of a train split with the column `image`; reads every image once."""
        contents, looks, _ = _identities(dataset)
        return cls(origin, np.unique(contents), np.unique(looks[looks > 0]))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the record into a model's folder, and return its file."""
        path = Path(folder) / RECORD_FILE
        about = {"training_data": json.dumps(asdict(self.origin))}
        with replacing(path) as name:
            save_file({"contents": self.contents, "looks": self.looks}, name, metadata=about)
        return path


@dataclass(frozen=True)
class Overlap:
    """Rows of a data set that are among a model's training images.

    Attributes:
        rows: how many rows were looked at.
        trained: the rows whose very bytes were trained on.
        alike: other rows that look nearly like a training image.
        names: what the images are called, by row.
    """

    rows: int
    trained: list[int] = field(default_factory=list)
    alike: list[int] = field(default_factory=list)
    names: Mapping[int, str] = field(default_factory=dict)

    def examples(self, rows: list[int], count: int = 3) -> str:
        """A few of the images by name."""
        shown = [os.path.basename(self.names[row]) for row in rows[:count]]
        return ", ".join(shown) + (", …" if len(rows) > count else "")


def read_training_record(model: str | os.PathLike[str]) -> TrainingRecord | None:
    """What the folder or Hub id knows of its training data; None where it knows nothing.

    A checkpoint of heads knows what the folder that it lies in does.
    """
    folder = Path(model)
    if folder.name.startswith(PREFIX_CHECKPOINT_DIR) and not (folder / RECORD_FILE).exists():
        model = folder.resolve().parent
    file = cached_file(
        os.fspath(model),
        RECORD_FILE,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return None
    with safe_open(file, "np") as record:
        about = json.loads(record.metadata()["training_data"])
        return TrainingRecord(DataOrigin(**about), record.get_tensor("contents"), record.get_tensor("looks"))


def find_overlap(dataset: Dataset, record: TrainingRecord) -> Overlap:
    """Which rows of a data set with the column `image` the model was trained on; reads every image once."""
    contents, looks, names = _identities(dataset)
    rows = np.fromiter(names, np.int64, len(names))
    trained = rows[np.isin(contents, record.contents)].tolist()
    nearly = {int(rows[position]) for position, _ in alike(looks, record.looks) if looks[position]}
    return Overlap(len(dataset), trained, sorted(nearly - set(trained)), names)


def _identities(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Content and look (0 where there is none) of the images that are there, and their names by row."""
    names, pairs = {}, []
    for row, name, pair in map_image_files(dataset, _content_and_look, "Training images"):
        names[row] = name
        pairs.append(pair)
    both = np.array(pairs, np.uint64).reshape(-1, 2)
    return both[:, 0], both[:, 1], names


def _content_and_look(data: bytes) -> tuple[int, int]:
    return int(digest(data)[:16], 16), hash_of_bytes(data) or 0


def _name_of(source: str) -> str:
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source
