"""Search a collection of images by words, by image, or by both.

Names are imported when first used, so that `import hf_customclip.search` costs nothing.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .index import Changes as Changes
    from .index import ImageIndex as ImageIndex
    from .index import SearchResult as SearchResult
    from .parquet import embed_to_parquet as embed_to_parquet
    from .parquet import write_parquet as write_parquet

_NAMES_IN = {
    "index": ("Changes", "ImageIndex", "SearchResult"),
    "parquet": ("embed_to_parquet", "write_parquet"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES_IN)
