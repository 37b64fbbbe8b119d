"""One line from whatever form image-caption data come in to splits with image, captions and image_id."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeAlias

import pyarrow.compute as pc
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    IterableDatasetDict,
    concatenate_datasets,
)

from .columns import NamedColumns, find_columns
from .formats import datasets_library as library
from .formats.class_folders import read_class_folders
from .formats.coco import karpathy_split_list
from .formats.local import Found, read_local
from .from_datasets import Mark, has_images, image_columns, part_of_dataset, part_of_names
from .languages import Wanted, wanted_languages
from .part import Part, arrow_batches, captions_per_row, drop_unreadable
from .report import DataError, DataReport, SplitCounts
from .splits import DEFAULT_SEED, Division, SplitWish, divide, split_name
from .streaming import stream_splits

logger = logging.getLogger(__name__)

Source: TypeAlias = str | os.PathLike[str] | Dataset | DatasetDict | IterableDataset | IterableDatasetDict
Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict
# A stream made of a listing needs several shards for several data-loading workers.
SHARDS_OF_LISTING = 16
P = ParamSpec("P")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def load_with_report(
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
    group_column: str | None = None,
    languages: str | Sequence[str] | None = None,
    name: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    on_error: Literal["skip", "raise"] = "skip",
    verify: bool = False,
    keep_columns: bool = False,
    seed: int = DEFAULT_SEED,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
) -> tuple[Loaded, DataReport]:
    """Load images with captions from any usual form, recognised by what is there, and say what was found.

    Every row is one image: `image` (`datasets.Image`, decoded only when read), `captions` (list of str),
    `image_id` (str), and where the data tell languages `languages` (list of str, one for each caption). Images
    are listed, never opened, so a big folder takes seconds; one that turns out
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
        group_column: a column whose equal values mark images of one thing (a product, a concept). They go to one
            split, are never each other's negatives, and are kept in the column `group_id`.
        name, revision: of a Hub data set, as in `datasets.load_dataset`.
        languages: keep only captions in these (ISO 639-1 codes such as "de", "zh", "pt-br"), which columns such as
            `captions_de`, a `language` column, keys of records or names of files tell; "all" for all. None too,
            but that a plain `captions` column is then read alone, whatever stands beside it.
        streaming: a stream instead of a listing. Rows of one image are then not gathered; they share an id.
        on_error: "skip" leaves out what cannot be used and says so in one warning, "raise" raises DataError
            for empty captions, captions without image, images without caption, unreadable images and
            broken lines.
        verify: decode every image now, to find the unreadable ones.
        keep_columns: keep other columns of texts, numbers and truth values too; of rows of one image, those of the
            first. Streams keep none.
        seed, validation_fraction, test_fraction: the draw of splits by image where the data have none, 0.05
            each if not given; given, they also draw splits that the data lack out of their train split, or
            out of everything if there is no train split.

    Returns:
        The data, and the report of what was found, kept and left out.

    Raises:
        DataError: what is wrong with the data and what to do about it, in one sentence.
        FileNotFoundError: for a path that is not there.
    """
    if on_error not in ("skip", "raise"):
        raise ValueError(f'on_error is "skip" or "raise", not {on_error!r}.')
    said = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    wanted = wanted_languages(languages)
    named = NamedColumns(
        image_column, caption_column, image_id_column, split_column, group_column, wanted, keep_columns
    )
    listed = karpathy_split_list(karpathy_file) if karpathy_file else None
    by = "image" if group_column is None else "group"
    wish = SplitWish(split, listed, seed, validation_fraction, test_fraction, by)
    folder = Path(images).expanduser() if images is not None else None
    captions_path = Path(captions_file).expanduser() if captions_file is not None else None
    found = _read(source, folder, captions_path, named, name, revision, streaming)
    report = DataReport(source=said, form=found.form, files=found.files, notes=found.notes)
    if isinstance(found.data, (IterableDataset, IterableDatasetDict)):
        streams = stream_splits(_by_split(found.data), named, wish, said, on_error=on_error, verify=verify)
        report.streamed, report.split_rule = True, streams.rule
        report.notes += streams.notes
        return _chosen(streams.splits, split, said), report
    if not isinstance(found.data, Part):
        report.notes += _notes_of_columns(found.data, named)
    parts = _parts(found.data, named, folder or _folder_of(source), said)
    if verify:
        parts = [drop_unreadable(part) for part in parts]
    division = divide(parts, wish, said)
    _count(report, parts, division)
    _check(report, on_error, wanted)
    splits: DatasetDict | IterableDatasetDict = division.splits
    if streaming:
        splits = IterableDatasetDict({name: _streamed(dataset) for name, dataset in division.splits.items()})
    return _chosen(splits, split, said), report


def _data_alone(load: Callable[P, tuple[Loaded, DataReport]]) -> Callable[P, Loaded]:
    @functools.wraps(load)
    def load_data(*args: P.args, **kwargs: P.kwargs) -> Loaded:
        return load(*args, **kwargs)[0]

    load_data.__name__ = load_data.__qualname__ = "load_image_text_dataset"
    return load_data


load_image_text_dataset = _data_alone(load_with_report)


def load_labelled_images(source: str, split: str, label_column: str = "label") -> tuple[Dataset, list[str]]:
    """One split of a Hub data set, or of a folder that `datasets` reads, such as one subfolder for each class.

    Returns:
        The split with the columns `image` (undecoded) and `label` (positions), and the names of the classes,
        with blanks where folders and tables write underscores.

    Raises:
        DataError: there is no such split or column, or no image column.
    """
    folder = Path(source)
    if folder.is_dir():
        loaded = read_class_folders(folder, label_column) or library.load_repo_folder(folder, None, False)
    else:
        loaded = library.load_from_hub(source, None, None, False)
    if split not in loaded:
        if len(loaded) > 1:
            raise DataError(f"{source} has no split {split!r}; it has {', '.join(loaded)}.")
        logger.warning("%s has no split %r: all its images are taken", source, split)
        split = next(iter(loaded))
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


def _read(
    source: Source,
    images: Path | None,
    captions_file: Path | None,
    named: NamedColumns,
    name: str | None,
    revision: str | None,
    streaming: bool,
) -> Found:
    if not isinstance(source, (str, os.PathLike)):
        return Found(source, "data set in memory")
    path = Path(source).expanduser()
    if path.exists():
        return read_local(path, images, captions_file, named, name, streaming)
    text = os.fspath(source)
    if any(mark in text for mark in ("*", "{", "://")):
        return _read_pattern(text, streaming)
    if isinstance(source, os.PathLike) or not HUB_ID.fullmatch(text):
        raise FileNotFoundError(f"There is no file or folder {text!r}.")
    return Found(library.load_from_hub(text, name, revision, streaming), "Hub data set")


def _read_pattern(pattern: str, streaming: bool) -> Found:
    files = library.shards_of_pattern(pattern)
    if not files:
        raise FileNotFoundError(f"No file matches {pattern!r}.")
    suffix = Path(files[0]).suffix
    if suffix not in library.BUILDERS:
        raise DataError(
            f"A pattern or address is for {', '.join(library.BUILDERS)} files, not for {suffix!r}."
        )
    data = library.load_shards(files, Path(files[0]).parent, streaming)
    return Found(data, library.FORMS[library.BUILDERS[suffix]], files)


def _by_split(found: library.AnyDataset) -> list[tuple[str, Any]]:
    """The splits under their usual names, of which two may then be the same (train and restval)."""
    if isinstance(found, (DatasetDict, IterableDatasetDict)):
        return [(split_name(str(name)), dataset) for name, dataset in found.items()]
    whole = re.match(r"\w+", str(found.split or "train"))  # "train" of "train[:10%]"
    return [(split_name(whole[0] if whole else "train"), found)]


def _parts(
    found: Part | Dataset | DatasetDict, named: NamedColumns, images: Path | None, said: str
) -> list[Part]:
    if isinstance(found, Part):
        return [found]
    sources = _by_split(found)
    if not has_images(sources[0][1], named):
        return [part_of_names(sources, named, images, said)]
    known: dict[str, Mark] = {}
    return [
        part_of_dataset(dataset, split, named, alone=len(sources) == 1, known=known)
        for split, dataset in sources
    ]


def _notes_of_columns(found: Dataset | DatasetDict, named: NamedColumns) -> list[str]:
    _, dataset = _by_split(found)[0]
    return find_columns(dataset.column_names, named, image_columns(dataset.features)).notes


def _folder_of(source: Source) -> Path | None:
    """Where names in a Parquet file are looked up: beside it."""
    path = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else None
    if path is None or not path.exists():
        return None
    return path if path.is_dir() else path.parent


def _count(report: DataReport, parts: list[Part], division: Division[DatasetDict]) -> None:
    """Count what came in, what came out and what did not: the one place where it is done."""
    report.split_rule = division.rule
    report.notes += division.notes
    report.images_in = sum(part.images_in for part in parts)
    report.captions_in = sum(part.captions_in for part in parts)
    for part in parts:
        report.count(part.cases)
    report.count(division.cases)
    per_image: Counter[int] = Counter()
    languages: Counter[str] = Counter()
    for name, dataset in division.splits.items():
        counts = captions_per_row(dataset)
        report.splits[name] = SplitCounts(len(counts), sum(counts))
        per_image.update(counts)
        if "languages" in dataset.column_names:
            for table in arrow_batches(dataset, ["languages"], 10_000):
                languages.update(pc.list_flatten(table["languages"]).to_pylist())
    report.captions_per_image = dict(per_image)
    report.languages = dict(languages.most_common())


def _check(report: DataReport, on_error: str, wanted: Wanted) -> None:
    """Raise or warn about what did not come out."""
    if on_error == "raise":
        report.raise_for_problems()
    if report.serious:
        logger.warning("%s: %s", report.source, "; ".join(map(str, report.serious)))
    if not report.splits:
        raise DataError(
            f"Nothing is left of {report.source}: {'; '.join(map(str, report.problems.values()))}."
        )
    asked = [] if wanted in (None, "all") else wanted
    missing = [language for language in asked or [] if language not in report.languages]
    if missing:
        has = ", ".join(report.languages)
        raise DataError(f"{report.source} has no caption in {', '.join(missing)}; it has {has} (languages=).")


def _streamed(dataset: Dataset) -> IterableDataset:
    return dataset.to_iterable_dataset(num_shards=min(SHARDS_OF_LISTING, len(dataset)))


def _chosen(splits: DatasetDict | IterableDatasetDict, split: str | None, said: str) -> Loaded:
    """The split asked for, out of all."""
    if split is None:
        return splits
    if split == "all":
        return concatenate_datasets(list(splits.values()))
    wanted = split_name(split)
    if wanted not in splits:
        raise DataError(f'{said} has no split {split!r}, only {", ".join(splits)} and "all".')
    return splits[wanted]
