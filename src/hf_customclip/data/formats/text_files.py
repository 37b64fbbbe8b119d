"""Reading text files that people made by hand or by script: odd encodings, stray quotes, long lines."""

from __future__ import annotations

import codecs
import csv
import gzip
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ..folders import is_image_name
from ..report import Case

Line = tuple[int, str]
HEAD_BYTES = 2**16
# A caption of more lines than this is a quote that was never closed.
MOST_LINES_A_CELL = 100


class Lines(NamedTuple):
    """A text file's lines, numbered from 1, without their line ends; and what was odd."""

    lines: list[Line]
    cases: list[Case]


def read_lines(path: Path, *, keep_blank: bool = False) -> Lines:
    """Read a text file, which may be packed with gzip, without its blank lines unless they count.

    Lines end at newlines only: U+2028, U+0085 and the like stay inside a caption, as str.splitlines would not
    have it. A line that is not UTF-8 is read as Windows-1252, and a case.
    """
    data = path.read_bytes()
    lines, cases = _lines(gzip.decompress(data) if path.suffix == ".gz" else data, path.name)
    return Lines(lines if keep_blank else _not_blank(lines), cases)


def _not_blank(lines: list[Line]) -> list[Line]:
    return [(number, line) for number, line in lines if line and not line.isspace()]


def first_line(path: Path) -> str:
    """The first line that is not blank, read without the rest of the file; empty if there is none."""
    with path.open("rb") as file:
        lines = _not_blank(_lines(file.read(HEAD_BYTES), path.name).lines)
    return lines[0][1] if lines else ""


def _lines(data: bytes, name: str) -> Lines:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what Excel calls Unicode text
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8).replace(b"\0", b"").replace(b"\r\n", b"\n")
    end = b"\r" if b"\r" in data and b"\n" not in data else b"\n"
    cases = []
    try:
        lines = data.decode("utf-8").split(end.decode())
    except UnicodeDecodeError:
        lines = []
        for number, line in enumerate(data.split(end), 1):
            text = _utf8(line)
            lines.append(line.decode("cp1252", errors="replace") if text is None else text)
            cases += [Case("not_utf8", f"{name} line {number}")] if text is None else []
    return Lines(list(enumerate(lines[:-1] if lines[-1] == "" else lines, 1)), cases)


def _utf8(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def csv_rows(
    lines: list[Line], delimiter: str, width: int, name: str
) -> Iterator[tuple[int, list[str]] | Case]:
    """Split CSV lines into cells, `width` of them if the file (its `name` for cases) is sound.

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
                yield Case("repaired_line", f"{name} line {number}")
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
