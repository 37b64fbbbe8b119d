"""Images and texts to embeddings: the one encoder, and what stands on it.

Names are imported when first used, so that `import hf_customclip.inference` costs nothing.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .encode import encode_images as encode_images
    from .encode import encode_texts as encode_texts
    from .encode import iter_encoded_images as iter_encoded_images
    from .load_model import load_model as load_model
    from .zero_shot import ZeroShotClassifier as ZeroShotClassifier

_NAMES_IN = {
    "classification": ("ClassificationResult",),
    "encode": ("encode_images", "encode_texts", "iter_encoded_images"),
    "load_model": ("load_model",),
    "zero_shot": ("ZeroShotClassifier",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES_IN)
