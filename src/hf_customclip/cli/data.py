"""`hf-customclip data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Look at data before training on them.", no_args_is_help=True)

INSPECT_HELP = """Say what a source holds: its form, counts, splits, caption lengths, problems.

\b
    hf-customclip data inspect flickr30k/ --plot page.png
    hf-customclip data inspect pictures.jsonl --tokenizer distilbert/distilbert-base-multilingual-cased
"""


@app.command("inspect", help=INSPECT_HELP)
def inspect(
    source: Annotated[str, typer.Argument(help="A folder, a file or a Hub id.")],
    plot: Annotated[Path | None, typer.Option(help="Draw a page of pictures with captions here.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Count tokens as this text tower does.")] = None,
    max_text_length: Annotated[int, typer.Option(help="Say how many captions are longer (tokens).")] = 32,
    verify: Annotated[bool, typer.Option(help="Open every picture, to find unreadable ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Print what was recognised."""
    from ..data import inspect_source, load_image_text_dataset, plot_grid

    report = inspect_source(
        source, tokenizer=_tokenizer(tokenizer), max_text_length=max_text_length, verify=verify
    )
    print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if as_json else report)
    if plot is not None:
        everything: Any = load_image_text_dataset(source, split="all")
        typer.echo(f"wrote {plot_grid(everything, plot)}", err=True)


def _tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)
