"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="A saved folder or a Hub id.")]
Images = Annotated[str, typer.Argument(help="A folder of images; with --dataset, any data set.")]
IsDataset = Annotated[
    bool,
    typer.Option(
        "--dataset", help="IMAGES is a data set; captions and other simple columns become metadata."
    ),
]
Split = Annotated[str, typer.Option(help="Which split of the data set.")]
Dim = Annotated[
    int | None,
    typer.Option(min=1, help="Cut embeddings to so many first numbers (best if trained for it)."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that go through the model at a time.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read images beside this one.")]
ChangesAsJson = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def can_draw(file: Path | None) -> Path | None:
    """For options that ask for an image: says before the work, not after it, that Matplotlib is missing."""
    if file is not None:
        from .. import plotting  # noqa: F401
    return file
