"""An image of what was found. Importing this needs Matplotlib (the `plots` extra)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.images import decode_image, to_rgb
from ..plotting import plot_images, save_figure
from .encoder import Query
from .index import ImageIndex, SearchResult

COLUMNS = 5


def plot_results(index: ImageIndex, query: Query, found: Sequence[SearchResult], path: Path) -> Path:
    """Write the query and the images found, the best first, as a PNG file; return its path.

    Where there is no file to show, the image's id stands.
    """
    words, image = query if isinstance(query, tuple) else (query, query)
    title = words if isinstance(words, str) else "Images like this"
    shown: list[tuple[Any, str]] = []
    if not isinstance(image, str):
        shown.append((to_rgb(decode_image(image)), "query"))
    shown += [(index.image(each.id) or each.id, f"{each.score:.3f} {Path(each.id).name}") for each in found]
    images, captions = [item for item, _ in shown], [caption for _, caption in shown]
    title = textwrap.shorten(title, 60, placeholder="…")
    return save_figure(plot_images(images, captions, title, columns=COLUMNS, side=2.0), path)
