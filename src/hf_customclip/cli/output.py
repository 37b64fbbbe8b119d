"""How commands print: a table for people, JSON or CSV for programs, and for people what to do next."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import typer


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


@dataclass(frozen=True)
class Output:
    """The options of every command that prints results, and the printing."""

    output_format: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False

    @property
    def format(self) -> Format:
        """The format of `--format`, or JSON where `--json` stands."""
        return Format.json if self.as_json else self.output_format

    def show(self, *, table: object, value: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print one of the three forms of a result: a text, a value as JSON, or rows with their names as CSV."""
        if self.format is Format.json:
            print(_json(value, indent=2))
        elif self.format is Format.csv:
            print(_csv(dict.fromkeys(name for row in rows for name in row), rows, header=True))
        else:
            print(table)

    def show_columns(self, columns: Sequence[str]) -> None:
        """The first line of the CSV whose rows `show_one` prints."""
        if self.format is Format.csv:
            print(_csv(columns, [], header=True))

    def show_one(
        self, columns: Sequence[str], *, table: str | None, value: Any, rows: Iterable[Mapping[str, Any]]
    ) -> None:
        """One result of many, above a progress bar: a text or nothing, JSON on one line, or rows of CSV."""
        from tqdm import tqdm

        if self.format is Format.json:
            tqdm.write(_json(value))
        elif self.format is Format.csv:
            tqdm.write(_csv(columns, rows))
        elif table is not None:
            tqdm.write(table)

    def say_next(self, *command: object) -> None:
        """What to type next, as `say_next`, after a table."""
        if self.format is Format.table:
            say_next(*command)


def say_next(*command: object) -> None:
    """What to type next, for people alone: nothing where the output goes into a file or another program."""
    if sys.stdout.isatty():
        print(f"next: {shlex.join(map(str, command))}")


def flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """A nested value as one row: names joined by dots, lists by blanks."""
    row: dict[str, Any] = {}
    for name, each in value.items():
        if isinstance(each, Mapping):
            row |= {f"{name}.{inner}": cell for inner, cell in flat(each).items()}
        else:
            row[name] = " ".join(map(str, each)) if isinstance(each, (list, tuple)) else each
    return row


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str)


def _csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")
