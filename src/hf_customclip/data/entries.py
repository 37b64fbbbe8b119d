"""From lines of a captions file to rows: images found on disk, captions cleaned and gathered by image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .folders import ARCHIVES, FolderListing, ImageFiles
from .part import Part, dataset_of_files
from .report import DataError, DataReport


class Entry(NamedTuple):
    """What one line or record says of one image; several may speak of the same."""

    name: str  # the image's file, as the captions file writes it
    captions: Sequence[str | None]
    folder: Path  # where a relative name starts
    image_id: str | None = None
    split: str | None = None


def clean_captions(captions: Iterable[str | None], name: str, report: DataReport) -> list[str]:
    """The captions without blanks around them; empty ones are reported. "NA" and "null" are text like any."""
    cleaned = []
    for caption in captions:
        report.captions_in += 1
        text = (caption or "").strip()
        if text:
            cleaned.append(text)
        else:
            report.add("empty_caption", name, captions=1)
    return cleaned


@dataclass(slots=True)
class _Image:
    name: str
    image_id: str | None
    split: str | None
    captions: list[str]


def gather(entries: Iterable[Entry], listing: FolderListing, report: DataReport) -> Part:
    """Find each entry's image and put its captions together, in the order of the file.

    Raises DataError if not one image is found, since then the folder is the wrong one.
    """
    index = ImageFiles(listing)
    path_of: dict[tuple[str, Path], str | None] = {}
    found: dict[str, _Image] = {}
    missing: dict[str, int] = {}
    for entry in entries:
        captions = clean_captions(entry.captions, entry.name, report)
        key = (entry.name, entry.folder)
        path = path_of[key] if key in path_of else path_of.setdefault(key, index.find(*key))
        if path is None:
            missing[entry.name] = missing.get(entry.name, 0) + len(captions)
            continue
        image = found.setdefault(path, _Image(entry.name, entry.image_id, entry.split, []))
        image.captions += captions
        if entry.split != image.split:
            report.add("split_conflict", f"{entry.name} ({image.split}, {entry.split})")
    _check_found(found, missing, listing)
    _report_unmatched(found, missing, index, report)
    return _rows({path: image for path, image in found.items() if image.captions}, listing.root)


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


def _report_unmatched(
    found: dict[str, _Image], missing: dict[str, int], index: ImageFiles, report: DataReport
) -> None:
    unused, copies = index.unused(set(found))
    report.images_in += len(found) + len(missing) + len(unused) + len(copies)
    for name, captions in missing.items():
        report.add("missing_image", name, images=1, captions=captions)
    for path in unused + [path for path, image in found.items() if not image.captions]:
        report.add("uncaptioned_image", path, images=1)
    for path in copies:
        report.add("second_copy", path, images=1)


def _rows(images: dict[str, _Image], root: Path) -> Part:
    rows = images.values()
    uses = Counter(image.name for image in rows)
    # A name used in several folders (train/0001.jpg, test/0001.jpg) tells no image; its path does.
    ids = [
        image.image_id or (image.name if uses[image.name] == 1 else os.path.relpath(path, root))
        for path, image in images.items()
    ]
    dataset = dataset_of_files(list(images), [image.captions for image in rows], ids)
    return Part(dataset, [image.name for image in rows], [image.split for image in rows])
