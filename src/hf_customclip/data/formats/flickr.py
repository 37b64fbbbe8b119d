"""Flickr8k and Flickr30k as plain text: Kaggle's bars, the original .token files, split lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..languages import Caption
from ..part import Entry
from ..report import Case
from ..splits import SplitList, split_in_path
from .tables import broken_line
from .text_files import read_lines

TOKEN_LINE = re.compile(r"(?P<name>[^\t]+?)#\d+\t(?P<caption>.*)")
BAR_HEADER = re.compile(r"\s*image(?:_name)?\s*\|.*\bcomment\s*", re.IGNORECASE)
# Data row 19999 of Kaggle's results.csv lacks a bar: "2199200615.jpg| 4   A dog runs across the grass ."
NUMBER_AND_CAPTION = re.compile(r"\s*\d+\s+(?P<caption>\S.*)")
SPLIT_LIST = re.compile(r"Flickr_?\d+k\.\w+Images\.txt")


def is_token_file(first_line: str) -> bool:
    """`1000092795.jpg#0<TAB>caption`: the files as the authors gave them."""
    return TOKEN_LINE.fullmatch(first_line) is not None


def read_token_file(path: Path) -> Iterator[Entry | Case]:
    """One caption a line, the image's name and the caption's number before it."""
    lines, cases = read_lines(path)
    yield from cases
    for number, line in lines:
        match = TOKEN_LINE.fullmatch(line)
        if match:
            yield Entry(match["name"].strip(), [Caption(match["caption"])], path.parent)
        else:
            yield broken_line(f"{path.name} line {number}")


def is_bar_file(first_line: str) -> bool:
    """`image_name| comment_number| comment`: Kaggle's results.csv."""
    return BAR_HEADER.fullmatch(first_line) is not None


def read_bar_file(path: Path) -> Iterator[Entry | Case]:
    """One caption a line after the header, cells between bars; quotes are only text here."""
    (header, *lines), cases = read_lines(path)
    yield from cases
    width = header[1].count("|") + 1
    for number, line in lines:
        where = f"{path.name} line {number}"
        name, *cells = line.split("|", width - 1)
        if len(cells) == width - 1 and name.strip():
            yield Entry(name.strip(), [Caption(cells[-1])], path.parent)
        elif len(cells) < width - 1 and cells and (match := NUMBER_AND_CAPTION.fullmatch(cells[-1])):
            yield Case("repaired_line", where)
            yield Entry(name.strip(), [Caption(match["caption"])], path.parent)
        else:
            yield broken_line(where)


def read_split_lists(files: list[Path]) -> SplitList | None:
    """`Flickr_8k.trainImages.txt` and its like, one image name a line, if they are among `files`."""
    lists = sorted(path for path in files if SPLIT_LIST.fullmatch(path.name))
    split_of = {
        line.strip(): split
        for path in lists
        if (split := split_in_path(path, path.parent))
        for _, line in read_lines(path).lines
    }
    return SplitList(f"as in {', '.join(path.name for path in lists)}", split_of) if split_of else None
