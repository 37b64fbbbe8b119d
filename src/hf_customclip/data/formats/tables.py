"""Tables of captions with image names: CSV, TSV, JSON lines, a JSON list, imagefolder's metadata files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..columns import Columns, texts_of, written_list
from ..entries import Entry
from ..folders import is_image_name
from ..report import DataReport
from ..splits import split_name
from ..text_files import Line, csv_rows, read_lines

Row = tuple[str, Any]  # where it stands, and its cells by column
ROWS_FOR_KEYS = 100
DELIMITERS = "\t|;,"
HEADERLESS = {2: ["image", "caption"], 3: ["image", "comment_number", "caption"]}


@dataclass(frozen=True)
class Table:
    """A delimited text file: its column names, and the lines below the header if it has one."""

    path: Path
    delimiter: str
    header: list[str]
    body: list[Line]

    def rows(self, columns: Columns, report: DataReport) -> Iterator[Row]:
        """The rows, cells as text; delimiters in a caption that nobody quoted are put back."""
        position = self.header.index(columns.captions[0])
        for number, cells in csv_rows(self.body, self.delimiter, len(self.header), self.path, report):
            extra = len(cells) - len(self.header)
            if extra > 0:
                caption = self.delimiter.join(cells[position : position + extra + 1])
                cells = [*cells[:position], caption, *cells[position + extra + 1 :]]
            values = [written_list(cell.strip()) for cell in cells]
            yield f"{self.path.name} line {number}", dict(zip(self.header, values, strict=False))


def open_table(path: Path, report: DataReport) -> Table:
    """Read a delimited text file; without a header, the number of cells says which column is which."""
    lines = read_lines(path, report)
    first = lines[0][1] if lines else ""
    delimiter = max(DELIMITERS, key=first.count)  # the leftmost of equals
    cells = [cell.strip().strip('"').strip() for cell in first.split(delimiter)]
    if len(cells) > 1 and is_image_name(cells[0]):
        return Table(path, delimiter, HEADERLESS[3 if len(cells) > 2 and cells[1].isdigit() else 2], lines)
    return Table(path, delimiter, cells, lines[1:])


def json_rows(lines: list[Line], path: Path, report: DataReport) -> list[Row]:
    """The objects of a JSON-lines file; a line that is not one is reported."""
    rows = []
    for number, line in lines:
        where = f"{path.name} line {number}"
        try:
            rows.append((where, json.loads(line)))
        except ValueError:
            report_broken(where, report)
    return rows


def report_broken(where: str, report: DataReport, captions: int = 1) -> None:
    """Count something that was to be a caption and is not."""
    report.captions_in += captions
    report.add("broken_line", where, captions=captions)


def keys_of(rows: Iterable[Row]) -> list[str]:
    """The keys of JSON rows, in the order met; the first rows tell."""
    found = (key for _, row in islice(rows, ROWS_FOR_KEYS) if isinstance(row, dict) for key in row)
    return list(dict.fromkeys(found))


def entries_of_rows(
    rows: Iterable[Row], columns: Columns, folder: Path, split: str | None, report: DataReport
) -> Iterator[Entry]:
    """What each row says of its image; a row without an image's name or too short is reported."""
    for where, row in rows:
        row = row if isinstance(row, dict) else {}
        name = row.get(columns.image)
        name = str(name) if isinstance(name, int) else name
        captions = [text for column in columns.captions if column in row for text in texts_of(row[column])]
        if not isinstance(name, str) or not name.strip() or not any(c in row for c in columns.captions):
            report_broken(where, report, captions=max(len(captions), 1))
            continue
        image_id = row.get(columns.image_id) if columns.image_id else None
        row_split = row.get(columns.split) if columns.split else None
        yield Entry(
            name.strip(),
            captions,
            folder,
            image_id=str(image_id) if image_id not in (None, "") else None,
            split=split_name(str(row_split)) if row_split else split,
        )
