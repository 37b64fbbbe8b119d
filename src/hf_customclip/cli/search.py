"""`hf-customclip search`."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import can_draw, takes_options
from .output import Output, flat

HELP = """Find images in an index by words, by an image, or by both.

\b
    hf-customclip search my-index "a red car"
    hf-customclip search my-index --image bag.jpg -k 20
    hf-customclip search my-index "the same in blue" --image bag.jpg
    hf-customclip search my-index "a red car" --filter "year>=2020" --filter brand=a,b
    hf-customclip search my-index "a red car" --json | jq -r '.[].path'
    hf-customclip search my-index "a red car" --plot found.png
"""

CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*")


@takes_options
def search(
    directory: Annotated[str, typer.Argument(help="What `hf-customclip index` made.")],
    printed: Output,
    words: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="What to look for, as an image.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images.")] = 10,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", help="column=value, =a,b for any of them, !=, <, <=, >, >=; all have to hold."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where the index's model is, if it has moved.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every image of a large index.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(callback=can_draw, help="Draw what was found, into this PNG file.")
    ] = None,
) -> None:
    """Load the index, embed the query, print."""
    if words is None and image is None:
        raise ValueError("Say what to look for: words, --image FILE, or both.")
    from ..search.table import check_index

    # Seconds of imports only where there is an index and a query.
    check_index(directory)
    query: Any = words if image is None else _opened(image) if words is None else (words, _opened(image))
    from ..inference.load_model import load_model
    from ..search import ImageIndex

    index = ImageIndex.load(directory, *(load_model(model) if model else ()))
    found = index.search(query, k, filter=sql_of(conditions, index.schema), exact=exact)
    rows = [asdict(result) for result in found]
    printed.show(
        table="\n".join(f"{result.score:.3f}  {result.path or result.id}" for result in found),
        value=rows,
        rows=[flat(row) for row in rows],
    )
    if plot is not None:
        from ..search.figures import plot_results

        typer.echo(f"wrote {plot_results(index, query, found, plot)}", err=True)
    printed.say_next("hf-customclip", "demo", model or "MODEL", "--index", directory)


def _opened(file: Path) -> Any:
    from ..data.images import open_images

    images, unreadable = open_images([file])
    if unreadable:
        raise ValueError(f"{file} cannot be read: {unreadable[0].reason}.")
    return images[0]


def sql_of(conditions: list[str] | None, schema: Any) -> str | None:
    """Conditions as SQL, their values in the columns' types; None for none.

    Raises:
        ValueError: a condition cannot be understood, names no column, or has a value of another type.
    """
    import pyarrow as pa

    from ..search.filters import check_column, sql_condition

    parts = []
    for condition in conditions or []:
        match = CONDITION.fullmatch(condition)
        if match is None:
            raise ValueError(f"{condition!r} is no condition: write column=value, or !=, <, <=, >, >=.")
        column, sign, text = match.groups()
        check_column(column, schema)
        kind = schema.field(column).type
        texts = text.split(",") if sign in ("=", "!=") else [text]
        try:
            values = pa.array(texts).cast(kind).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise ValueError(f"The column {column!r} holds {kind}, and {text!r} is none.") from None
        parts.append(sql_condition(column, sign, values))
    return " AND ".join(parts) or None
