"""Reading text files that people made by hand or by script: odd encodings, stray quotes, long lines."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .folders import is_image_name
from .report import DataReport

Line = tuple[int, str]
HEAD_BYTES = 2**16
# A caption of more lines than this is a quote that was never closed.
MOST_LINES_A_CELL = 100


def read_lines(path: Path, report: DataReport) -> list[Line]:
    """The file's lines that are not blank, numbered from 1, without their line ends.

    Lines end at newlines only: U+2028, U+0085 and the like stay inside a caption, as str.splitlines would not
    have it. A line that is not UTF-8 is read as Windows-1252 and reported.
    """
    return _lines(path.read_bytes(), path.name, report)


def first_line(path: Path) -> str:
    """The first line that is not blank, read without the rest of the file; empty if there is none."""
    with path.open("rb") as file:
        lines = _lines(file.read(HEAD_BYTES), path.name, DataReport())
    return lines[0][1] if lines else ""


def _lines(data: bytes, name: str, report: DataReport) -> list[Line]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what Excel calls Unicode text
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8).replace(b"\0", b"").replace(b"\r\n", b"\n")
    end = b"\r" if b"\r" in data and b"\n" not in data else b"\n"
    try:
        lines = data.decode("utf-8").split(end.decode())
    except UnicodeDecodeError:
        lines = [
            _text(line, f"{name} line {number}", report) for number, line in enumerate(data.split(end), 1)
        ]
    return [(number, line) for number, line in enumerate(lines, 1) if line and not line.isspace()]


def _text(line: bytes, where: str, report: DataReport) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        report.add("not_utf8", where)
        return line.decode("cp1252", errors="replace")


def csv_rows(
    lines: list[Line], delimiter: str, width: int, path: Path, report: DataReport
) -> Iterator[tuple[int, list[str]]]:
    """Split CSV lines into cells, `width` of them if the file is sound.

    A quoted cell may span lines, but a quote that never closes swallows no other row.
    """
    position = 0
    with _long_cells():
        if _is_sound(lines, delimiter, width):  # one reader is several times quicker than one for each line
            yield from zip((number for number, _ in lines), _read_all(lines, delimiter), strict=True)
            return
        while position < len(lines):
            number, line = lines[position]
            cells, taken = _record(lines, position, delimiter, width)
            if cells is None:
                cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
                report.add("repaired_line", f"{path.name} line {number}")
            yield number, cells
            position += taken


def _is_sound(lines: list[Line], delimiter: str, width: int) -> bool:
    """Whether every line is a record of `width` cells by itself, as in any file that a program wrote."""
    records = 0
    try:
        for cells in _read_all(lines, delimiter):
            records += 1
            if len(cells) != width or any(cell.lstrip()[:1] == '"' for cell in cells):
                return False
    except csv.Error:
        return False
    return records == len(lines)


def _read_all(lines: list[Line], delimiter: str) -> Iterator[list[str]]:
    return csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)


def _record(lines: list[Line], position: int, delimiter: str, width: int) -> tuple[list[str] | None, int]:
    """The cells that start at a line and how many lines they take; None and 1 if a quote never closes."""
    text = ""
    for taken, (_, line) in enumerate(lines[position : position + MOST_LINES_A_CELL], 1):
        if taken > 1 and _is_a_row(line, delimiter):
            break
        text += line if taken == 1 else "\n" + line
        cells = _cells(text, delimiter, width)
        if cells is not None:
            return cells, taken
    return None, 1


def _cells(text: str, delimiter: str, width: int) -> list[str] | None:
    """The cells of one record, or None if a quoted cell is still open at its end."""
    if '"' not in text:
        return text.split(delimiter)
    try:
        cells = _parse(text, delimiter)
    except csv.Error as error:
        if "unexpected end" in str(error):
            return None
        lenient, literal = _parse(text, delimiter, strict=False), text.split(delimiter)
        return lenient if len(lenient) == width != len(literal) else literal
    if len(cells) == width and not any(cell.lstrip().startswith('"') for cell in cells):
        return cells
    with suppress(csv.Error):  # a.jpg, "one, two"
        spaced = _parse(text, delimiter, skipinitialspace=True)
        return spaced if len(spaced) == width else cells
    return cells


def _parse(text: str, delimiter: str, strict: bool = True, skipinitialspace: bool = False) -> list[str]:
    return next(csv.reader([text], delimiter=delimiter, strict=strict, skipinitialspace=skipinitialspace))


def _is_a_row(line: str, delimiter: str) -> bool:
    cells = line.split(delimiter)
    return len(cells) > 1 and any(is_image_name(cell.strip(' "')) for cell in cells)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters a cell, which is the whole process's, for a while."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
