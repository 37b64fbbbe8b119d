"""Heat maps: the similarity of a batch, and what classes were taken for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from .style import Axes, Figure, new_figure, shortened, show_image, with_fonts

_SLANTED: dict[str, Any] = {
    "rotation": 45, "ha": "right", "rotation_mode": "anchor", "fontsize": 8, "parse_math": False
}  # fmt: skip
MAX_NUMBERED_CELLS = 20
MAX_NAMED_CLASSES = 40


@with_fonts
def plot_similarity(
    similarity: Any, images: Sequence[Any], texts: Sequence[str], title: str = "Similarity"
) -> Figure:
    """A heat map of `similarity` `[images, texts]` with the images beside it; pairs are on the diagonal."""
    values = np.round(np.asarray(similarity, dtype=float), 2) + 0.0  # no "-0.00"
    rows, columns = values.shape
    side = 0.62
    figure = new_figure(3.2 + side * columns, 2.6 + side * rows, title)
    axes = figure.subplots()
    heat = axes.imshow(values, cmap="viridis")
    labels = [textwrap.fill(shortened(text, 60), 32) for text in texts]
    axes.set_xticks(range(columns), labels, **_SLANTED)
    axes.set_yticks([])
    for i, image in enumerate(images):
        show_image(axes.inset_axes((-1.75, i - 0.46, 1.1, 0.92), transform=axes.transData), image)
    for i in range(min(rows, columns)):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=2))
    _write_cells(axes, values, "{:.2f}")
    figure.colorbar(heat, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


@with_fonts
def plot_confusion_matrix(matrix: Any, labels: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """Counts `[classes, classes]` (rows right, columns predicted), coloured by the share of their row."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = float(np.clip(2.4 + 0.42 * len(labels), 4.5, 14)) if len(labels) <= MAX_NAMED_CLASSES else 7.0
    figure = new_figure(size + 1.2, size, title)
    axes = figure.subplots()
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= MAX_NAMED_CLASSES:
        names = [shortened(label, 24) for label in labels]
        axes.set_xticks(range(len(labels)), names, **_SLANTED)
        axes.set_yticks(range(len(labels)), names, fontsize=8, parse_math=False)
    _write_cells(axes, counts, "{:d}", shares)
    axes.set(xlabel="predicted", ylabel="right")
    figure.colorbar(heat, ax=axes, label="share of the class's images", shrink=0.8)
    return figure


def _write_cells(axes: Axes, values: np.ndarray, form: str, shares: np.ndarray | None = None) -> None:
    if max(values.shape) > MAX_NUMBERED_CELLS:
        return
    shades = values if shares is None else shares
    middle = (shades.max() + shades.min()) / 2
    for (i, j), value in np.ndenumerate(values):
        # viridis is light where values are high, Blues where they are low.
        dark = shades[i, j] < middle if shares is None else shades[i, j] > middle
        colour = "white" if dark else "black"
        axes.text(j, i, form.format(value), ha="center", va="center", fontsize=8, color=colour)
