"""Data on disk: telling a folder's or file's form by what is there, and reading it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from ..columns import NamedColumns
from ..folders import ARCHIVES, FolderListing, is_image_name, list_folder
from ..part import Entry, Part, gather
from ..report import Case, DataError
from ..splits import split_in_path
from . import datasets_library as library
from .caption_files import captions_files, read_captions_file
from .flickr import read_split_lists
from .parallel import parallel_files, read_parallel

KNOWN_FORMS = (
    "results.csv (Kaggle Flickr30k), captions.txt, *.token, dataset_*.json (Karpathy), captions_*.json "
    "(COCO), metadata.csv or .jsonl (imagefolder), any .csv, .tsv, .jsonl or .json with a column of image "
    "names and one of captions, a list of image names with a file of captions for each language (Multi30k, XTD), "
    ".parquet, .arrow, .tar (webdataset), or what save_to_disk writes"
)


@dataclass(frozen=True)
class Found:
    """What was read from where, and in which form."""

    data: Part | library.AnyDataset
    form: str
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_local(
    source: Path,
    images: Path | None,
    captions_file: Path | None,
    named: NamedColumns,
    name: str | None,
    streaming: bool,
) -> Found:
    """Recognise and read a file or folder."""
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"There is no folder {images} (images=).")
    if source.is_file():
        return _read_file(source, images, named, streaming)
    saved = library.saved_dataset(source)
    if saved is not None:
        return Found(saved, "data set saved by save_to_disk")
    listing = list_folder(source)
    if captions_file is not None:
        return _read_texts([_captions_path(captions_file, source)], listing, images, named)
    shards = library.shards_in(listing)
    if shards and not listing.images and images is None:
        return _read_shards(shards, source, name, streaming)
    parallel = parallel_files(listing)
    if parallel:
        entries = chain.from_iterable(map(read_parallel, parallel))
        files = [path for group in parallel for path in group.files]
        return Found(
            _gathered(entries, listing, images, named),
            "image names and captions line by line, a file for each language",
            list(map(str, files)),
        )
    texts, passed_over = captions_files(listing, named)
    if texts:
        found = _read_texts(texts, listing, images, named)
        also = [f"also there, not read: {path}" for path in passed_over]
        return replace(found, notes=also + found.notes)
    if shards:
        return _read_shards(shards, source, name, streaming)
    library.check_for_script(source)
    raise DataError(
        f"{source} holds {len(listing.images):,} images but no captions file. Known are {KNOWN_FORMS}."
    )


def _captions_path(captions_file: Path, folder: Path) -> Path:
    for path in (folder / captions_file, captions_file):
        if path.is_file():
            return path
    raise FileNotFoundError(f"There is no captions file {captions_file}, nor in {folder}.")


def _read_file(path: Path, images: Path | None, named: NamedColumns, streaming: bool) -> Found:
    if path.suffix.lower() in ARCHIVES:
        raise DataError(f"{path} is an archive: unpack it and give the folder.")
    if is_image_name(path.name):
        raise DataError(f"{path} is an image: give the folder that holds it and its captions.")
    if path.suffix in library.BUILDERS:
        return _read_shards([path], path.parent, None, streaming)
    return _read_texts([path], None if images is None else list_folder(images), images, named)


def _read_shards(shards: list[Path], folder: Path, name: str | None, streaming: bool) -> Found:
    files = [str(path) for path in shards]
    if name is not None or (folder / "README.md").is_file():
        data = library.load_repo_folder(folder, name, streaming)
    else:
        data = library.load_shards(files, folder, streaming)
    return Found(data, library.FORMS[library.BUILDERS[shards[0].suffix]], files)


def _read_texts(
    files: list[Path], listing: FolderListing | None, images: Path | None, named: NamedColumns
) -> Found:
    """Without a listing, that of the file's folder, which is not made where every name is a whole path."""
    root = files[0].parent if listing is None else listing.root
    read = [read_captions_file(path, split_in_path(path, root), named) for path in files]
    entries: Iterable[Entry | Case] = chain.from_iterable(file.entries for file in read)
    if listing is None:
        entries = list(entries)
        whole = all(os.path.isabs(entry.name) for entry in entries if isinstance(entry, Entry))
        listing = FolderListing(root, [], []) if whole else list_folder(root)
    part = _gathered(entries, listing, images, named)
    notes = list(dict.fromkeys(note for file in read for note in file.notes))
    split_list = read_split_lists(listing.others)
    if split_list is not None:
        notes.append(f"splits {split_list.rule}")
        part.splits = [split_list.find(name) for name in part.names]
    return Found(part, read[-1].form, [str(path) for path in files], notes)


def _gathered(
    entries: Iterable[Entry | Case], listing: FolderListing, images: Path | None, named: NamedColumns
) -> Part:
    return gather(entries, list_folder(images) if images is not None else listing, named.languages)
