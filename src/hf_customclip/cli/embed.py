"""`hf-customclip embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import BatchSize, ChangesAsJson, Dim, Images, IsDataset, Model, Split, Workers

HELP = """Turn images into vectors, as a Parquet file, which every vector database imports.

\b
    hf-customclip embed outputs/sample pics/ vectors.parquet
    hf-customclip embed outputs/sample flickr30k/ vectors.parquet --dataset --split test

Run it again, and only what is new or has changed is embedded; what is gone is
dropped. A run that was stopped is taken up where it was. On several processes:

\b
    accelerate launch -m hf_customclip.cli embed outputs/sample pics/ out.parquet
    torchrun --nproc_per_node 2 -m hf_customclip.cli embed ...   # on CPUs

An image that cannot be read is named with the reason, and the exit code is then 1.
"""


def embed(
    model: Model,
    images: Images,
    output: Annotated[Path, typer.Argument(help="A .parquet file.")],
    dataset: IsDataset = False,
    split: Split = "all",
    dim: Dim = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    as_json: ChangesAsJson = False,
) -> None:
    """Embed what the file lacks, and write."""
    if output.suffix != ".parquet":
        raise ValueError(f"{str(output)!r} is no .parquet file.")
    from ..inference.load_model import load_model
    from ..search import embed_to_parquet

    source = images_of(images, dataset, split)
    loaded = load_model(model, dim)
    changes = embed_to_parquet(*loaded, source, output, batch_size=batch_size, num_workers=workers)
    report(changes, as_json)


def images_of(images: str, dataset: bool, split: str) -> Any:
    """What a command was asked to read: a folder, or a data set."""
    if not dataset:
        return images
    from ..data import load_image_text_dataset

    loaded = load_image_text_dataset(images, split=split, keep_columns=True)
    taken = {"id", "path", "state", "thumbnail", "vector"}.intersection(
        loaded.column_names or []
    )  # an index has its own
    return loaded.remove_columns(list(taken))


def report(changes: Any, as_json: bool) -> None:
    """Say what was done; exit with 1 where images could not be read."""
    import json
    from dataclasses import asdict

    from ..inference.encode import process_state

    if process_state().is_main_process:
        print(json.dumps(asdict(changes), indent=2, ensure_ascii=False) if as_json else changes)
        if as_json and changes.unreadable:
            typer.echo(f"Images that could not be read: {len(changes.unreadable)}.", err=True)
    # On several processes an exit code other than 0 would end them all as failed.
    if changes.unreadable and process_state().num_processes == 1:
        raise typer.Exit(1)
