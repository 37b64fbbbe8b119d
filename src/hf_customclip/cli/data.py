"""`hf-customclip data`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .data_options import DataOptions, as_flags
from .options import can_draw, takes_options
from .output import Output

app = typer.Typer(help="Look at data before training on them.", no_args_is_help=True)

INSPECT_HELP = """Say what a source holds: its form, counts, splits, caption lengths, problems.

\b
    hf-customclip data inspect flickr30k/ --plot page.png
    hf-customclip data inspect images.jsonl --tokenizer distilbert/distilbert-base-multilingual-cased
    hf-customclip data inspect table.csv --images photos/ --caption-column title --caption-column alt
"""


@app.command("inspect", help=INSPECT_HELP)
@takes_options
def inspect(
    source: Annotated[str, typer.Argument(help="A folder, a file or a Hub id.")],
    data_options: DataOptions,
    printed: Output,
    plot: Annotated[
        Path | None, typer.Option(callback=can_draw, help="Draw images with captions, into this PNG file.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Count tokens as this text tower does.")] = None,
    max_text_length: Annotated[int, typer.Option(help="Say how many captions are longer (tokens).")] = 32,
    verify: Annotated[
        bool, typer.Option("--verify", help="Open every image, to find unreadable ones.")
    ] = False,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="Open every image, to find alike ones in other splits.")
    ] = False,
) -> None:
    """Print what was recognised."""
    from ..data import inspect_captions, plot_grid

    splits, report = data_options.load(source, None, verify=verify)
    inspect_captions(
        splits,
        report,
        tokenizer=_tokenizer(tokenizer),
        max_text_length=max_text_length,
        near_duplicates=near_duplicates,
    )
    rows = [{"split": name, **asdict(counts)} for name, counts in report.splits.items()]
    printed.show(table=report, value=report.to_dict(), rows=rows)
    if plot is not None:
        typer.echo(f"wrote {plot_grid(next(iter(splits.values())), plot)}", err=True)
    printed.say_next("hf-customclip", "init", source, *as_flags(data_options.given()))


def _tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)
