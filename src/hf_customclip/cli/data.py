"""`hf-customclip data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import can_draw

app = typer.Typer(help="Look at data before training on them.", no_args_is_help=True)

INSPECT_HELP = """Say what a source holds: its form, counts, splits, caption lengths, problems.

\b
    hf-customclip data inspect flickr30k/ --plot page.png
    hf-customclip data inspect images.jsonl --tokenizer distilbert/distilbert-base-multilingual-cased
    hf-customclip data inspect table.csv --images photos/ --caption-column title --caption-column alt
"""


@app.command("inspect", help=INSPECT_HELP)
def inspect(
    source: Annotated[str, typer.Argument(help="A folder, a file or a Hub id.")],
    plot: Annotated[
        Path | None, typer.Option(callback=can_draw, help="Draw images with captions, into this PNG file.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Count tokens as this text tower does.")] = None,
    max_text_length: Annotated[int, typer.Option(help="Say how many captions are longer (tokens).")] = 32,
    verify: Annotated[
        bool, typer.Option("--verify", help="Open every image, to find unreadable ones.")
    ] = False,
    images: Annotated[Path | None, typer.Option(help="Where the images lie, if elsewhere.")] = None,
    captions_file: Annotated[Path | None, typer.Option(help="Which file holds the captions.")] = None,
    karpathy_file: Annotated[Path | None, typer.Option(help="A Karpathy JSON that gives the splits.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The images' column.")] = None,
    caption_column: Annotated[
        list[str] | None, typer.Option(help="The captions' column; may be given several times.")
    ] = None,
    image_id_column: Annotated[str | None, typer.Option(help="The column that tells images apart.")] = None,
    name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub data set.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Print what was recognised."""
    from ..data import inspect_captions, load_with_report, plot_grid

    splits: Any
    splits, report = load_with_report(
        source,
        images=images,
        captions_file=captions_file,
        karpathy_file=karpathy_file,
        image_column=image_column,
        caption_column=caption_column,
        image_id_column=image_id_column,
        name=name,
        revision=revision,
        verify=verify,
    )
    inspect_captions(splits, report, tokenizer=_tokenizer(tokenizer), max_text_length=max_text_length)
    print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if as_json else report)
    if plot is not None:
        typer.echo(f"wrote {plot_grid(next(iter(splits.values())), plot)}", err=True)


def _tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)
