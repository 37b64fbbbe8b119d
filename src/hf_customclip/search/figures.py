"""An image of what was found. Importing this needs Matplotlib (the `plots` extra)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._plotting import Axes, Figure, save_figure, with_fonts
from ..data.images import UnreadableImageError, decode_image, to_rgb
from .encoder import Query
from .index import SearchResult

COLUMNS = 5


@with_fonts
def plot_results(query: Query, found: Sequence[SearchResult], path: Path) -> Path:
    """Write the query and the images found, the best first, as a PNG file; return its path.

    Where there is no file to show, the image's id stands.
    """
    words, image = query if isinstance(query, tuple) else (query, query)
    title = words if isinstance(words, str) else "Images like this"
    shown: list[tuple[Any, str]] = [] if isinstance(image, str) else [(image, "query")]
    shown += [(result.path or result.id, f"{result.score:.3f}  {Path(result.id).name}") for result in found]
    columns = min(COLUMNS, max(1, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(2 * columns, 0.6 + 2.2 * lines), layout="constrained")
    figure.suptitle(textwrap.shorten(title, 60, placeholder="…"), weight="bold", parse_math=False)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, (item, caption) in zip(grid, shown, strict=False):
        _draw(axes, item, caption)
    return save_figure(figure, path)


def _draw(axes: Axes, item: Any, caption: str) -> None:
    try:
        axes.imshow(to_rgb(decode_image(item)))
    except UnreadableImageError:
        axes.text(0.5, 0.5, str(item), ha="center", va="center", parse_math=False, wrap=True)
    axes.set_title(textwrap.shorten(caption, 26, placeholder="…"), fontsize=9, parse_math=False)
