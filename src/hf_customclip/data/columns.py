"""Which column is the image, which the captions: found by name, or named by hand."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .languages import (
    PLAIN,
    Caption,
    Wanted,
    language_code,
    language_of_column,
    languages_of_keys,
    spelt_language,
)
from .report import DataError

# In order of preference; names are compared in lower case without blanks.
IMAGE_NAMES = (
    "image", "images", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_path", "img_path",
    "image_file", "image_name", "img_name", "file_name", "filename", "filepath", "file_path", "file", "path",
    "image/key",  # Crossmodal-3600's
)  # fmt: skip
CAPTION_NAMES = (
    "captions", "caption", "alt_text", "alt_texts", "sentences", "sentence", "raw", "texts", "text",
    "comment", "comments", "description", "descriptions", "txt", "answer", "prompt",
    "json",  # webdataset's, a record that holds them
)  # fmt: skip
# Shops' columns, taken where nothing else looks like captions.
TITLE_NAMES = ("title", "product_title", "item_title", "name", "product_name", "item_name", "product")
ID_NAMES = (
    "image_id", "img_id", "imgid", "cocoid", "image/key", "image_name", "img_name", "file_name", "filename",
    "image_path", "img_path", "filepath", "file_path", "__key__",
)  # fmt: skip
FILE_NAMES = ("file_name", "filename", "image_name", "img_name", "image_path", "img_path", "filepath")
LANGUAGE_NAMES = ("language", "languages", "lang", "language_code", "lang_code", "locale")
NUMBERED_CAPTION = re.compile(r"(?:captions?|text|sentence|sent|comment|description)[_ ]?(\d+)")


@dataclass(frozen=True)
class NamedColumns:
    """The columns that the user named by hand, None where they are to be found; which languages to keep, and whether
    to keep columns that are neither."""

    image: str | None = None
    caption: str | Sequence[str] | None = None
    image_id: str | None = None
    split: str | None = None
    group: str | None = None
    languages: Wanted = None
    keep_others: bool = False


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    `image_id` is only there if it was named by hand, and then is believed; `ids` are columns that may tell
    images apart, the likeliest first. `languages` are those of caption columns whose name tells it, `language`
    is the column that tells it row by row. `kept` stay beside them as they are.
    """

    image: str
    captions: tuple[str, ...]
    image_id: str | None = None
    ids: tuple[str, ...] = ()
    file_name: str | None = None
    split: str | None = None
    group: str | None = None
    languages: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    kept: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a user may want to know of columns that were passed over."""
        if not self.unused:
            return []
        return [f"captions from {', '.join(self.captions)}; also there, not used: {', '.join(self.unused)}"]

    @property
    def text(self) -> list[str]:
        """Everything but the image, once each."""
        wanted = [*self.captions, *self.ids, self.file_name, self.split, self.group, self.language]
        return [name for name in dict.fromkeys(wanted) if name and name != self.image]

    def captions_of(self, row: Mapping[str, Any]) -> list[Caption]:
        """Every caption in a row's cells, in its language as far as that is told.

        An empty cell of a language's column is no caption: not every image has one in every language.
        """
        told = row.get(self.language) if self.language else None
        captions = [
            caption
            for column in self.captions
            if column in row and not (column in self.languages and row[column] in (None, ""))
            for caption in captions_of(row[column], self.languages.get(column) or spelt_language(told))
        ]
        if isinstance(told, list) and len(told) == len(captions):  # this package's own form
            return [
                Caption(text, spelt_language(each)) for (text, _), each in zip(captions, told, strict=True)
            ]
        return captions


def find_columns(names: Iterable[str], named: NamedColumns, images: Sequence[str] = ()) -> Columns:
    """Choose among column `names`; `images` are those known by type to hold images.

    Raises DataError, listing the columns there are, if none fits or one named by hand is missing.
    """
    present = list(names)
    captions = (named.caption,) if isinstance(named.caption, str) else tuple(named.caption or ())
    for name in filter(None, (named.image, *captions, named.image_id, named.split, named.group)):
        if name not in present:
            raise DataError(f"There is no column {name!r}; the columns are {', '.join(present)}.")
    image = named.image or _first(images, IMAGE_NAMES) or next(iter(images), None)
    image = image or _first(present, IMAGE_NAMES)
    if image is None:
        raise DataError(_no_column("the image", "image_column", present))
    captions = captions or _caption_columns([name for name in present if name != image], named.languages)
    if not captions:
        raise DataError(_no_column("the captions", "caption_column", present))
    columns = Columns(
        image=image,
        captions=captions,
        image_id=named.image_id,
        ids=(named.image_id,) if named.image_id else tuple(_named(present, ID_NAMES)),
        file_name=_first(present, FILE_NAMES),
        split=named.split or _first(present, ("split",)),
        group=named.group,
        languages=_languages_of(captions),
        language=_first([name for name in present if name not in (image, *captions)], LANGUAGE_NAMES),
    )
    if named.keep_others:
        read = (columns.image, *captions, columns.language)
        return replace(columns, kept=tuple(name for name in present if name not in read))
    used = {columns.image, *columns.text, "languages"}
    return replace(columns, unused=tuple(name for name in present if name not in used))


def _no_column(what: str, argument: str, present: list[str]) -> str:
    return f"No column looks like {what}; the columns are {', '.join(present)}. Name it: {argument}=..."


def _plain(name: str) -> str:
    return name.strip().lower()


def _named(present: Iterable[str], wanted: Sequence[str]) -> list[str]:
    by_name = {_plain(name): name for name in present}
    return [by_name[name] for name in wanted if name in by_name]


def _first(present: Iterable[str], wanted: Sequence[str]) -> str | None:
    return next(iter(_named(present, wanted)), None)


def _caption_columns(present: list[str], languages: Wanted) -> tuple[str, ...]:
    """`captions`, or with a language in their names `captions_de`, or only languages `de`, or numbers `caption_1`.

    `captions_de` beside a plain `captions` is only read where languages are asked for.
    """
    found = _first(present, CAPTION_NAMES)
    if found and languages is None:
        return (found,)
    in_languages = [name for name in present if language_of_column(name)]
    if found or in_languages:
        return tuple(dict.fromkeys([*([found] if found else []), *in_languages]))
    bare = languages_of_keys(present)
    if bare:
        return tuple(bare)
    numbered = [
        (int(match[1]), name) for name in present if (match := NUMBERED_CAPTION.fullmatch(_plain(name)))
    ]
    titles = _named(present, TITLE_NAMES)[:1]
    return tuple(name for _, name in sorted(numbered)) or tuple(titles)


def _languages_of(captions: Sequence[str]) -> dict[str, str]:
    """The languages that names of caption columns tell; a plain `captions` beside them is English."""
    told = {name: language_of_column(name) or language_code(name) for name in captions}
    languages = {name: language for name, language in told.items() if language}
    plain = next((name for name in captions if name not in languages), None)
    if languages and plain is not None and PLAIN not in languages.values():
        languages[plain] = PLAIN
    return languages


def captions_of(value: Any, language: str | None = None) -> list[Caption]:
    """Every caption in a cell: a text, a list of them, or records that hold one or one for each language.

    None is an empty caption.
    """
    if isinstance(value, str) or value is None:
        return [Caption(value, language)]
    if isinstance(value, float) and value != value:  # pandas writes a missing text as NaN
        return [Caption(None, language)]
    if isinstance(value, dict):
        return _captions_of_record(value, language)
    if isinstance(value, Iterable):
        return [caption for item in value for caption in captions_of(item, language)]
    return [Caption(str(value), language)]


def _captions_of_record(record: dict[str, Any], language: str | None) -> list[Caption]:
    name = _first(record, CAPTION_NAMES)
    if name:
        told = _first(record, LANGUAGE_NAMES)
        return captions_of(record[name], spelt_language(record[told]) if told else language)
    languages = languages_of_keys(record)
    # A record without captions in a language, as `datasets` fills it up with None, is no empty caption.
    told_captions = [(record[key], code) for key, code in languages.items() if record[key] is not None]
    found = [caption for value, code in told_captions for caption in captions_of(value, code)]
    return found or [Caption(None, language)]


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
