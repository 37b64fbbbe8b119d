"""`hf-customclip classify`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from .data_options import DataOptions
from .images import find_images
from .options import BatchSize, Model, takes_options
from .output import Output

HELP = """Sort images among labels given as words; nothing is trained for it.

\b
    hf-customclip classify outputs/sample cat.jpg --labels "cat,dog,red car"
    hf-customclip classify outputs/sample pics/ --labels labels.txt --top-k 3
    hf-customclip classify outputs/sample pics/ --labels cat,dog \\
        --template "a photo of a {}." --template "a drawing of a {}."
    hf-customclip classify outputs/sample pics/ --labels cat,dog \\
        --json | jq -r .labels[0].label

    hf-customclip classify outputs/shop products.csv --image-column photo \\
        --labels mugs,plates

Several templates are averaged. JSON has one image a line. An image that cannot be read is named with
the reason, in the results and on standard error; the others are classified
all the same, and the exit code is then 1.
"""

COLUMNS = ("path", "rank", "label", "score", "error")


@takes_options
def classify(
    model: Model,
    sources: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Images and folders of images, or one data set.")
    ],
    labels: Annotated[str, typer.Option(help="Labels with commas between them, or a file with one a line.")],
    data_options: DataOptions,
    printed: Output,
    template: Annotated[
        list[str] | None, typer.Option(help="A text with {} where the label goes; may be repeated.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels of each image to print.")] = 1,
    batch_size: BatchSize = 64,
) -> None:
    """Embed the labels once, the images in batches, and print each image's best labels."""
    names, images = read_labels(labels), find_images(sources, data_options)
    # Seconds of imports, so only after what was asked has been found to make sense.
    from tqdm import tqdm

    from ..data.images import open_images
    from ..inference.encode import batched
    from ..inference.load_model import load_model
    from ..inference.zero_shot import DEFAULT_TEMPLATES, ZeroShotClassifier

    classifier = ZeroShotClassifier(*load_model(model), names, template or DEFAULT_TEMPLATES, batch_size)
    printed.show_columns(COLUMNS)
    unreadable = 0
    with tqdm(total=len(images), desc="classify", disable=None, leave=False) as bar:
        for batch in batched(images, batch_size):
            opened, problems = open_images(image for _, image in batch)
            found = iter(classifier.predict(list(opened.values()), top_k))
            width = min(60, max(len(path) for path, _ in batch))
            for place, (path, _) in enumerate(batch):
                if place in problems:
                    _show_problem(printed, path, problems[place].reason, width)
                else:
                    _show_labels(printed, path, next(found), width)
            unreadable += len(problems)
            sys.stdout.flush()
            bar.update(len(batch))
    if unreadable:
        typer.echo(f"{unreadable} of {len(images)} images could not be read.", err=True)
        raise typer.Exit(1)
    printed.say_next("hf-customclip", "evaluate", model, "FOLDER-OF-CLASSES", "--label-column", "label")


def _show_labels(printed: Output, path: str, found: list[dict[str, Any]], width: int) -> None:
    printed.show_one(
        COLUMNS,
        table=f"{path:{width}}  " + "  ".join(f"{each['label']} {each['score']:.3f}" for each in found),
        value={"path": path, "labels": found},
        rows=[{"path": path, "rank": rank, **each} for rank, each in enumerate(found, 1)],
    )


def _show_problem(printed: Output, path: str, reason: str, width: int) -> None:
    row = {"path": path, "error": reason}
    printed.show_one(COLUMNS, table=f"{path:{width}}  unreadable: {reason}", value=row, rows=[row])


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
