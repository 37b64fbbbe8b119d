"""`hf-customclip classify`."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

import typer

from .options import BatchSize, Model

HELP = """Sort images among labels given as words; nothing is trained for it.

\b
    hf-customclip classify outputs/sample cat.jpg --labels "cat,dog,red car"
    hf-customclip classify outputs/sample pics/ --labels labels.txt --top-k 3
    hf-customclip classify outputs/sample pics/ --labels cat,dog \\
        --template "a photo of a {}." --template "a drawing of a {}."
    hf-customclip classify outputs/sample pics/ --labels cat,dog \\
        --format jsonl | jq -r .labels[0].label

Several templates are averaged. An image that cannot be read is named with
the reason, in the results and on standard error; the others are classified
all the same, and the exit code is then 1.
"""


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"


def classify(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Images, and folders of images.")],
    labels: Annotated[str, typer.Option(help="Labels with commas between them, or a file with one a line.")],
    template: Annotated[
        list[str] | None, typer.Option(help="A text with {} where the label goes; may be repeated.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels of each image to print.")] = 1,
    output_format: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    batch_size: BatchSize = 64,
) -> None:
    """Embed the labels once, the images in batches, and print each image's best labels."""
    from .images import find_images

    names, paths = read_labels(labels), find_images(images)
    # Seconds of imports, so only after what was asked has been found to make sense.
    from tqdm import tqdm

    from ..data.images import open_images
    from ..inference.encode import batched
    from ..inference.load_model import load_model
    from ..inference.zero_shot import DEFAULT_TEMPLATES, ZeroShotClassifier

    classifier = ZeroShotClassifier(*load_model(model), names, template or DEFAULT_TEMPLATES, batch_size)
    line = {Format.table: _table(paths, names), Format.jsonl: _json_line, Format.csv: _csv_lines}[
        output_format
    ]
    if output_format is Format.csv:
        print("path,rank,label,score,error")
    unreadable = 0
    with tqdm(total=len(paths), desc="classify", disable=None, leave=False) as bar:
        for batch in batched(paths, batch_size):
            opened, problems = open_images(batch)
            found = iter(classifier.predict(list(opened.values()), top_k))
            for place, path in enumerate(batch):
                problem = problems[place].reason if place in problems else None
                tqdm.write(line(path, [] if problem else next(found), problem))
            unreadable += len(problems)
            sys.stdout.flush()
            bar.update(len(batch))
    if unreadable:
        typer.echo(f"{unreadable} of {len(paths)} images could not be read.", err=True)
        raise typer.Exit(1)


def read_labels(labels: str) -> list[str]:
    """From a file with one label a line (UTF-8, empty lines ignored), or from text with commas.

    Raises:
        ValueError: no label, or a name that looks like a file that is not there.
    """
    if os.path.isfile(labels):
        with open(labels, encoding="utf-8-sig") as file:
            parts = file.read().splitlines()
    elif "," not in labels and labels.lower().endswith((".txt", ".csv", ".tsv")):
        raise FileNotFoundError(f"There is no file of labels {labels!r}.")
    else:
        parts = labels.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if not names:
        raise ValueError(
            f"No labels in {labels!r}: give them with commas between, or a file with one a line."
        )
    return names


Line = Callable[[str, list[dict[str, Any]], "str | None"], str]


def _table(paths: list[str], names: list[str]) -> Line:
    first, second = (min(60, max(map(len, texts))) for texts in (paths, names))

    def line(path: str, found: list[dict[str, Any]], problem: str | None) -> str:
        if problem:
            return f"{path:{first}}  unreadable: {problem}"
        return f"{path:{first}}  " + "  ".join(f"{x['label']:{second}} {x['score']:.3f}" for x in found)

    return line


def _json_line(path: str, found: list[dict[str, Any]], problem: str | None) -> str:
    row: dict[str, Any] = {"path": path, "error": problem} if problem else {"path": path, "labels": found}
    return json.dumps(row, ensure_ascii=False)


def _csv_lines(path: str, found: list[dict[str, Any]], problem: str | None) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    if problem:
        rows.writerow([path, "", "", "", problem])
    rows.writerows([path, rank, x["label"], x["score"], ""] for rank, x in enumerate(found, 1))
    return text.getvalue().rstrip("\n")
