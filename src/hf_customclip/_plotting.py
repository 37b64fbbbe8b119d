"""What is used of Matplotlib, and images written whole or not at all. Importing this needs the `plots` extra."""

from __future__ import annotations

import os
from pathlib import Path

from ._files import replacing

__all__ = ["Axes", "Figure", "Rectangle", "font_manager", "rc_context", "save_figure"]

try:
    from matplotlib import font_manager, rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ImportError as error:
    raise ImportError("Plots need Matplotlib: pip install 'hf-customclip[plots]'.") from error


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 100) -> Path:
    """Write a figure as PNG (or what the suffix says), whole or not at all, and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as name:
        kind = path.suffix[1:] or "png"
        figure.savefig(name, format=kind, dpi=dpi, facecolor="white", bbox_inches="tight")
    return path
