"""How commands print: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Annotated, Any

import typer


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


OutputFormat = Annotated[Format, typer.Option("--format", help="How to print.")]
AsJson = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


def chosen_format(output_format: Format, as_json: bool) -> Format:
    """The format of `--format`, or JSON where `--json` stands."""
    return Format.json if as_json else output_format


def show(output_format: Format, *, table: object, value: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one of the three forms of a result: a text, a value as JSON, or rows with their names as CSV."""
    if output_format is Format.json:
        print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
    elif output_format is Format.csv:
        print(csv_text(rows), end="")
    else:
        print(table)


def csv_text(rows: Sequence[Mapping[str, Any]], header: bool = True) -> str:
    """Rows as CSV, with a first line of all their names in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """A nested value as one row: names joined by dots, lists by blanks."""
    row: dict[str, Any] = {}
    for name, each in value.items():
        if isinstance(each, Mapping):
            row |= {f"{name}.{inner}": cell for inner, cell in flat(each).items()}
        else:
            row[name] = " ".join(map(str, each)) if isinstance(each, (list, tuple)) else each
    return row
