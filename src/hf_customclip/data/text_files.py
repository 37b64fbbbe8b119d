"""Reading text files that people made by hand or by script: odd encodings, stray quotes, long lines."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .pictures import is_picture_name
from .report import DataReport

Line = tuple[int, str]
# A caption of more lines than this is a quote that was never closed.
MOST_LINES_A_CELL = 100


def read_lines(path: Path, report: DataReport) -> list[Line]:
    """The file's lines that are not blank, numbered from 1, without their line ends.

    Lines end at newlines only: U+2028, U+0085 and the like stay inside a caption, as str.splitlines would not
    have it. A line that is not UTF-8 is read as Windows-1252 and reported.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what Excel calls Unicode text
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    end = b"\r" if b"\r" in data and b"\n" not in data else b"\n"
    lines = ((number, _text(line, number, path, report)) for number, line in enumerate(data.split(end), 1))
    return [(number, line) for number, line in lines if line.strip()]


def _text(line: bytes, number: int, path: Path, report: DataReport) -> str:
    line = line.rstrip(b"\r").replace(b"\0", b"")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        report.add("not_utf8", f"{path.name} line {number}")
        return line.decode("cp1252", errors="replace")


def csv_rows(
    lines: list[Line], delimiter: str, path: Path, report: DataReport
) -> Iterator[tuple[int, list[str]]]:
    """Split CSV lines into cells; a quoted cell may span lines, but an open quote swallows no other row."""
    position = 0
    with _long_cells():
        while position < len(lines):
            number, line = lines[position]
            cells, taken = _record(lines, position, delimiter)
            if cells is None:
                cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
                report.add("repaired_line", f"{path.name} line {number}")
            yield number, cells
            position += taken


def _record(lines: list[Line], position: int, delimiter: str) -> tuple[list[str] | None, int]:
    """The cells that start at a line and how many lines they take; None and 1 if a quote never closes."""
    text = ""
    for taken, (_, line) in enumerate(lines[position : position + MOST_LINES_A_CELL], 1):
        if taken > 1 and _is_a_row(line, delimiter):
            break
        text += line if taken == 1 else "\n" + line
        cells = _parse(text, delimiter)
        if cells is not None:
            return cells, taken
    return None, 1


def _parse(text: str, delimiter: str) -> list[str] | None:
    """The cells of one record, or None if a quoted cell is still open at its end."""
    if '"' not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            return None
        return next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))


def _is_a_row(line: str, delimiter: str) -> bool:
    cells = line.split(delimiter)
    return len(cells) > 1 and any(is_picture_name(cell.strip(' "')) for cell in cells)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters a cell, which is the whole process's, for a while."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
