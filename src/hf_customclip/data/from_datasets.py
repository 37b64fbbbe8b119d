"""From a `datasets` data set of whatever columns to this package's: captions gathered by picture, in place.

Pictures are neither decoded nor copied: rows are chosen by index, and new text columns are laid beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Value, concatenate_datasets

from .columns import Columns, NamedColumns, find_columns, texts_of
from .entries import clean_captions, gather
from .part import FEATURES, Part, arrow_batches
from .pictures import list_folder
from .report import DataError, DataReport
from .sources.rows import entries_of_rows
from .splits import split_name

DIGEST_SIZE = 12
# A picture's mark is its size and its last bytes: enough to tell two files apart, and quick to read.
MARK_BYTES = 32
Mark: TypeAlias = tuple[int, bytes] | None


def picture_columns(features: Features) -> list[str]:
    """The columns whose type says that they hold pictures: Image, bytes, or a record of bytes and path."""
    return [name for name, feature in features.items() if _holds_pictures(feature)]


def _holds_pictures(feature: object) -> bool:
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, Image) or (isinstance(feature, Value) and "binary" in feature.dtype)


def part_of_dataset(
    dataset: Dataset,
    split: str,
    named: NamedColumns,
    images: Path | None,
    report: DataReport,
    *,
    alone: bool = True,
    known: dict[str, Mark] | None = None,
) -> Part:
    """One split of a data set as a `Part`.

    `images` is where pictures lie that are given by file name only. If the split is `alone`, a split column
    in it goes before its name. `known` holds the ids used in other splits with the marks of their pictures,
    and is added to: splits that each number their pictures from 0 must not seem to share them.
    """
    known = {} if known is None else known
    pictures = picture_columns(dataset.features)
    columns = find_columns(dataset.column_names, named, pictures)
    if columns.image not in pictures:
        return _part_of_names(dataset, columns, split, images, report)
    rows = _Rows.read(dataset, columns)
    keys = rows.keys(columns, split, known)
    for key in dict.fromkeys(keys):
        if key in known:
            report.add("split_conflict", f"{key} ({split})")
    known.update(zip(keys, rows.marks, strict=True))
    groups = _group(rows, keys, report)
    names = _texts(rows.cells[columns.file_name]) if columns.file_name else _texts(rows.paths)
    splits = rows.splits(columns.split if alone else None, split)
    return Part(
        _beside(rows.pictures, groups, keys), [names[row] for row in groups], [splits[row] for row in groups]
    )


def _part_of_names(
    dataset: Dataset, columns: Columns, split: str, images: Path | None, report: DataReport
) -> Part:
    """Rows that hold only the pictures' file names."""
    feature = dataset.features[columns.image]
    if not isinstance(feature, Value):
        raise DataError(
            f"Column {columns.image!r} of {report.source} holds neither pictures nor names: {feature}."
        )
    if images is None:
        raise DataError(
            f"Column {columns.image!r} of {report.source} holds names of pictures, not pictures. "
            "Say where they are: images=FOLDER."
        )
    texts = dataset.select_columns([columns.image, *columns.text])
    rows = ((f"row {number}", row) for number, row in enumerate(texts))
    return gather(entries_of_rows(rows, columns, images, split, report), list_folder(images), report)


@dataclass
class _Rows:
    """Everything about the rows of a data set that is known without reading a picture."""

    pictures: Dataset  # one column, "image"
    cells: dict[str, list[object]]  # the text columns
    captions: list[list[str | None]]
    marks: list[Mark]  # None where there are no bytes, only a path or nothing
    paths: list[str | None]

    @classmethod
    def read(cls, dataset: Dataset, columns: Columns) -> _Rows:
        pictures = dataset.select_columns([columns.image]).cast_column(columns.image, Image())
        if columns.image != "image":
            pictures = pictures.rename_column(columns.image, "image")
        cells: dict[str, list[object]] = {name: [] for name in columns.text}
        for table in arrow_batches(dataset, columns.text):
            for name, values in cells.items():
                values += table[name].to_pylist()
        told = zip(*(cells[name] for name in columns.captions), strict=True)
        captions = [[text for value in values for text in texts_of(value)] for values in told]
        return cls(pictures, cells, captions, *_marks_and_paths(pictures))

    def keys(self, columns: Columns, prefix: str, known: Mapping[str, Mark]) -> list[str]:
        """A key for each row, the same for rows of the same picture.

        The first candidate under which no two different pictures share a key: the id columns, then the
        pictures' own file names. Failing these, rows of one caption are told apart by the pictures'
        bytes, since two captions of a picture in two splits would be a leak; rows of several, by number.
        """
        for keys in [*(_texts(self.cells[name]) for name in columns.ids), _texts(self.paths)]:
            if all(keys) and _fits(keys, self.marks, known):
                return keys
        numbers = [f"{prefix}-{row}" for row in range(len(self.marks))]
        if all(len(texts) <= 1 for texts in self.captions):
            return [
                content or number for content, number in zip(_contents(self.pictures), numbers, strict=True)
            ]
        return numbers

    def splits(self, column: str | None, split: str) -> list[str | None]:
        """The split of each row: what the column says, or without one the split given."""
        if column is None:
            return [split] * len(self.marks)
        return [split_name(name) or None for name in _texts(self.cells[column])]


def _marks_and_paths(pictures: Dataset) -> tuple[list[Mark], list[str | None]]:
    marks: list[Mark] = []
    paths: list[str | None] = []
    for table in arrow_batches(pictures, ["image"]):
        column = table["image"].combine_chunks()
        content = pc.struct_field(column, "bytes")
        sizes = pc.binary_length(content).to_pylist()
        ends = pc.binary_slice(content, -MARK_BYTES).to_pylist()
        marks += [None if size is None else (size, end) for size, end in zip(sizes, ends, strict=True)]
        paths += pc.struct_field(column, "path").to_pylist()
    return marks, paths


def _texts(values: Iterable[object]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _fits(keys: Sequence[str], marks: Sequence[Mark], known: Mapping[str, Mark]) -> bool:
    mark_of = dict(known)
    return all(mark_of.setdefault(key, mark) == mark for key, mark in zip(keys, marks, strict=True))


def _contents(pictures: Dataset) -> Iterator[str | None]:
    """A digest of each picture's bytes, None where there are none."""
    for table in arrow_batches(pictures, ["image"], 100):
        for content in pc.struct_field(table["image"].combine_chunks(), "bytes"):
            buffer = content.as_buffer()
            yield hashlib.blake2b(buffer, digest_size=DIGEST_SIZE).hexdigest() if buffer else None


def _group(rows: _Rows, keys: Sequence[str], report: DataReport) -> dict[int, list[str]]:
    """The first row of each picture that can be kept, and all the captions of that picture."""
    first: dict[str, int] = {}
    groups: dict[int, list[str]] = {}
    for row, key in enumerate(keys):
        captions = clean_captions(rows.captions[row], key, report)
        groups.setdefault(first.setdefault(key, row), []).extend(captions)
    report.images_in += len(groups)
    for row, captions in list(groups.items()):
        if rows.marks[row] is None and not rows.paths[row]:
            report.add("missing_picture", keys[row], images=1, captions=len(groups.pop(row)))
        elif not captions:
            report.add("uncaptioned_picture", keys[row], images=1)
            del groups[row]
    return groups


def _beside(pictures: Dataset, groups: dict[int, list[str]], keys: Sequence[str]) -> Dataset:
    """The chosen rows of `pictures` with their captions and ids beside them; no picture is copied."""
    columns = {"captions": [groups.get(row, []) for row in range(len(keys))], "image_id": list(keys)}
    texts = Dataset.from_dict(columns, features=Features({name: FEATURES[name] for name in columns}))
    return concatenate_datasets([pictures, texts], axis=1).select(np.asarray(list(groups), dtype=np.int64))
