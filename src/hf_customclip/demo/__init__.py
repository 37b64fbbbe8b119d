"""A page to try a model on: zero-shot classification, search, moderation. Needs Gradio (the `demo` extra)."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .page import build_demo as build_demo
    from .space import write_space as write_space

_NAMES_IN = {"page": ("build_demo",), "space": ("write_space",)}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES_IN)
