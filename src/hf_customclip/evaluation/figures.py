"""Images of results with Matplotlib, as figures that need no display.

Each function returns a `matplotlib.figure.Figure`. Texts are drawn as they are: a `$` in one is no formula.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .._plotting import Axes, Figure, Rectangle, with_fonts

RIGHT, WRONG, NEUTRAL = "#1a9850", "#d5d5d5", "#444444"
COLOURS = ("#0b5394", "#d95f02", "#7570b3", "#1b9e77", "#e7298a", "#a6761d")
_SLANTED: dict[str, Any] = {
    "rotation": 45, "ha": "right", "rotation_mode": "anchor", "fontsize": 8, "parse_math": False
}  # fmt: skip
MAX_NUMBERED_CELLS = 20
MAX_NAMED_CLASSES = 40


@dataclass
class Hit:
    """One retrieved image (PIL or array) or text, its score, and whether it is a right one."""

    item: Any
    score: float
    right: bool


@dataclass
class Query:
    """A query image or text with what was retrieved for it, the best first, and the best right one's rank."""

    item: Any
    hits: list[Hit]
    rank: int


@with_fonts
def plot_text_to_image(queries: Sequence[Query], title: str = "Text to image") -> Figure:
    """A row for each text with the images found for it; right ones are framed in green."""
    columns = max(len(query.hits) for query in queries)
    figure = _figure(1.9 + 1.4 * columns, 0.6 + 1.55 * len(queries), title)
    grid = figure.subplots(
        len(queries), columns + 1, squeeze=False, gridspec_kw={"width_ratios": [1.35, *[1] * columns]}
    )
    for row, query in zip(grid, queries, strict=True):
        _write(row[0], query, width=19)
        for axes in row[1:]:
            axes.axis("off")
        for axes, hit in zip(row[1:], query.hits, strict=False):
            _show(axes, hit.item, RIGHT if hit.right else WRONG, f"{hit.score:.2f}")
    return figure


@with_fonts
def plot_image_to_text(queries: Sequence[Query], title: str = "Image to text") -> Figure:
    """A row for each image with the texts found for it; right ones are green and ticked."""
    lines = max(len(query.hits) for query in queries)
    figure = _figure(8.0, 0.6 + max(1.5, 0.32 * lines) * len(queries), title)
    grid = figure.subplots(len(queries), 2, squeeze=False, gridspec_kw={"width_ratios": [1, 4.2]})
    for (image, text), query in zip(grid, queries, strict=True):
        _show(image, query.item, caption=f"right one at {query.rank}")
        text.axis("off")
        for i, hit in enumerate(query.hits):
            line = f"{'✓' if hit.right else '   '} {hit.score:.2f}  {_short(hit.item, 72)}"
            text.text(
                0,
                1 - (i + 0.5) / lines,
                line,
                color=RIGHT if hit.right else NEUTRAL,
                weight="bold" if hit.right else "normal",
                va="center",
                fontsize=11,
                parse_math=False,
            )
    return figure


@with_fonts
def plot_similarity(
    similarity: Tensor | np.ndarray, images: Sequence[Any], texts: Sequence[str], title: str = "Similarity"
) -> Figure:
    """A heat map of `similarity` `[images, texts]` with the images beside it; pairs are on the diagonal."""
    values = np.round(np.asarray(similarity, dtype=float), 2) + 0.0  # no "-0.00"
    rows, columns = values.shape
    side = 0.62
    figure = _figure(3.2 + side * columns, 2.6 + side * rows, title)
    axes = figure.subplots()
    heat = axes.imshow(values, cmap="viridis")
    labels = [textwrap.fill(_short(text, 60), 32) for text in texts]
    axes.set_xticks(range(columns), labels, **_SLANTED)
    axes.set_yticks([])
    for i, image in enumerate(images):
        beside = axes.inset_axes((-1.75, i - 0.46, 1.1, 0.92), transform=axes.transData)
        _show(beside, image)
    for i in range(min(rows, columns)):
        axes.add_patch(_frame(i, i))
    _write_cells(axes, values, "{:.2f}")
    figure.colorbar(heat, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


@with_fonts
def plot_recall_curve(
    recalls: Mapping[str, Sequence[float]],
    chance: Mapping[str, Sequence[float]] | None = None,
    title: str = "Recall at K",
) -> Figure:
    """Recall at 1, 2, 3, … for every named direction, with the chance level dashed in the same colour."""
    figure = _figure(6.4, 4.2, title)
    axes = figure.subplots()
    for i, (name, values) in enumerate(recalls.items()):
        colour, above = COLOURS[i % len(COLOURS)], i % 2 == 0
        axes.plot(range(1, len(values) + 1), values, color=colour, label=name)
        for k in (1, 5, 10):
            if k <= len(values):
                axes.plot(k, values[k - 1], "o", color=colour, markersize=5)
                _annotate(axes, k, values[k - 1], colour, above)
        if chance is not None:
            expected = chance[name]
            axes.plot(range(1, len(expected) + 1), expected, "--", color=colour, label=f"{name}, by chance")
    axes.set_xscale("log")
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= max(map(len, recalls.values()))]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set(xlabel="K", ylabel="share of queries found in the top K", ylim=(0, 1.05))
    _light_grid(axes)
    axes.legend(fontsize=8, frameon=False)
    return figure


@with_fonts
def plot_training_curves(log_history: Sequence[Mapping[str, float]], title: str = "Training") -> Figure:
    """Losses and recalls over the steps, from `trainer.state.log_history`.

    Raises:
        ValueError: the history holds no loss.
    """
    if not any("loss" in entry for entry in log_history):
        raise ValueError(
            "The history holds no training loss; set logging_steps lower than the number of steps."
        )
    recalls = [f"eval_{way}_recall@{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)]
    shown = [name for name in recalls if any(name in entry for entry in log_history)]
    figure = _figure(11 if shown else 6, 4.0, title)
    panels = figure.subplots(1, 2 if shown else 1, squeeze=False)[0]
    for name, label, colour in (("loss", "training", COLOURS[0]), ("eval_loss", "validation", COLOURS[1])):
        _curve(panels[0], log_history, name, label, colour)
    panels[0].set(xlabel="step", ylabel="loss")
    for i, name in enumerate(shown):
        label = (
            name.removeprefix("eval_").replace("t2i_", "text to image, ").replace("i2t_", "image to text, ")
        )
        style = "-" if "t2i" in name else "--"
        _curve(panels[-1], log_history, name, label.replace("recall@", "R@"), COLOURS[i % 3], style)
    if shown:
        panels[1].set(xlabel="step", ylabel="recall on the validation split", ylim=(0, None))
    for axes in panels:
        _light_grid(axes)
        axes.legend(fontsize=8, frameon=False)
    return figure


@with_fonts
def plot_confusion_matrix(
    matrix: Tensor | np.ndarray, labels: Sequence[str], title: str = "Confusion matrix"
) -> Figure:
    """Counts `[classes, classes]` (rows right, columns predicted), coloured by the share of their row."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = float(np.clip(2.4 + 0.42 * len(labels), 4.5, 14)) if len(labels) <= MAX_NAMED_CLASSES else 7.0
    figure = _figure(size + 1.2, size, title)
    axes = figure.subplots()
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= MAX_NAMED_CLASSES:
        names = [_short(label, 24) for label in labels]
        axes.set_xticks(range(len(labels)), names, **_SLANTED)
        axes.set_yticks(range(len(labels)), names, fontsize=8, parse_math=False)
    _write_cells(axes, counts, "{:d}", shares)
    axes.set(xlabel="predicted", ylabel="right")
    figure.colorbar(heat, ax=axes, label="share of the class's images", shrink=0.8)
    return figure


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=13, weight="bold", parse_math=False)
    return figure


def _short(text: str, characters: int) -> str:
    return textwrap.shorten(text, characters, placeholder="…")


def _show(axes: Axes, image: Any, frame: str = WRONG, caption: str = "") -> None:
    axes.axis("on")
    axes.imshow(np.asarray(image), cmap="gray")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(caption, fontsize=9, color=frame if frame == RIGHT else NEUTRAL)
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=4 if frame == RIGHT else 1)


def _write(axes: Axes, query: Query, width: int) -> None:
    axes.axis("off")
    wrapped = textwrap.fill(_short(query.item, 5 * width), width)
    axes.text(0, 0.5, wrapped, va="center", fontsize=11, parse_math=False)
    axes.text(0, -0.04, f"right one at {query.rank}", va="top", fontsize=9, color=NEUTRAL)


def _write_cells(axes: Axes, values: np.ndarray, form: str, shares: np.ndarray | None = None) -> None:
    if max(values.shape) > MAX_NUMBERED_CELLS:
        return
    shades = values if shares is None else shares
    middle = (shades.max() + shades.min()) / 2
    for (i, j), value in np.ndenumerate(values):
        # viridis is light where values are high, Blues where they are low.
        dark = shades[i, j] < middle if shares is None else shades[i, j] > middle
        axes.text(
            j, i, form.format(value), ha="center", va="center", fontsize=8, color="white" if dark else "black"
        )


def _annotate(axes: Axes, x: float, y: float, colour: str, above: bool) -> None:
    axes.annotate(
        f"{y:.2f}",
        (x, y),
        xytext=(0, 6 if above else -13),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=colour,
    )


def _frame(x: int, y: int) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=2)


def _curve(
    axes: Axes, history: Sequence[Mapping[str, float]], name: str, label: str, colour: str, style: str = "-"
) -> None:
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    if points:
        marker = "o" if len(points) <= 30 else ""
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, marker=marker, markersize=3)


def _light_grid(axes: Axes) -> None:
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
