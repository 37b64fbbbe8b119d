"""What is used of Matplotlib: fonts for every script, and images written whole or not at all.

Importing this needs the `plots` extra.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from ._files import replacing

__all__ = ["Axes", "Figure", "Rectangle", "save_figure", "with_fonts"]

try:
    from matplotlib import font_manager, rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ImportError as error:
    raise ImportError("Plots need Matplotlib: pip install 'hf-customclip[plots]'.") from error

P = ParamSpec("P")
T = TypeVar("T")
# Captions come in many scripts; of these fonts the first that is there and has a glyph draws it.
FONTS = (
    *("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP"),
    *("Noto Sans KR", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai"),
    *("Noto Sans Hebrew", "Noto Sans Tamil", "Noto Sans Telugu"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Segoe UI", "Nirmala UI", "Leelawadee UI"),  # Windows
    *("Hiragino Sans", "Apple SD Gothic Neo", "Geeza Pro", "Kohinoor Devanagari", "Thonburi"),  # macOS
    "Arial Unicode MS",
)
NO_GLYPH = re.compile(r"Glyph (\d+) .*missing from|does not support (\w+) natively")
HINT = (
    "No font of this machine draws {}: boxes stand in its place. Fonts for all scripts: "
    "apt install fonts-noto-cjk fonts-noto-core (Debian, Ubuntu), or Noto Sans from fonts.google.com/noto."
)


def with_fonts(draw: Callable[P, T]) -> Callable[P, T]:
    """Draws text in any script, and leaves the caller's Matplotlib settings alone."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        available = set(font_manager.get_font_names())
        fonts = [font for font in FONTS if font in available]
        with rc_context({"font.family": fonts or ["sans-serif"]}):
            return draw(*args, **kwargs)

    return drawn


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 100) -> Path:
    """Write a figure as PNG (or what the suffix says), whole or not at all, and return its path.

    Where no font has a letter, one warning says which and what to install.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as said, replacing(path) as name:
        warnings.simplefilter("always")
        kind = path.suffix[1:] or "png"
        figure.savefig(name, format=kind, dpi=dpi, facecolor="white", bbox_inches="tight")
    missing: list[str] = []
    for warning in said:
        match = NO_GLYPH.search(str(warning.message))
        if match:
            missing.append(chr(int(match[1])) if match[1] else match[2])
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        warnings.warn(HINT.format(" ".join(list(dict.fromkeys(missing))[:10])), UserWarning, stacklevel=2)
    return path
