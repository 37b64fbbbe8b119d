"""Rows on their way to becoming splits: captions gathered by image, and everything that was left out by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, Image, List, Value, concatenate_datasets
from datasets.table import InMemoryTable
from tqdm.auto import tqdm

from .folders import ARCHIVES, FolderListing, ImageFiles
from .images import ImageValue, UnreadableImageError, decode_image
from .languages import UNKNOWN, Caption, Wanted, no_caption, sort_captions
from .report import Case, DataError

FEATURES = Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("string")})
# Beside them where any caption's language is told: the language of each caption of the row.
LANGUAGES = Features({"languages": List(Value("string"))})
# And where the user named a column of groups: the group of each image, such as a product or a concept.
GROUPS = Features({"group_id": Value("string")})
ROWS_AT_ONCE = 256
T = TypeVar("T")


class Entry(NamedTuple):
    """What one line or record says of one image; several may speak of the same."""

    name: str  # the image's file, as the captions file writes it
    captions: Sequence[Caption]
    folder: Path  # where a relative name starts
    image_id: str | None = None
    split: str | None = None
    group: str | None = None
    others: Mapping[str, Any] = {}  # columns that stay as they are


@dataclass
class Part:
    """A data set with `FEATURES`; for each row what split lists call its image, and its split if given.

    `images_in` and `captions_in` count what was read; `cases` say what was not kept of it, and why.
    """

    dataset: Dataset
    names: list[str]
    splits: list[str | None]
    images_in: int = 0
    captions_in: int = 0
    cases: list[Case] = field(default_factory=list)


def caption_columns(
    captions: Sequence[Sequence[Caption]], image_ids: Sequence[str], groups: Sequence[str | None] = ()
) -> pa.Table:
    """The columns `captions` and `image_id`, `languages` where any caption's is told, and `group_id` if given.

    An image without a group is one of its own.
    """
    columns = {
        "captions": pa.array([[text for text, _ in row] for row in captions], pa.list_(pa.string())),
        "image_id": pa.array(image_ids, pa.string()),
    }
    if any(language for row in captions for _, language in row):
        languages = [[language or UNKNOWN for _, language in row] for row in captions]
        columns["languages"] = pa.array(languages, pa.list_(pa.string()))
    if any(groups):
        own = [group or f"image {image_id}" for group, image_id in zip(groups, image_ids, strict=True)]
        columns["group_id"] = pa.array(own, pa.string())
    return pa.table(columns)


def dataset_of_table(table: pa.Table) -> Dataset:
    """A data set of columns of `FEATURES` and those beside them; `from_dict` would look at every cell in Python."""
    features = Features({name: {**FEATURES, **LANGUAGES, **GROUPS}[name] for name in table.column_names})
    return Dataset(InMemoryTable(table.cast(features.arrow_schema)), info=DatasetInfo(features=features))


def texts(dataset: Dataset, column: str) -> list[str]:
    """A column of strings, all at once."""
    return [text for table in arrow_batches(dataset, [column], 10_000) for text in table[column].to_pylist()]


def arrow_batches(dataset: Dataset, columns: list[str], size: int = 1000) -> Iterable[pa.Table]:
    """Some columns of a data set in Arrow's own form, a batch at a time, so that no image is decoded."""
    return dataset.select_columns(columns).with_format("arrow").iter(size)


def captions_per_row(dataset: Dataset) -> list[int]:
    """How many captions each row has."""
    tables = arrow_batches(dataset, ["captions"], 10_000)
    return [count for table in tables for count in pc.list_value_length(table["captions"]).to_pylist()]


@dataclass(slots=True)
class _Image:
    name: str
    image_id: str | None
    split: str | None
    group: str | None
    others: Mapping[str, Any]
    captions: list[Caption]


def gather(entries: Iterable[Entry | Case], listing: FolderListing, languages: Wanted = None) -> Part:
    """Find each entry's image and put its captions together, in the order of the file.

    Raises DataError if not one image is found, since then the folder is the wrong one.
    """
    index = ImageFiles(listing)
    path_of: dict[tuple[str, Path], str | None] = {}
    found: dict[str, _Image] = {}
    missing: dict[str, int] = {}
    cases: list[Case] = []
    captions_in = 0
    for entry in entries:
        if isinstance(entry, Case):
            captions_in += entry.captions
            cases.append(entry)
            continue
        captions_in += len(entry.captions)
        captions, left_out = sort_captions(entry.captions, entry.name, languages)
        cases += left_out
        key = (entry.name, entry.folder)
        path = path_of[key] if key in path_of else path_of.setdefault(key, index.find(*key))
        if path is None:
            missing[entry.name] = missing.get(entry.name, 0) + len(captions)
            continue
        first = _Image(entry.name, entry.image_id, entry.split, entry.group, entry.others, [])
        image = found.setdefault(path, first)
        image.captions += captions
        if entry.split != image.split:
            cases.append(Case("split_conflict", f"{entry.name} ({image.split}, {entry.split})"))
    _check_found(found, missing, listing)
    unused, copies = index.unused(set(found))
    cases += [Case("missing_image", name, images=1, captions=count) for name, count in missing.items()]
    bare = unused + [path for path, image in found.items() if not image.captions]
    cases += [no_caption(path, languages) for path in bare]
    cases += [Case("second_copy", path, images=1) for path in copies]
    part = _rows({path: image for path, image in found.items() if image.captions}, listing.root)
    images_in = len(found) + len(missing) + len(unused) + len(copies)
    return replace(part, images_in=images_in, captions_in=captions_in, cases=cases)


def _check_found(found: dict[str, _Image], missing: dict[str, int], listing: FolderListing) -> None:
    if found:
        return
    if not missing:
        raise DataError(f"The captions file in {listing.root} names no image at all.")
    first = next(iter(missing))
    hint = " Images given as web addresses have to be downloaded first." if "://" in first else ""
    archives = [path.name for path in listing.others if path.suffix.lower() in ARCHIVES]
    hint += f" Or unpack {', '.join(archives)} first." if archives else ""
    raise DataError(
        f"None of the {len(missing):,} images that the captions speak of (the first is {first!r}) is among "
        f"the {len(listing.images):,} in {listing.root}. Say where they are: images=FOLDER.{hint}"
    )


def _rows(images: dict[str, _Image], root: Path) -> Part:
    rows = images.values()
    uses = Counter(image.name for image in rows)
    # A name used in several folders (train/0001.jpg, test/0001.jpg) tells no image; its path does.
    ids = [
        image.image_id or (image.name if uses[image.name] == 1 else os.path.relpath(path, root))
        for path, image in images.items()
    ]
    files = Image().cast_storage(pa.array(list(images), pa.string()))  # only their paths are kept
    columns = caption_columns([image.captions for image in rows], ids, [image.group for image in rows])
    dataset = dataset_of_table(columns.add_column(0, "image", files))
    if others := _other_columns([image.others for image in rows], dataset.column_names):
        dataset = concatenate_datasets([dataset, Dataset(InMemoryTable(pa.table(others)))], axis=1)
    return Part(dataset, [image.name for image in rows], [image.split for image in rows])


def _other_columns(rows: Sequence[Mapping[str, Any]], taken: Sequence[str]) -> dict[str, pa.Array]:
    """Columns of texts, numbers and truth values, whose cells may all be written as texts, as in CSV; cells of other
    kinds are null."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in taken]
    return {name: _typed_column([row.get(name) for row in rows]) for name in names}


def _typed_column(cells: Sequence[Any]) -> pa.Array:
    simple = [cell if isinstance(cell, (str, int, float)) and cell != "" else None for cell in cells]
    kinds = {type(cell) for cell in simple if cell is not None}
    if not kinds or (len(kinds) > 1 and kinds != {int, float}):
        return pa.array([None if cell is None else str(cell) for cell in simple], pa.string())
    column = pa.array(simple)
    return _numbers(column) if pa.types.is_string(column.type) else column


def _numbers(column: pa.Array) -> pa.Array:
    """What is written as numbers as numbers, unless, as of "007", something would be lost."""
    with suppress(pa.ArrowInvalid):
        numbers = column.cast(pa.int64())
        return numbers if numbers.cast(pa.string()) == column else column
    with suppress(pa.ArrowInvalid):
        return column.cast(pa.float64())
    return column


def drop_unreadable(part: Part) -> Part:
    """The part without the images that cannot be decoded, which its cases then name.

    Every image is decoded once, a few at a time (Pillow decodes outside Python's lock, so threads help).
    """
    bad = {row: why for row, _, why in map_images(part.dataset, _why_unreadable, "Checking images")}
    if not bad:
        return part
    captions = captions_per_row(part.dataset)
    cases = [Case("unreadable_image", name, images=1, captions=captions[row]) for row, name in bad.items()]
    rows = [row for row in range(len(part.names)) if row not in bad]
    return replace(
        part,
        dataset=part.dataset.select(rows),
        names=[part.names[row] for row in rows],
        splits=[part.splits[row] for row in rows],
        cases=part.cases + cases,
    )


def map_images(
    dataset: Dataset, function: Callable[[dict[str, Any]], T | None], doing: str
) -> Iterator[tuple[int, dict[str, Any], T]]:
    """For every row its number, its image as stored and `function` of it, in threads, unless that is None."""
    rows = dataset.with_format(None).select_columns(["image"]).cast_column("image", Image(decode=False))
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(rows), desc=doing, unit="image", disable=None) as bar,
    ):
        for first in range(0, len(rows), ROWS_AT_ONCE):
            images = rows[first : first + ROWS_AT_ONCE]["image"]
            for row, (image, value) in enumerate(zip(images, pool.map(function, images), strict=True), first):
                if value is not None:
                    yield row, image, value
            bar.update(len(images))


def _why_unreadable(value: ImageValue) -> str | None:
    try:
        decode_image(value)
    except UnreadableImageError as error:
        return f"{error.name} ({error.reason})"
    return None
