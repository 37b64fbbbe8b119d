"""Search a collection of images by words, by image, or by both.

Names are imported when first used, so that `import hf_customclip.search` costs nothing.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .index import ImageIndex as ImageIndex
    from .index import SearchResult as SearchResult
    from .parquet import embed_to_parquet as embed_to_parquet
    from .postgres import embed_to_postgres as embed_to_postgres
    from .postgres import export_to_postgres as export_to_postgres
    from .sync import Changes as Changes

_MODULE_OF = {
    "Changes": "sync",
    "ImageIndex": "index",
    "SearchResult": "index",
    "embed_to_parquet": "parquet",
    "embed_to_postgres": "postgres",
    "export_to_postgres": "postgres",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_OF)
