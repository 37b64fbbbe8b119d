"""Image-caption data: loading every usual form, images, augmentation, pairs and batches.

Names are imported when first used, so that `import hf_customclip.data` costs nothing.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .augmentation import build_augmentation as build_augmentation
    from .images import UnreadableImageError as UnreadableImageError
    from .images import decode_image as decode_image
    from .images import to_rgb as to_rgb
    from .inspection import inspect_captions as inspect_captions
    from .inspection import inspect_source as inspect_source
    from .inspection import plot_grid as plot_grid
    from .load import load_image_text_dataset as load_image_text_dataset
    from .load import load_with_report as load_with_report
    from .report import DataError as DataError
    from .report import DataReport as DataReport

_NAMES_IN = {
    "augmentation": ("build_augmentation",),
    "images": ("UnreadableImageError", "decode_image", "to_rgb"),
    "inspection": ("inspect_captions", "inspect_source", "plot_grid"),
    "load": ("load_image_text_dataset", "load_with_report"),
    "report": ("DataError", "DataReport"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES_IN)
