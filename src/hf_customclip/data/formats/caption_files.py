"""Finding the captions file in a folder and reading whichever form it has."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..columns import NamedColumns, find_columns
from ..folders import FolderListing
from ..part import Entry
from ..report import Case, DataError
from ..splits import split_in_path
from . import coco, flickr, tables
from .text_files import first_line

METADATA = re.compile(r"metadata\.(csv|tsv|jsonl?)")
KNOWN_PATTERNS = (
    METADATA,
    re.compile(r"dataset(?!_infos?\b).*\.json"),  # Karpathy's dataset_flickr30k.json
    re.compile(r"captions_(train|val|test).*\.json"),  # COCO's
)
FLICKR_PATTERNS = (
    re.compile(r"results\.csv"),
    re.compile(r"(?!.*lemma).*\.token(\.txt)?"),
    re.compile(r".*captions?.*\.(txt|csv|tsv)", re.IGNORECASE),
)
TABLE = re.compile(r".*\.(csv|tsv|jsonl?)", re.IGNORECASE)
# JSON that lies next to captions and is not captions.
OTHER_JSON = re.compile(
    r"(instances|person_keypoints|panoptic|stuff|image_info|dataset_info|package|config).*"
)


def captions_files(listing: FolderListing, named: NamedColumns) -> tuple[list[Path], list[Path]]:
    """The captions files to read in a folder, and others of the same kind that were passed over.

    Several are read together only if they are one data set: imagefolder's metadata files, or one per split.
    """
    for pattern in KNOWN_PATTERNS:
        found = [path for path in listing.others if pattern.fullmatch(path.name)]
        if found:
            return (found if pattern is METADATA else _one_or_splits(found, listing.root)), []
    for pattern in FLICKR_PATTERNS:
        found = [path for path in listing.others if pattern.fullmatch(path.name)]
        if found:
            texts = [path for path in listing.others if any(p.fullmatch(path.name) for p in FLICKR_PATTERNS)]
            chosen = _one_or_splits(found, listing.root)
            return chosen, [path for path in texts if path not in chosen]
    tables = [p for p in listing.others if TABLE.fullmatch(p.name) and not OTHER_JSON.fullmatch(p.name)]
    tables = [path for path in tables if _is_captions_file(path, named)]
    return _one_or_splits(tables, listing.root) if tables else [], []


def _one_or_splits(files: list[Path], root: Path) -> list[Path]:
    files = _without_copies(files)
    splits = [split_in_path(path, root) for path in files]
    if len(files) == 1 or (None not in splits and len(set(splits)) == len(files)):
        return files
    listed = ", ".join(str(path.relative_to(root)) for path in files)
    raise DataError(f"{root} holds several captions files: {listed}. Say which to read: captions_file=...")


def _without_copies(files: list[Path]) -> list[Path]:
    """Of files of one name and content, the one nearest to the top: Kaggle's archive holds all twice."""
    kept: list[Path] = []
    for path in sorted(files, key=lambda path: len(path.parts)):
        if not any(path.name == other.name and filecmp.cmp(path, other, shallow=False) for other in kept):
            kept.append(path)
    return kept


def _is_captions_file(path: Path, named: NamedColumns) -> bool:
    try:
        read_captions_file(path, None, named)
    except DataError:
        return False
    return True


class CaptionsFile(NamedTuple):
    """A captions file that was recognised: its form in words, what it says image by image, and of its columns."""

    form: str
    entries: Iterator[Entry | Case]
    notes: list[str] = []  # noqa: RUF012 - never changed


def read_captions_file(path: Path, split: str | None, named: NamedColumns) -> CaptionsFile:
    """Recognise a captions file by its content."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_json(path, split, named)
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path, split, named)
    first = first_line(path)
    if flickr.is_token_file(first):
        return CaptionsFile("Flickr .token file", flickr.read_token_file(path))
    if flickr.is_bar_file(first):
        return CaptionsFile("Kaggle Flickr30k results.csv", flickr.read_bar_file(path))
    table = tables.open_table(path)
    columns = find_columns(table.header, named)
    form = "imagefolder with metadata" if METADATA.fullmatch(path.name) else "table of captions"
    entries = tables.entries_of_rows(table.rows(columns), columns, path.parent, split)
    return CaptionsFile(form, entries, columns.notes)


def _read_json(path: Path, split: str | None, named: NamedColumns) -> CaptionsFile:
    try:
        content = coco.read_json(path)
    except DataError:
        if first_line(path).rstrip().endswith("}"):  # JSON lines under another name
            return _read_json_lines(path, split, named)
        raise
    if coco.is_karpathy(content):
        return CaptionsFile("Karpathy JSON", coco.karpathy_entries(content, path))
    if coco.is_coco(content):
        return CaptionsFile("COCO annotations", coco.coco_entries(content, path, split))
    if isinstance(content, list):
        listed: list[tables.Row | Case] = [
            (f"{path.name} item {number}", row) for number, row in enumerate(content)
        ]
        columns = find_columns(tables.keys_of(listed), named)
        entries = tables.entries_of_rows(listed, columns, path.parent, split)
        return CaptionsFile("JSON list of captions", entries, columns.notes)
    raise DataError(
        f"{path} is JSON of an unknown form. Known are Karpathy's, COCO's caption annotations, and a list of "
        "objects with an image's name and its caption."
    )


def _read_json_lines(path: Path, split: str | None, named: NamedColumns) -> CaptionsFile:
    found = tables.json_rows(path)
    columns = find_columns(tables.keys_of(found), named)
    form = "imagefolder with metadata" if METADATA.fullmatch(path.name) else "JSON lines of captions"
    return CaptionsFile(form, tables.entries_of_rows(found, columns, path.parent, split), columns.notes)
