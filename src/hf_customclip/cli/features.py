"""`hf-customclip features`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .data_options import DataOptions
from .options import Workers, takes_options
from .output import Output, flat

app = typer.Typer(help="The outputs of frozen towers: extracted into shards, listed, cleared.")

EXTRACT_HELP = """Run both frozen towers once over any number of pairs, into feature shards.

\b
    hf-customclip features extract 'cc3m/{00000..00331}.tar' features/ --config my.yaml
    hf-customclip features extract me/dataset s3://bucket/features --model outputs/sample
    torchrun --nproc_per_node 8 -m hf_customclip.cli features extract ...
    hf-customclip features extract ... --ray-actors 8

The source is read as a stream: WebDataset tars, Parquet, JSON lines, a folder, a Hub id. Run again after a kill,
it goes on with what is missing. Heads then train on the shards: training.feature_shards=features/.
"""

Folder = Annotated[Path | None, typer.Option("--dir", help="Where features lie; by default in the HF cache.")]


@app.command("extract", help=EXTRACT_HELP)
@takes_options
def extract(
    source: Annotated[str, typer.Argument(help="The data, as for training.")],
    out: Annotated[str, typer.Argument(help="A folder, or an address that fsspec knows (s3://, hf://).")],
    data_options: DataOptions,
    printed: Output,
    config: Annotated[Path | None, typer.Option(help="A training configuration, for its towers.")] = None,
    model: Annotated[str | None, typer.Option(help="Or a saved model, for its towers.")] = None,
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "train",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    unreadable: Annotated[str, typer.Option(help="skip or error: images that cannot be read.")] = "skip",
    workers: Workers = 0,
    process_index: Annotated[
        int | None,
        typer.Option(min=0, help="This process's number, where no launcher gives it (SLURM arrays)."),
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="And how many there are.")] = None,
    ray_actors: Annotated[
        int | None, typer.Option(min=1, help="By so many actors of a Ray cluster, --workers cores each.")
    ] = None,
) -> None:
    """Extract, and say what came of it."""
    _check_choice("--precision", precision, ("auto", "float32", "bfloat16"))
    _check_choice("--unreadable", unreadable, ("skip", "error"))
    if (config is None) == (model is None):
        raise ValueError("Name the towers: either --config FILE or --model FOLDER.")
    if (process_index is None) != (num_processes is None) or (process_index or 0) >= (num_processes or 1):
        raise ValueError("--process-index counts from 0 to one less than --num-processes; give both or none.")
    if ray_actors and num_processes:
        raise ValueError(
            "--ray-actors shares the work out by itself: leave out --process-index and --num-processes."
        )
    from ..features.ray_extraction import extract_features_with_ray
    from ..features.shard_extraction import extract_features
    from ..inference.encode import process_state

    # Nothing is drawn for validation unless asked for.
    fractions = {"validation_fraction": 0.0, "test_fraction": 0.0}
    dataset, _ = data_options.load(source, split, streaming=True, **fractions)
    network, processor = _towers(config, model)
    made = network, processor, dataset, out
    options: Any = {"precision": precision, "unreadable": unreadable, "num_workers": workers}
    done: dict[str, Any] | None
    if ray_actors:
        done = extract_features_with_ray(*made, actors=ray_actors, **options)
    else:
        if num_processes is None:
            network.to(process_state().device)
        done = extract_features(*made, process_index=process_index, num_processes=num_processes, **options)
    if done is None:
        typer.echo(f"This process's share is in {out}; others are still at theirs.")
        return
    left_out = f"; {done['unreadable']:,} images could not be read" if done["unreadable"] else ""
    counts = {
        **{name: done[name] for name in ("rows", "captions", "unreadable")},
        "shards": len(done["shards"]),
    }
    printed.show(
        table=f"{counts['rows']:,} images with {counts['captions']:,} captions in {counts['shards']} shards{left_out}: "
        f"{out}",
        value=counts,
        rows=[counts],
    )
    printed.say_next("hf-customclip", "train", "--config", config or "FILE", f"training.feature_shards={out}")


def _towers(config: Path | None, model: str | None) -> tuple[Any, Any]:
    if model is not None:
        from ..inference.load_model import load_model

        return load_model(model)
    from ..training.config import load_config
    from ..training.recipe import create_model
    from ..training.run import build_processor

    assert config is not None
    loaded = load_config(config)
    return create_model(**loaded.model), build_processor(loaded)


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{option} is one of {', '.join(allowed)}, not {value!r}.")


@app.command("list", help="Print what is stored, how big, for what.")
@takes_options
def list_(printed: Output, folder: Folder = None) -> None:
    """One line for each store."""
    from .._files import readable_size
    from ..features.cache import default_folder
    from ..features.inventory import list_stores

    folder = folder or default_folder()
    stores = list_stores(folder)
    lines = [str(store) for store in stores]
    lines.append(f"{len(stores)} in {folder}, {readable_size(sum(store.size for store in stores))}")
    rows = [asdict(store) for store in stores]
    printed.show(table="\n".join(lines), value=rows, rows=[flat(row) for row in rows])


@app.command("clear", help="Delete everything that is stored, or one store by how its key begins.")
@takes_options
def clear(
    printed: Output,
    key: Annotated[str | None, typer.Argument(help="As `list` prints it.")] = None,
    folder: Folder = None,
) -> None:
    """Delete and say what."""
    from .._files import readable_size
    from ..features.cache import default_folder
    from ..features.inventory import clear_stores

    gone = clear_stores(folder or default_folder(), key)
    rows = [asdict(store) for store in gone]
    table = f"deleted {len(gone)}, {readable_size(sum(store.size for store in gone))}"
    printed.show(table=table, value=rows, rows=[flat(row) for row in rows])
