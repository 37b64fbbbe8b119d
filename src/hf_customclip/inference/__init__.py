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

_MODULE_OF = {
    "ClassificationResult": "classification",
    "ZeroShotClassifier": "zero_shot",
    "encode_images": "encode",
    "encode_texts": "encode",
    "iter_encoded_images": "encode",
    "load_model": "load_model",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_OF)
