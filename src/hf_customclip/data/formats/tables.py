"""Tables of captions with image names: CSV, TSV, JSON lines, a JSON list, imagefolder's metadata files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..columns import Columns, written_list
from ..folders import is_image_name
from ..part import Entry
from ..report import Case
from ..splits import split_name
from .text_files import Lines, csv_rows, read_lines

Row = tuple[str, Any]  # where it stands, and its cells by column
ROWS_FOR_KEYS = 100
DELIMITERS = "\t|;,"
HEADERLESS = {2: ["image", "caption"], 3: ["image", "comment_number", "caption"]}


@dataclass(frozen=True)
class Table:
    """A delimited text file: its column names, and the lines below the header if it has one."""

    name: str
    delimiter: str
    header: list[str]
    body: Lines

    def rows(self, columns: Columns) -> Iterator[Row | Case]:
        """The rows, cells as text; delimiters in a caption that nobody quoted are put back."""
        position = self.header.index(columns.captions[0])
        yield from self.body.cases
        for row in csv_rows(self.body.lines, self.delimiter, len(self.header), self.name):
            if isinstance(row, Case):
                yield row
                continue
            number, cells = row
            extra = len(cells) - len(self.header)
            if extra > 0:
                caption = self.delimiter.join(cells[position : position + extra + 1])
                cells = [*cells[:position], caption, *cells[position + extra + 1 :]]
            values = [written_list(cell.strip()) for cell in cells]
            yield f"{self.name} line {number}", dict(zip(self.header, values, strict=False))


def open_table(path: Path) -> Table:
    """Read a delimited text file; without a header, the number of cells says which column is which."""
    found = read_lines(path)
    first = found.lines[0][1] if found.lines else ""
    delimiter = max(DELIMITERS, key=first.count)  # the leftmost of equals
    cells = [cell.strip().strip('"').strip() for cell in first.split(delimiter)]
    if len(cells) > 1 and is_image_name(cells[0]):
        return Table(
            path.name, delimiter, HEADERLESS[3 if len(cells) > 2 and cells[1].isdigit() else 2], found
        )
    return Table(path.name, delimiter, cells, found._replace(lines=found.lines[1:]))


def json_rows(path: Path) -> list[Row | Case]:
    """The objects of a JSON-lines file; a line that is not one is a broken line."""
    lines, cases = read_lines(path)
    rows: list[Row | Case] = [*cases]
    for number, line in lines:
        where = f"{path.name} line {number}"
        try:
            rows.append((where, json.loads(line)))
        except ValueError:
            rows.append(broken_line(where))
    return rows


def broken_line(where: str, captions: int = 1) -> Case:
    """Something that was to be a caption and is not."""
    return Case("broken_line", where, captions=captions)


def keys_of(rows: Iterable[Row | Case]) -> list[str]:
    """The keys of JSON rows, in the order met; the first rows tell."""
    contents = (row[1] for row in rows if not isinstance(row, Case))
    found = (key for row in islice(contents, ROWS_FOR_KEYS) if isinstance(row, dict) for key in row)
    return list(dict.fromkeys(found))


def entries_of_rows(
    rows: Iterable[Row | Case], columns: Columns, folder: Path, split: str | None
) -> Iterator[Entry | Case]:
    """What each row says of its image; a row without an image's name or too short is a broken line."""
    for found in rows:
        if isinstance(found, Case):
            yield found
            continue
        where, row = found
        row = row if isinstance(row, dict) else {}
        name = row.get(columns.image)
        name = str(name) if isinstance(name, int) else name
        captions = columns.captions_of(row)
        if not isinstance(name, str) or not name.strip() or not any(c in row for c in columns.captions):
            yield broken_line(where, captions=max(len(captions), 1))
            continue
        image_id = row.get(columns.image_id) if columns.image_id else None
        row_split = row.get(columns.split) if columns.split else None
        group = row.get(columns.group) if columns.group else None
        yield Entry(
            name.strip(),
            captions,
            folder,
            image_id=str(image_id) if image_id not in (None, "") else None,
            split=split_name(str(row_split)) if row_split else split,
            group=str(group) if group not in (None, "") else None,
            others={name: row.get(name) for name in columns.kept},
        )
