"""Which column is the image, which the captions: found by name, or named by hand."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .report import DataError

# In order of preference; names are compared in lower case without blanks.
IMAGE_NAMES = (
    *("image", "images", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_path", "img_path"),
    *(
        "image_file",
        "image_name",
        "img_name",
        "file_name",
        "filename",
        "filepath",
        "file_path",
        "file",
        "path",
    ),
)
CAPTION_NAMES = (
    *("captions", "caption", "alt_text", "alt_texts", "sentences", "sentence", "raw", "texts", "text"),
    *("comment", "comments", "description", "descriptions", "txt", "answer", "prompt"),
    "json",  # webdataset's, a record that holds them
)
ID_NAMES = (
    *("image_id", "img_id", "imgid", "cocoid"),
    *(
        "image_name",
        "img_name",
        "file_name",
        "filename",
        "image_path",
        "img_path",
        "filepath",
        "file_path",
        "__key__",
    ),
)
FILE_NAMES = ("file_name", "filename", "image_name", "img_name", "image_path", "img_path", "filepath")
NUMBERED_CAPTION = re.compile(r"(?:captions?|text|sentence|sent|comment|description)[_ ]?(\d+)")


@dataclass(frozen=True)
class NamedColumns:
    """The columns that the user named by hand; None where they are to be found."""

    image: str | None = None
    caption: str | Sequence[str] | None = None
    image_id: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    `image_id` is only there if it was named by hand, and then is believed; `ids` are columns that may tell
    images apart, the likeliest first.
    """

    image: str
    captions: tuple[str, ...]
    image_id: str | None = None
    ids: tuple[str, ...] = ()
    file_name: str | None = None
    split: str | None = None

    @property
    def text(self) -> list[str]:
        """Everything but the image, once each."""
        wanted = [*self.captions, *self.ids, self.file_name, self.split]
        return [name for name in dict.fromkeys(wanted) if name and name != self.image]


def find_columns(names: Iterable[str], named: NamedColumns, images: Sequence[str] = ()) -> Columns:
    """Choose among column `names`; `images` are those known by type to hold images.

    Raises DataError, listing the columns there are, if none fits or one named by hand is missing.
    """
    present = list(names)
    captions = (named.caption,) if isinstance(named.caption, str) else tuple(named.caption or ())
    for name in filter(None, (named.image, *captions, named.image_id, named.split)):
        if name not in present:
            raise DataError(f"There is no column {name!r}; the columns are {', '.join(present)}.")
    image = named.image or _first(images, IMAGE_NAMES) or next(iter(images), None)
    image = image or _first(present, IMAGE_NAMES)
    if image is None:
        raise DataError(_no_column("the image", "image_column", present))
    captions = captions or _caption_columns([name for name in present if name != image])
    if not captions:
        raise DataError(_no_column("the captions", "caption_column", present))
    return Columns(
        image=image,
        captions=captions,
        image_id=named.image_id,
        ids=(named.image_id,) if named.image_id else tuple(_named(present, ID_NAMES)),
        file_name=_first(present, FILE_NAMES),
        split=named.split or _first(present, ("split",)),
    )


def _no_column(what: str, argument: str, present: list[str]) -> str:
    return f"No column looks like {what}; the columns are {', '.join(present)}. Name it: {argument}=..."


def _plain(name: str) -> str:
    return name.strip().lower()


def _named(present: Iterable[str], wanted: Sequence[str]) -> list[str]:
    by_name = {_plain(name): name for name in present}
    return [by_name[name] for name in wanted if name in by_name]


def _first(present: Iterable[str], wanted: Sequence[str]) -> str | None:
    return next(iter(_named(present, wanted)), None)


def _caption_columns(present: list[str]) -> tuple[str, ...]:
    found = _first(present, CAPTION_NAMES)
    if found:
        return (found,)
    numbered = [
        (int(match[1]), name) for name in present if (match := NUMBERED_CAPTION.fullmatch(_plain(name)))
    ]
    return tuple(name for _, name in sorted(numbered))


def texts_of(value: Any) -> list[str | None]:
    """Every caption in a cell: a text, a list of them, or records that hold one; None is an empty one."""
    if isinstance(value, str) or value is None:
        return [value]
    if isinstance(value, float) and value != value:  # pandas writes a missing text as NaN
        return [None]
    if isinstance(value, dict):
        name = _first(value, CAPTION_NAMES)
        return texts_of(value[name]) if name else [None]
    if isinstance(value, Iterable):
        return [text for item in value for text in texts_of(item)]
    return [str(value)]


def written_list(cell: str) -> list[str] | str:
    """A table cell that spells a list of texts, in JSON or as Python prints it, or else the cell as it is."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            return value
    return cell
