"""`hf-customclip features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The cached outputs of frozen towers: what is stored, and how to be rid of it.")

Folder = Annotated[Path | None, typer.Option("--dir", help="Where features lie; by default in the HF cache.")]


@app.command("list", help="Print what is stored, how big, for what.")
def list_(folder: Folder = None) -> None:
    """One line for each store."""
    from .._files import readable_size
    from ..features.cache import default_folder
    from ..features.inventory import list_stores

    folder = folder or default_folder()
    stores = list_stores(folder)
    for store in stores:
        about = ", ".join(f"{name} {value}" for name, value in store.about.items())
        state = "" if store.complete else " (unfinished)"
        typer.echo(
            f"{store.key[:8]}  {store.tower:5}  {store.count:>9,} x {store.width:<4}  {store.dtype:4}  "
            f"{readable_size(store.size):>9}  {about}{state}"
        )
    typer.echo(f"{len(stores)} in {folder}, {readable_size(sum(store.size for store in stores))}")


@app.command("clear", help="Delete everything that is stored, or one store by how its key begins.")
def clear(
    key: Annotated[str | None, typer.Argument(help="As `list` prints it.")] = None, folder: Folder = None
) -> None:
    """Delete and say what."""
    from .._files import readable_size
    from ..features.cache import default_folder
    from ..features.inventory import clear_stores

    gone = clear_stores(folder or default_folder(), key)
    typer.echo(f"deleted {len(gone)}, {readable_size(sum(store.size for store in gone))}")
