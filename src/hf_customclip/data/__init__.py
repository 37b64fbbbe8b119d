"""Image-caption data: loading every usual form, pictures, augmentation, pairs and batches.

Names are imported when first used, so that `import hf_customclip.data` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .augmentation import build_augmentation
    from .images import UnreadableImageError, decode_image, to_rgb
    from .inspection import inspect_captions, inspect_source, plot_grid
    from .loading import load_image_text_dataset
    from .report import DataError, DataReport

_MODULE_OF = {
    "DataError": "report",
    "DataReport": "report",
    "UnreadableImageError": "images",
    "build_augmentation": "augmentation",
    "decode_image": "images",
    "inspect_captions": "inspection",
    "inspect_source": "inspection",
    "load_image_text_dataset": "loading",
    "plot_grid": "inspection",
    "to_rgb": "images",
}

__all__ = [
    "DataError",
    "DataReport",
    "UnreadableImageError",
    "build_augmentation",
    "decode_image",
    "inspect_captions",
    "inspect_source",
    "load_image_text_dataset",
    "plot_grid",
    "to_rgb",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
