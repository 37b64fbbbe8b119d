"""Images and texts to embeddings: the one encoder, and what stands on it.

Names are imported when first used, so that `import hf_customclip.inference` costs nothing.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .encode import embed_dataset as embed_dataset
    from .encode import embed_images as embed_images
    from .encode import embed_texts as embed_texts
    from .load_model import load_model as load_model
    from .zero_shot import ZeroShotClassifier as ZeroShotClassifier

_MODULE_OF = {
    "ZeroShotClassifier": "zero_shot",
    "embed_dataset": "encode",
    "embed_images": "encode",
    "embed_texts": "encode",
    "load_model": "load_model",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_OF)
