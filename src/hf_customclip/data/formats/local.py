"""Data on disk: telling a folder's or file's form by what is there, and reading it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ..columns import NamedColumns
from ..entries import Entry, gather
from ..folders import ARCHIVES, FolderListing, is_image_name, list_folder
from ..part import Part
from ..report import DataError, DataReport
from ..splits import split_in_path
from . import datasets_library as library
from .caption_files import captions_files, read_captions_file
from .flickr import read_split_lists

KNOWN_FORMS = (
    "results.csv (Kaggle Flickr30k), captions.txt, *.token, dataset_*.json (Karpathy), captions_*.json "
    "(COCO), metadata.csv or .jsonl (imagefolder), any .csv, .tsv, .jsonl or .json with a column of image "
    "names and one of captions, .parquet, .arrow, .tar (webdataset), or what save_to_disk writes"
)


def read_local(
    source: Path,
    images: Path | None,
    captions_file: Path | None,
    named: NamedColumns,
    name: str | None,
    streaming: bool,
    report: DataReport,
) -> Part | library.AnyDataset:
    """Recognise and read a file or folder; the report gets its form and files."""
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"There is no folder {images} (images=).")
    if source.is_file():
        return _read_file(source, images, named, streaming, report)
    saved = library.saved_dataset(source)
    if saved is not None:
        report.form = "data set saved by save_to_disk"
        return saved
    listing = list_folder(source)
    if captions_file is not None:
        return _read_texts([_captions_path(captions_file, source)], [], listing, images, named, report)
    shards = library.shards_in(listing)
    if shards and not listing.images and images is None:
        return _read_shards(shards, source, name, streaming, report)
    texts, passed_over = captions_files(listing, named)
    if texts:
        return _read_texts(texts, passed_over, listing, images, named, report)
    if shards:
        return _read_shards(shards, source, name, streaming, report)
    library.check_for_script(source)
    raise DataError(
        f"{source} holds {len(listing.images):,} images but no captions file. Known are {KNOWN_FORMS}."
    )


def _captions_path(captions_file: Path, folder: Path) -> Path:
    for path in (folder / captions_file, captions_file):
        if path.is_file():
            return path
    raise FileNotFoundError(f"There is no captions file {captions_file}, nor in {folder}.")


def _read_file(
    path: Path, images: Path | None, named: NamedColumns, streaming: bool, report: DataReport
) -> Part | library.AnyDataset:
    if path.suffix.lower() in ARCHIVES:
        raise DataError(f"{path} is an archive: unpack it and give the folder.")
    if is_image_name(path.name):
        raise DataError(f"{path} is an image: give the folder that holds it and its captions.")
    if path.suffix in library.BUILDERS:
        return _read_shards([path], path.parent, None, streaming, report)
    listing = list_folder(images or path.parent)
    return _read_texts([path], [], listing, images, named, report)


def _read_shards(
    shards: list[Path], folder: Path, name: str | None, streaming: bool, report: DataReport
) -> library.AnyDataset:
    report.form = library.FORMS[library.BUILDERS[shards[0].suffix]]
    report.files = [str(path) for path in shards]
    if name is not None or (folder / "README.md").is_file():
        return library.load_repo_folder(folder, name, streaming)
    return library.load_shards(report.files, folder, streaming)


def _read_texts(
    files: list[Path],
    passed_over: list[Path],
    listing: FolderListing,
    images: Path | None,
    named: NamedColumns,
    report: DataReport,
) -> Part:
    report.files = [str(path) for path in files]
    report.notes += [f"also there, not read: {path}" for path in passed_over]
    entries: list[Iterator[Entry]] = []
    for path in files:
        report.form, found = read_captions_file(path, split_in_path(path, listing.root), named, report)
        entries.append(found)
    image_files = list_folder(images) if images is not None else listing
    part = gather(chain.from_iterable(entries), image_files, report)
    split_list = read_split_lists(listing.others, report)
    if split_list is not None:
        report.notes.append(f"splits {split_list.rule}")
        part.splits = [split_list.find(name) for name in part.names]
    return part
