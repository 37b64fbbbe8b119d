"""A page to try a model on: zero-shot classification, search, moderation. Needs Gradio (the `demo` extra)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .page import build_demo
    from .space import write_space

_MODULE_OF = {"build_demo": "page", "write_space": "space"}

__all__ = ["build_demo", "write_space"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
