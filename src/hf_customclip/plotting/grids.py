"""Images and texts side by side: what was found for a query, or what a data set holds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .style import NEUTRAL, RIGHT, WRONG, Axes, Figure, new_figure, shortened, show_image, with_fonts


@dataclass
class Hit:
    """One retrieved image (PIL or array) or text, its score, and whether it is a right one."""

    item: Any
    score: float
    right: bool


@dataclass
class QueryHits:
    """A query image or text with what was retrieved for it, the best first, and the best right one's rank."""

    item: Any
    hits: list[Hit]
    rank: int


@with_fonts
def plot_text_to_image(queries: Sequence[QueryHits], title: str = "Text to image") -> Figure:
    """A row for each text with the images found for it; right ones are framed in green."""
    columns = max(len(query.hits) for query in queries)
    figure = new_figure(1.9 + 1.4 * columns, 0.6 + 1.55 * len(queries), title)
    grid = figure.subplots(
        len(queries), columns + 1, squeeze=False, gridspec_kw={"width_ratios": [1.35, *[1] * columns]}
    )
    for row, query in zip(grid, queries, strict=True):
        _write(row[0], query, width=19)
        for axes in row[1:]:
            axes.axis("off")
        for axes, hit in zip(row[1:], query.hits, strict=False):
            show_image(axes, hit.item, RIGHT if hit.right else WRONG, f"{hit.score:.2f}")
    return figure


@with_fonts
def plot_image_to_text(queries: Sequence[QueryHits], title: str = "Image to text") -> Figure:
    """A row for each image with the texts found for it; right ones are green and ticked."""
    lines = max(len(query.hits) for query in queries)
    figure = new_figure(8.0, 0.6 + max(1.5, 0.32 * lines) * len(queries), title)
    grid = figure.subplots(len(queries), 2, squeeze=False, gridspec_kw={"width_ratios": [1, 4.2]})
    for (image, text), query in zip(grid, queries, strict=True):
        show_image(image, query.item, caption=f"right one at {query.rank}")
        text.axis("off")
        for i, hit in enumerate(query.hits):
            line = f"{'✓' if hit.right else '   '} {hit.score:.2f}  {shortened(hit.item, 72)}"
            look: dict[str, Any] = {"color": RIGHT, "weight": "bold"} if hit.right else {"color": NEUTRAL}
            text.text(0, 1 - (i + 0.5) / lines, line, va="center", fontsize=11, parse_math=False, **look)
    return figure


@with_fonts
def plot_images(
    images: Sequence[Any], captions: Sequence[str], title: str = "", columns: int = 4, side: float = 2.6
) -> Figure:
    """Images in rows with a text of up to four lines below each; what is a text instead of an image is written.

    Args:
        images: PIL images or arrays; or a text, such as the reason why an image cannot be read.
        columns: images in a row.
        side: inches for each image.
    """
    columns = max(1, min(columns, len(images)))
    lines = max(1, -(-len(images) // columns))
    figure = new_figure(side * columns, (side + 0.5) * lines + 0.4, title)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, caption in zip(grid, images, captions, strict=False):
        below = "\n".join(textwrap.wrap(caption, round(12 * side), max_lines=4, placeholder=" …"))
        if isinstance(image, str):
            message = textwrap.fill(image, round(9 * side))
            axes.text(0.5, 0.5, message, ha="center", va="center", color=NEUTRAL, parse_math=False)
            axes.text(0.5, 0, below, ha="center", va="top", fontsize=9, color=NEUTRAL, parse_math=False)
        else:
            show_image(axes, image, caption=below)
    return figure


def _write(axes: Axes, query: QueryHits, width: int) -> None:
    axes.axis("off")
    wrapped = textwrap.fill(shortened(query.item, 5 * width), width)
    axes.text(0, 0.5, wrapped, va="center", fontsize=11, parse_math=False)
    axes.text(0, -0.04, f"right one at {query.rank}", va="top", fontsize=9, color=NEUTRAL)
