"""The `hf-customclip` command: its subcommands, and errors as sentences."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from . import (
    classify,
    data,
    demo,
    embed,
    evaluate,
    export,
    features,
    index,
    info,
    init,
    moderate,
    push,
    search,
    serve,
    towers,
    train,
)

app = typer.Typer(
    name="hf-customclip",
    help="Train, measure, publish and use custom CLIP models: any image tower, any text tower.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it takes the brackets of hf-customclip[demo] for markup
)
app.command("init", help=init.HELP)(init.init)
app.command("train", help=train.HELP)(train.train)
app.command("evaluate", help=evaluate.HELP)(evaluate.evaluate)
app.command("compare", help=evaluate.COMPARE_HELP)(evaluate.compare)
app.command("embed", help=embed.HELP)(embed.embed)
app.command("index", help=index.HELP)(index.index)
app.command("search", help=search.HELP)(search.search)
app.command("classify", help=classify.HELP)(classify.classify)
app.command("moderate", help=moderate.MODERATE_HELP)(moderate.moderate)
app.command("calibrate", help=moderate.CALIBRATE_HELP)(moderate.calibrate)
app.add_typer(data.app, name="data")
app.add_typer(features.app, name="features")
app.command("push", help=push.HELP)(push.push)
app.command("demo", help=demo.HELP)(demo.demo)
app.command("towers", help=towers.HELP)(towers.towers)
app.command("info", help=info.HELP)(info.info)
app.command("export", help=export.HELP)(export.export)
app.command("serve", help=serve.HELP)(serve.serve)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"hf-customclip {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can mend ends in one sentence and exit code 1."""
    if not sys.stderr.isatty():
        # Read by huggingface_hub, and through it by transformers, and by datasets, when they are imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="hf-customclip")
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("HF_CUSTOMCLIP_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
