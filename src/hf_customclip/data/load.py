"""One line from whatever form image-caption data come in to splits with image, captions and image_id."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    concatenate_datasets,
)

from .columns import NamedColumns
from .divide import SplitWish, divide
from .formats import datasets_library as library
from .formats.coco import karpathy_split_list
from .formats.local import read_local
from .from_datasets import Mark, has_images, part_of_dataset, part_of_names
from .part import Part, captions_per_row
from .report import DataError, DataReport, SplitCounts
from .splits import DEFAULT_SEED, split_name
from .streaming import stream_splits
from .verify import drop_unreadable

logger = logging.getLogger(__name__)

Source: TypeAlias = str | os.PathLike[str] | Dataset | DatasetDict | IterableDataset | IterableDatasetDict
Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict
# A stream made of a listing needs several shards for several data-loading workers.
SHARDS_OF_LISTING = 16
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def load_image_text_dataset(
    source: Source,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    captions_file: str | os.PathLike[str] | None = None,
    karpathy_file: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    caption_column: str | Sequence[str] | None = None,
    image_id_column: str | None = None,
    split_column: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    on_error: Literal["skip", "raise"] = "skip",
    verify: bool = False,
    keep_columns: bool = False,
    seed: int = DEFAULT_SEED,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    report: DataReport | None = None,
) -> Loaded:
    """Load images with captions from any usual form, recognised by what is there.

    Every row is one image: `image` (`datasets.Image`, decoded only when read), `captions` (list of str),
    `image_id` (str). Images are listed, never opened, so a big folder takes seconds; one that turns out
    unreadable later raises an error that names it (see `decode_image`), or `verify=True` opens all now.

    Args:
        source: a Hub id, a folder, a file, a pattern of shards (`a/{000..012}.tar`), or a `datasets` object.
        split: "train", "validation" (also "val", "dev"), "test" or another that the data have; "all" for
            everything in one; None for a dict of all of them.
        images: the folder of the images, where the captions do not lie beside or above it.
        captions_file: which file in the folder `source` holds the captions, if there are several.
        karpathy_file: a Karpathy JSON (`dataset_flickr30k.json`) from which only the splits are taken.
        image_column, caption_column, image_id_column, split_column: columns by name, where they are not
            found; several caption columns may be given.
        name, revision: of a Hub data set, as in `datasets.load_dataset`.
        streaming: a stream instead of a listing. Rows of one image are then not gathered; they share an id.
        on_error: "skip" leaves out what cannot be used and says so in one warning, "raise" raises DataError
            for empty captions, captions without image, images without caption, unreadable images and
            broken lines.
        verify: decode every image now, to find the unreadable ones.
        keep_columns: keep a data set's other columns of texts, numbers and truth values too, where it holds the
            images themselves; of rows of one image, those of the first. Streams keep none.
        seed, validation_fraction, test_fraction: the draw of splits by image where the data have none, 0.05
            each if not given; given, they also draw splits that the data lack out of their train split, or
            out of everything if there is no train split.
        report: an empty `DataReport` to fill in with what was found, kept and left out.

    Raises:
        DataError: what is wrong with the data and what to do about it, in one sentence.
        FileNotFoundError: for a path that is not there.
    """
    if on_error not in ("skip", "raise"):
        raise ValueError(f'on_error is "skip" or "raise", not {on_error!r}.')
    report = DataReport() if report is None else report
    report.source = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    named = NamedColumns(image_column, caption_column, image_id_column, split_column)
    wish = SplitWish(
        split,
        karpathy_split_list(karpathy_file) if karpathy_file else None,
        seed,
        validation_fraction,
        test_fraction,
    )
    image_folder = Path(images).expanduser() if images is not None else None
    captions_path = Path(captions_file).expanduser() if captions_file is not None else None
    found = _read(source, image_folder, captions_path, named, name, revision, streaming, report)
    if isinstance(found, (IterableDataset, IterableDatasetDict)):
        streams = stream_splits(_by_split(found), named, wish, report, on_error=on_error, verify=verify)
        return _chosen(streams, split, report)
    parts = (
        [found]
        if isinstance(found, Part)
        else _parts(found, named, image_folder or _folder_of(source), report, keep_columns)
    )
    if verify:
        parts = [drop_unreadable(part, report) for part in parts]
    splits = divide(parts, wish, report)
    _finish(splits, on_error, report)
    if streaming:
        splits = IterableDatasetDict({name: _streamed(dataset) for name, dataset in splits.items()})
    return _chosen(splits, split, report)


def _read(
    source: Source,
    images: Path | None,
    captions_file: Path | None,
    named: NamedColumns,
    name: str | None,
    revision: str | None,
    streaming: bool,
    report: DataReport,
) -> Part | library.AnyDataset:
    if not isinstance(source, (str, os.PathLike)):
        report.form = "data set in memory"
        return source
    path = Path(source).expanduser()
    if path.exists():
        return read_local(path, images, captions_file, named, name, streaming, report)
    text = os.fspath(source)
    if any(mark in text for mark in ("*", "{", "://")):
        return _read_pattern(text, streaming, report)
    if isinstance(source, os.PathLike) or not HUB_ID.fullmatch(text):
        raise FileNotFoundError(f"There is no file or folder {text!r}.")
    report.form = "Hub data set"
    return library.load_from_hub(text, name, revision, streaming)


def _read_pattern(pattern: str, streaming: bool, report: DataReport) -> library.AnyDataset:
    report.files = library.shards_of_pattern(pattern)
    if not report.files:
        raise FileNotFoundError(f"No file matches {pattern!r}.")
    suffix = Path(report.files[0]).suffix
    if suffix not in library.BUILDERS:
        raise DataError(
            f"A pattern or address is for {', '.join(library.BUILDERS)} files, not for {suffix!r}."
        )
    report.form = library.FORMS[library.BUILDERS[suffix]]
    return library.load_shards(report.files, Path(report.files[0]).parent, streaming)


def _by_split(found: library.AnyDataset) -> list[tuple[str, Any]]:
    """The splits under their usual names, of which two may then be the same (train and restval)."""
    if isinstance(found, (DatasetDict, IterableDatasetDict)):
        return [(split_name(str(name)), dataset) for name, dataset in found.items()]
    whole = re.match(r"\w+", str(found.split or "train"))  # "train" of "train[:10%]"
    return [(split_name(whole[0] if whole else "train"), found)]


def _parts(
    found: Dataset | DatasetDict, named: NamedColumns, images: Path | None, report: DataReport, keep: bool
) -> list[Part]:
    sources = _by_split(found)
    if not has_images(sources[0][1], named):
        return [part_of_names(sources, named, images, report)]
    known: dict[str, Mark] = {}
    return [
        part_of_dataset(dataset, split, named, report, alone=len(sources) == 1, known=known, keep=keep)
        for split, dataset in sources
    ]


def _folder_of(source: Source) -> Path | None:
    """Where names in a Parquet file are looked up: beside it."""
    path = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else None
    if path is None or not path.exists():
        return None
    return path if path.is_dir() else path.parent


def _finish(splits: DatasetDict, on_error: str, report: DataReport) -> None:
    """Count what came out, and raise or warn about what did not."""
    for name, dataset in splits.items():
        counts = captions_per_row(dataset)
        report.splits[name] = SplitCounts(len(counts), sum(counts))
        for count in counts:
            report.captions_per_image[count] = report.captions_per_image.get(count, 0) + 1
    if on_error == "raise":
        report.raise_for_problems()
    if report.serious:
        logger.warning("%s: %s", report.source, "; ".join(map(str, report.serious)))
    if not splits:
        raise DataError(
            f"Nothing is left of {report.source}: {'; '.join(map(str, report.problems.values()))}."
        )


def _streamed(dataset: Dataset) -> IterableDataset:
    return dataset.to_iterable_dataset(num_shards=min(SHARDS_OF_LISTING, len(dataset)))


def _chosen(splits: DatasetDict | IterableDatasetDict, split: str | None, report: DataReport) -> Loaded:
    """The split asked for, out of all."""
    if split is None:
        return splits
    if split == "all":
        return concatenate_datasets(list(splits.values()))
    wanted = split_name(split)
    if wanted not in splits:
        raise DataError(f'{report.source} has no split {split!r}, only {", ".join(splits)} and "all".')
    return splits[wanted]
