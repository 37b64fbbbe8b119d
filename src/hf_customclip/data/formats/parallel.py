"""Captions line by line: a list of image names, and beside it a file of captions for each language.

Multi30k (`image_splits/train.txt` with `raw/train.de.gz`, or five each, `raw/train.1.de.gz`) and XTD
(`test_image_names.txt` with `test_1kcaptions_ko.txt`) come in this form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..folders import FolderListing, is_image_name
from ..languages import Caption, language_code
from ..part import Entry
from ..report import Case, DataError
from ..splits import split_in_path
from .text_files import first_line, read_lines

NAMES = re.compile(r"(?P<stem>.+?)(?:_image_names|_images)?\.(?:txt|lst)")
CAPTIONS = (
    re.compile(r"(?P<stem>.+?)(?:\.(?P<number>\d+))?\.(?P<code>[a-z]{2})(?:\.gz)?"),
    re.compile(r"(?P<stem>.+?)_(?:\d+k)?captions_(?P<code>[a-z]{2})\.txt", re.IGNORECASE),
)


@dataclass(frozen=True)
class ParallelFiles:
    """A list of image names, and the files whose lines are captions of the images in its lines."""

    names: Path
    captions: list[tuple[str, Path]]  # with their languages
    split: str | None

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.names, *(path for _, path in self.captions)]


def parallel_files(listing: FolderListing) -> list[ParallelFiles]:
    """Every list of image names in a folder that has captions beside it; lists without any are passed over."""
    captions: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(listing.others):
        match = next((match for form in CAPTIONS if (match := form.fullmatch(path.name))), None)
        language = language_code(match["code"]) if match else None
        if match and language:
            captions.setdefault(match["stem"], []).append((language, path))
    found = []
    for path in listing.others if captions else []:
        match = NAMES.fullmatch(path.name)
        if match and match["stem"] in captions and is_image_name(first_line(path).partition("#")[0]):
            split = split_in_path(path, listing.root)
            found.append(ParallelFiles(path, captions[match["stem"]], split))
    return found


def read_parallel(files: ParallelFiles) -> Iterator[Entry | Case]:
    """One entry for every line of every file of captions; a blank line is an empty caption.

    Raises DataError for a file of another number of lines than there are names.
    """
    names = read_lines(files.names)
    yield from names.cases
    for language, path in files.captions:
        captions = read_lines(path, keep_blank=True)
        yield from captions.cases
        if len(captions.lines) != len(names.lines):
            raise DataError(
                f"{path} has {len(captions.lines):,} lines, but {files.names} names {len(names.lines):,} images."
            )
        for (_, name), (_, text) in zip(names.lines, captions.lines, strict=True):
            caption = Caption(text, language)
            yield Entry(name.partition("#")[0].strip(), [caption], files.names.parent, split=files.split)
