"""What is to be checked: images of a folder, or rows of a CSV or JSONL file with an image, a text or both."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.folders import is_image_name, list_folder


@dataclass(frozen=True)
class ItemColumns:
    """What the columns of a file are called: an image's path, a text, categories of labelled examples, a group."""

    path: str = "path"
    text: str = "text"
    categories: str = "categories"
    group: str = "group"


@dataclass(frozen=True)
class Item:
    """One thing to check.

    Args:
        path: its image, or None for a text alone.
        text: the text that comes with it, or None.
        categories: for a labelled example, the policy's categories that it belongs to.
        group: near copies share one; they are held out together in cross-validation.
    """

    path: str | None
    text: str | None = None
    categories: tuple[str, ...] = ()
    group: str | None = None


DEFAULT_COLUMNS = ItemColumns()


def read_items(source: str | Path, columns: ItemColumns = DEFAULT_COLUMNS) -> list[Item]:
    """Items of a folder of images, of one image, or of a CSV or JSONL file.

    A file has the columns `path` (relative to the file) and/or `text`, and for labelled examples `categories`
    (in JSONL a list, in CSV with semicolons between; empty for a harmless one) and, optionally, `group`; or others
    in their places, as `columns` says.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it holds nothing to check, or a row is not as above; the line is named.
    """
    source = Path(source)
    if source.is_dir():
        items = [Item(str(source / os.path.relpath(path, source))) for path in list_folder(source).images]
    elif not source.is_file():
        raise FileNotFoundError(f"There is no file or folder '{source}'.")
    elif is_image_name(source.name):
        items = [Item(str(source))]
    elif source.suffix.lower() in (".jsonl", ".csv"):
        rows = _json_rows(source) if source.suffix.lower() == ".jsonl" else _csv_rows(source, columns)
        items = [_item(row, columns, source.parent, f"{source}, line {line}") for line, row in rows]
    else:
        raise ValueError(f"'{source}' is neither a folder, nor an image, nor a .csv or .jsonl file.")
    if not items:
        raise ValueError(f"'{source}' holds nothing to check.")
    return items


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: this is not JSON ({error}).") from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{file}, line {number}: here must stand an object with path, text, categories, group."
                )
            yield number, row


def _csv_rows(file: Path, columns: ItemColumns) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            names = [name.strip() for name in (row.get(columns.categories) or "").split(";")]
            yield reader.line_num, {**row, columns.categories: [name for name in names if name]}


def _item(row: Mapping[str, Any], columns: ItemColumns, folder: Path, where: str) -> Item:
    path, text, categories = (row.get(name) for name in (columns.path, columns.text, columns.categories))
    if not any(isinstance(value, str) and value.strip() for value in (path, text)):
        raise ValueError(
            f"{where}: there is neither a {columns.path!r} nor a {columns.text!r} to check; there are "
            f"{', '.join(name for name in row if row[name])}."
        )
    categories = categories or []
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise ValueError(f"{where}: {columns.categories!r} must be a list of category names.")
    group = row.get(columns.group)
    return Item(
        path=str(folder / path) if path else None,
        text=text or None,
        categories=tuple(categories),
        group=None if group in (None, "") else str(group),
    )
