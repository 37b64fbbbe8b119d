"""The image of a calibration. Importing this needs Matplotlib (the `plots` extra)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .._plotting import Figure, save_figure

if TYPE_CHECKING:
    from .calibration import Calibration


def plot_calibration(calibration: Calibration, file: Path) -> Path:
    """Precision against recall for each category, with the chosen point and the held-out one."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for position, each in enumerate(calibration.categories):
        colour = f"C{position}"
        positives = each.seen.true_positives + each.seen.false_negatives
        axes.step(each.curve[:, 2], each.curve[:, 1], color=colour, label=f"{each.category} ({positives})")
        axes.plot(each.seen.recall, each.seen.precision, "o", color=colour, markersize=12, mfc="none", mew=2)
        axes.plot(each.held_out.recall, each.held_out.precision, "x", color=colour, markersize=10, mew=2.5)
    wanted = axes.axhline if calibration.target == "precision" else axes.axvline
    wanted(calibration.value, color="0.6", linestyle=":", label=f"wanted {calibration.target}")
    axes.plot([], [], "ko", mfc="none", mew=2, label="chosen, on these examples")
    axes.plot([], [], "kx", mew=2.5, label="chosen, held out (cross-validation)")
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
    axes.set_title("Thresholds by labelled examples (in brackets: how many positives)", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    return save_figure(figure, file, dpi=150)
