"""`hf-customclip embed`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .data_options import DataOptions
from .images import Images, IsDataset, folder_or_dataset
from .options import BatchSize, Dim, Model, Split, Workers, takes_options
from .output import Output, flat

HELP = """Turn images into vectors, as a Parquet file, which every vector database imports.

\b
    hf-customclip embed outputs/sample pics/ vectors.parquet
    hf-customclip embed outputs/sample flickr30k/ vectors.parquet --dataset --split test
    hf-customclip embed outputs/shop products.csv vectors.parquet --caption-column title

Run it again, and only what is new or has changed is embedded; what is gone is
dropped. A run that was stopped is taken up where it was. On several processes:

\b
    accelerate launch -m hf_customclip.cli embed outputs/sample pics/ out.parquet
    torchrun --nproc_per_node 2 -m hf_customclip.cli embed ...   # on CPUs

An image that cannot be read is named with the reason, and the exit code is then 1.
"""


@takes_options
def embed(
    model: Model,
    source: Images,
    output: Annotated[Path, typer.Argument(help="A .parquet file.")],
    data_options: DataOptions,
    printed: Output,
    dataset: IsDataset = False,
    split: Split = "all",
    dim: Dim = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
) -> None:
    """Embed what the file lacks, and write."""
    if output.suffix != ".parquet":
        raise ValueError(f"{str(output)!r} is no .parquet file.")
    images = folder_or_dataset(source, dataset, split, data_options)
    from ..inference.load_model import load_model
    from ..search import embed_to_parquet

    loaded = load_model(model, dim)
    changes = embed_to_parquet(*loaded, images, output, batch_size=batch_size, num_workers=workers)
    report(changes, printed, "hf-customclip", "index", model, source, "INDEX")


def report(changes: Any, printed: Output, *next_command: str) -> None:
    """Say what was done; exit with 1 where images could not be read."""
    from ..inference.encode import process_state

    if process_state().is_main_process:
        values = asdict(changes)
        printed.show(table=changes, value=values, rows=[flat(values)])
        if printed.as_json and changes.unreadable:
            typer.echo(f"Images that could not be read: {len(changes.unreadable)}.", err=True)
        printed.say_next(*next_command)
    # On several processes an exit code other than 0 would end them all as failed.
    if changes.unreadable and process_state().num_processes == 1:
        raise typer.Exit(1)
