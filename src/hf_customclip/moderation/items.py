"""What is to be checked: images of a folder, or rows of a CSV or JSONL file with an image, a text or both."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.folders import is_image_name, list_folder

COLUMNS = ("path", "text", "categories", "group")


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


def read_items(source: str | Path) -> list[Item]:
    """Items of a folder of images, of one image, or of a CSV or JSONL file.

    A file has the columns `path` (relative to the file) and/or `text`, and for labelled examples `categories`
    (in JSONL a list, in CSV with semicolons between; empty for a harmless one) and, optionally, `group`.

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
        rows = _json_rows(source) if source.suffix.lower() == ".jsonl" else _csv_rows(source)
        items = [_item(row, source.parent, f"{source}, line {line}") for line, row in rows]
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
                    f"{file}, line {number}: here must stand an object with {', '.join(COLUMNS)}."
                )
            yield number, row


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            names = row.get("categories") or ""
            yield reader.line_num, {**row, "categories": [n.strip() for n in names.split(";") if n.strip()]}


def _item(row: dict[str, Any], folder: Path, where: str) -> Item:
    path, text, categories = row.get("path"), row.get("text"), row.get("categories") or []
    if not any(isinstance(value, str) and value.strip() for value in (path, text)):
        raise ValueError(f"{where}: there is neither a 'path' nor a 'text' to check.")
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise ValueError(f"{where}: 'categories' must be a list of category names.")
    group = row.get("group")
    return Item(
        path=str(folder / path) if path else None,
        text=text or None,
        categories=tuple(categories),
        group=None if group in (None, "") else str(group),
    )
