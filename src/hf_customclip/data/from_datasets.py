"""From a `datasets` data set of whatever columns to this package's: captions gathered by image, in place.

Images are neither decoded nor copied: rows are chosen by index, and new text columns are laid beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets

from .columns import Columns, NamedColumns, find_columns
from .folders import list_folder
from .formats.tables import Row, entries_of_rows
from .languages import Caption, Wanted, no_caption, sort_captions
from .part import FEATURES, GROUPS, LANGUAGES, Part, arrow_batches, caption_columns, dataset_of_table, gather
from .report import Case, DataError
from .splits import split_name

DIGEST_SIZE = 12
# An image's mark is its size and its last bytes: enough to tell two files apart, and quick to read.
MARK_BYTES = 32
Mark: TypeAlias = tuple[int, bytes] | None


def image_columns(features: Features) -> list[str]:
    """The columns whose type says that they hold images: Image, bytes, or a record of bytes and path."""
    return [name for name, feature in features.items() if _holds_images(feature)]


def _holds_images(feature: object) -> bool:
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, Image) or (isinstance(feature, Value) and "binary" in feature.dtype)


def has_images(dataset: Dataset, named: NamedColumns) -> bool:
    """Whether the images themselves are in the data set, and not only their names."""
    images = image_columns(dataset.features)
    return find_columns(dataset.column_names, named, images).image in images


def part_of_dataset(
    dataset: Dataset,
    split: str,
    named: NamedColumns,
    *,
    alone: bool = True,
    known: dict[str, Mark] | None = None,
) -> Part:
    """One split of a data set as a `Part`; if it is the only one, a split column goes before its name.

    `known` holds the ids used in other splits with the marks of their images, and is added to: splits that
    each number their images from 0 must not seem to share them.
    """
    known = {} if known is None else known
    columns = find_columns(dataset.column_names, named, image_columns(dataset.features))
    rows = _Rows.read(dataset, columns)
    ids = rows.ids(columns, split, known)
    cases = [Case("split_conflict", f"{key} ({split})") for key in dict.fromkeys(ids) if key in known]
    known.update(zip(ids, rows.marks, strict=True))
    groups = _group(rows, ids)
    captions, left_out = _sorted(rows, ids, groups, named.languages)
    names = _texts(rows.cells[columns.file_name]) if columns.file_name else _texts(rows.paths)
    splits = rows.splits(columns.split if alone else None, split)
    others = _simple_columns(dataset.features, columns)
    kinds = _texts(rows.cells[columns.group]) if columns.group else []
    return Part(
        _beside(rows.images, captions, ids, kinds, dataset.select_columns(others) if others else None),
        [names[row] for row in captions],
        [splits[row] for row in captions],
        images_in=len(groups),
        captions_in=sum(map(len, groups.values())),
        cases=cases + left_out,
    )


def part_of_names(
    sources: Sequence[tuple[str, Dataset]], named: NamedColumns, images: Path | None, source: str
) -> Part:
    """All splits of a data set that holds only the images' file names; they lie in the folder `images`."""
    columns = find_columns(sources[0][1].column_names, named)
    feature = sources[0][1].features[columns.image]
    if not isinstance(feature, Value):
        raise DataError(f"Column {columns.image!r} of {source} holds neither images nor names: {feature}.")
    if images is None:
        raise DataError(
            f"Column {columns.image!r} of {source} holds names of images, not images. "
            "Say where they are: images=FOLDER."
        )
    entries = (
        entry
        for split, dataset in sources
        for entry in entries_of_rows(_numbered(dataset, columns, split), columns, images, split)
    )
    return gather(entries, list_folder(images), named.languages)


def _numbered(dataset: Dataset, columns: Columns, split: str) -> Iterator[Row]:
    texts = dataset.select_columns([columns.image, *columns.text, *columns.kept])
    return ((f"{split} row {number}", row) for number, row in enumerate(texts))


@dataclass
class _Rows:
    """Everything about the rows of a data set that is known without reading an image."""

    images: Dataset  # one column, "image"
    cells: dict[str, list[object]]  # the text columns
    captions: list[list[Caption]]
    marks: list[Mark]  # None where there are no bytes, only a path or nothing
    paths: list[str | None]

    @classmethod
    def read(cls, dataset: Dataset, columns: Columns) -> _Rows:
        images = dataset.select_columns([columns.image]).cast_column(columns.image, Image())
        if columns.image != "image":
            images = images.rename_column(columns.image, "image")
        cells: dict[str, list[object]] = {name: [] for name in columns.text}
        for table in arrow_batches(dataset, columns.text):
            for name, values in cells.items():
                values += table[name].to_pylist()
        rows = zip(*cells.values(), strict=True)
        captions = [columns.captions_of(dict(zip(cells, values, strict=True))) for values in rows]
        return cls(images, cells, captions, *_marks_and_paths(images))

    def ids(self, columns: Columns, prefix: str, known: Mapping[str, Mark]) -> list[str]:
        """An id for each row, the same for rows of the same image.

        A column named by hand is believed. Else it is the first candidate under which no two different
        images share an id: the usual columns, then the images' own file names. Failing these, rows of
        one caption are told apart by the images' bytes, since two captions of an image in two splits would
        be a leak; rows of several captions, by number.
        """
        if columns.image_id:
            return _texts(self.cells[columns.image_id])
        for ids in [*(_texts(self.cells[name]) for name in columns.ids), _texts(self.paths)]:
            if all(ids) and _fits(ids, self.marks, known):
                return ids
        numbers = [f"{prefix}-{row}" for row in range(len(self.marks))]
        if all(len(captions) <= 1 for captions in self.captions):
            return [
                content or number for content, number in zip(_contents(self.images), numbers, strict=True)
            ]
        return numbers

    def splits(self, column: str | None, split: str) -> list[str | None]:
        """The split of each row: what the column says, or without one the split given."""
        if column is None:
            return [split] * len(self.marks)
        return [split_name(name) or None for name in _texts(self.cells[column])]


def _marks_and_paths(images: Dataset) -> tuple[list[Mark], list[str | None]]:
    marks: list[Mark] = []
    paths: list[str | None] = []
    for table in arrow_batches(images, ["image"]):
        column = table["image"].combine_chunks()
        content = pc.struct_field(column, "bytes")
        sizes = pc.binary_length(content).to_pylist()
        ends = pc.binary_slice(content, -MARK_BYTES).to_pylist()
        marks += [None if size is None else (size, end) for size, end in zip(sizes, ends, strict=True)]
        paths += pc.struct_field(column, "path").to_pylist()
    return marks, paths


def _texts(values: Iterable[object]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _fits(ids: Sequence[str], marks: Sequence[Mark], known: Mapping[str, Mark]) -> bool:
    mark_of = dict(known)
    return all(mark_of.setdefault(key, mark) == mark for key, mark in zip(ids, marks, strict=True))


def _contents(images: Dataset) -> Iterator[str | None]:
    """A digest of each image's bytes, None where there are none."""
    for table in arrow_batches(images, ["image"], 100):
        for content in pc.struct_field(table["image"].combine_chunks(), "bytes"):
            buffer = content.as_buffer()
            yield hashlib.blake2b(buffer, digest_size=DIGEST_SIZE).hexdigest() if buffer else None


def _group(rows: _Rows, ids: Sequence[str]) -> dict[int, list[Caption]]:
    """The first row of each image, and all the captions of that image.

    Different images under one id, which only a column named by hand can give, stay rows of their own.
    """
    first: dict[tuple[str, Mark], int] = {}
    groups: dict[int, list[Caption]] = {}
    for row, key in enumerate(zip(ids, rows.marks, strict=True)):
        groups.setdefault(first.setdefault(key, row), []).extend(rows.captions[row])
    return groups


def _sorted(
    rows: _Rows, ids: Sequence[str], groups: Mapping[int, list[Caption]], languages: Wanted
) -> tuple[dict[int, list[Caption]], list[Case]]:
    """The images that can be kept with their captions, and a case for everything else."""
    kept: dict[int, list[Caption]] = {}
    cases: list[Case] = []
    for row, captions in groups.items():
        good, left_out = sort_captions(captions, ids[row], languages)
        cases += left_out
        if rows.marks[row] is None and not rows.paths[row]:
            cases.append(Case("missing_image", ids[row], images=1, captions=len(good)))
        elif good:
            kept[row] = good
        else:
            cases.append(no_caption(ids[row], languages))
    return kept, cases


def _simple_columns(features: Features, columns: Columns) -> list[str]:
    """Of the columns to keep, those of texts, numbers, truth values and classes."""
    taken = {*FEATURES, *LANGUAGES, *GROUPS}
    return [
        name
        for name in columns.kept
        if isinstance(kind := features[name], (Value, ClassLabel))
        and "binary" not in kind.dtype
        and name not in taken
    ]


def _beside(
    images: Dataset,
    captions: Mapping[int, list[Caption]],
    ids: Sequence[str],
    groups: Sequence[str | None],
    others: Dataset | None,
) -> Dataset:
    """The rows that have captions, with captions, ids and other columns beside them; no image is copied."""
    texts = dataset_of_table(caption_columns([captions.get(row, []) for row in range(len(ids))], ids, groups))
    beside = [images, texts, *([others] if others else [])]
    return concatenate_datasets(beside, axis=1).select(np.asarray(list(captions), dtype=np.int64))
