"""Search a collection of pictures by words, by picture, or by both.

Names are imported when first used, so that `import hf_customclip.search` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .index import ImageIndex, SearchResult
    from .parquet import embed_to_parquet
    from .postgres import embed_to_postgres, export_to_postgres
    from .sync import Changes

_MODULE_OF = {
    "Changes": "sync",
    "ImageIndex": "index",
    "SearchResult": "index",
    "embed_to_parquet": "parquet",
    "embed_to_postgres": "postgres",
    "export_to_postgres": "postgres",
}

__all__ = [
    "Changes",
    "ImageIndex",
    "SearchResult",
    "embed_to_parquet",
    "embed_to_postgres",
    "export_to_postgres",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
