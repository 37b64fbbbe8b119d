"""What all images have in common: fonts, colours, titles, and how they are written."""

from __future__ import annotations

import os
import re
import textwrap
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from .._files import replacing

try:
    from matplotlib import font_manager, rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Plots need Matplotlib: pip install 'hf-customclip[plots]'.") from error

RIGHT, WRONG, NEUTRAL = "#1a9850", "#d5d5d5", "#444444"
COLOURS = ("#0b5394", "#d95f02", "#7570b3", "#1b9e77", "#e7298a", "#a6761d")

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
        add_new_fonts()
        available = set(font_manager.get_font_names())
        fonts = [font for font in FONTS if font in available]
        with rc_context({"font.family": fonts or ["sans-serif"]}):
            return draw(*args, **kwargs)

    return drawn


@cache
def add_new_fonts() -> None:
    """Make those of `FONTS` known that were installed after Matplotlib wrote down its list of fonts."""
    files = {family.replace(" ", "") for family in FONTS}
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        name = re.match(r"\w*", Path(path).name)
        if name and any(file.startswith(name[0]) for file in files):
            with suppress(OSError, RuntimeError):  # no font, or one of bitmaps
                font_manager.fontManager.addfont(path)


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, in inches, with its title; a `$` in it is no formula."""
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=13, weight="bold", parse_math=False)
    return figure


def shortened(text: str, characters: int) -> str:
    """A text on one line, cut between words."""
    return textwrap.shorten(text, characters, placeholder="…")


def show_image(axes: Axes, image: Any, frame: str = WRONG, caption: str = "") -> None:
    """An image in a thin frame, or a thick one where it is a right answer, and a line below it."""
    axes.axis("on")
    axes.imshow(np.asarray(image), cmap="gray")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(caption, fontsize=9, color=frame if frame == RIGHT else NEUTRAL, parse_math=False)
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=4 if frame == RIGHT else 1)


def light_grid(axes: Axes) -> None:
    """Grey lines behind the curves, no box around them, and a legend without one."""
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


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
