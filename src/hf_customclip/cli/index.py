"""`hf-customclip index`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .embed import IsDataset, images_of, report

HELP = """Index pictures for `hf-customclip search`.

\b
    hf-customclip index outputs/sample pics/ my-index
    hf-customclip search my-index "a red car"

Run it again, and only what is new or has changed is embedded; what is gone is
dropped. A run that was stopped is taken up where it was. On several processes:

\b
    accelerate launch -m hf_customclip.cli index outputs/sample pics/ my-index
    torchrun --nproc_per_node 2 -m hf_customclip.cli index ...   # on CPUs

A picture that cannot be read is named with the reason, and the exit code is then 1.
"""


def index(
    model: Annotated[str, typer.Argument(help="A saved folder or a Hub id.")],
    images: Annotated[str, typer.Argument(help="A folder of pictures; with --dataset, any data set.")],
    directory: Annotated[Path, typer.Argument(help="Where the index is kept.")],
    dataset: IsDataset = False,
    split: Annotated[str, typer.Option(help="Which split of the data set.")] = "all",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures embedded at a time.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures beside this one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Make an index, or bring one up to date."""
    from ..loading import load_model
    from ..search import ImageIndex

    source = images_of(images, dataset, split)
    made = ImageIndex.build(
        *load_model(model), source, directory=directory, batch_size=batch_size, num_workers=workers
    )
    report(made.changes, as_json)
