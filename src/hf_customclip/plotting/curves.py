"""Curves: recall by K, a training's progress, precision against recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .style import COLOURS, NEUTRAL, Axes, Figure, light_grid, new_figure, with_fonts

LOW = 0.08  # a recall below which the axis's own numbers are


@with_fonts
def plot_recall_curve(
    recalls: Mapping[str, Sequence[float]],
    chance: Mapping[str, Sequence[float]] | None = None,
    title: str = "Recall at K",
) -> Figure:
    """Recall at 1, 2, 3, … for every named direction, with the chance level dashed in the same colour."""
    figure = new_figure(6.4, 4.2, title)
    axes = figure.subplots()
    for (name, values), colour in zip(recalls.items(), COLOURS, strict=False):
        axes.plot(range(1, len(values) + 1), values, color=colour, label=name)
        if chance is not None:
            expected = chance[name]
            axes.plot(range(1, len(expected) + 1), expected, "--", color=colour, label=f"{name}, by chance")
    for k in (1, 5, 10):
        _mark_recalls(axes, k, recalls)
    axes.set_xscale("log")
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= max(map(len, recalls.values()))]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set(xlabel="K", ylabel="share of queries found in the top K", ylim=(0, 1.05))
    light_grid(axes)
    return figure


def _mark_recalls(axes: Axes, k: int, recalls: Mapping[str, Sequence[float]]) -> None:
    """A dot and its number on every curve at K, the highest one's above it, the others' below or, where the axis is
    there, beside."""
    there = [
        (values[k - 1], colour)
        for values, colour in zip(recalls.values(), COLOURS, strict=False)
        if k <= len(values)
    ]
    for place, (value, colour) in enumerate(sorted(there, reverse=True)):
        axes.plot(k, value, "o", color=colour, markersize=5, clip_on=False)
        beside = place > 0 and value < LOW
        axes.annotate(
            f"{value:.2f}",
            (k, value),
            xytext=(8, 2) if beside else (0, 6 if place == 0 else -13),
            textcoords="offset points",
            ha="left" if beside else "center",
            fontsize=9,
            color=colour,
        )


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
    figure = new_figure(11 if shown else 6, 4.0, title)
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
        light_grid(axes)
    return figure


def _curve(
    axes: Axes, history: Sequence[Mapping[str, float]], name: str, label: str, colour: str, style: str = "-"
) -> None:
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    if points:
        marker = "o" if len(points) <= 30 else ""
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, marker=marker, markersize=3)


@dataclass(frozen=True)
class OperatingCurve:
    """Precision against recall of one category: the whole curve `[steps]`, and two `(recall, precision)` points.

    Args:
        chosen: where the threshold was put, on the examples it was chosen on.
        held_out: the same decision on examples it was not chosen on.
    """

    name: str
    recall: np.ndarray
    precision: np.ndarray
    chosen: tuple[float, float]
    held_out: tuple[float, float]


@with_fonts
def plot_precision_recall(curves: Sequence[OperatingCurve], target: str, value: float, title: str) -> Figure:
    """Each category's curve with its chosen and its held-out point, and the wanted precision or recall."""
    figure = new_figure(6, 5, title)
    axes = figure.subplots()
    for position, curve in enumerate(curves):
        colour = COLOURS[position % len(COLOURS)]
        axes.step(curve.recall, curve.precision, color=colour, label=curve.name)
        axes.plot(*curve.chosen, "o", color=colour, markersize=12, mfc="none", mew=2)
        axes.plot(*curve.held_out, "x", color=colour, markersize=10, mew=2.5)
    wanted = axes.axhline if target == "precision" else axes.axvline
    wanted(value, color="0.6", linestyle=":", label=f"wanted {target}")
    axes.plot([], [], "o", color=NEUTRAL, mfc="none", mew=2, label="chosen, on these examples")
    axes.plot([], [], "x", color=NEUTRAL, mew=2.5, label="chosen, held out (cross-validation)")
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
    light_grid(axes)
    return figure
