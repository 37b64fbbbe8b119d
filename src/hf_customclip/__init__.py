"""Custom CLIP models: any pretrained image tower, any pretrained text tower, trained, measured, published.

Importing the package registers its classes with transformers' Auto classes, as soon as those are there.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._registration import register_when_needed

if TYPE_CHECKING:
    from .modeling.configuration_custom_clip import CustomClipConfig, TorchvisionBackboneConfig
    from .modeling.modeling_custom_clip import CustomClipModel, CustomClipOutput
    from .modeling.modeling_torchvision_backbone import TorchvisionBackboneModel
    from .modeling.processing_custom_clip import CustomClipProcessor
    from .moderation.moderator import Moderator
    from .search.index import ImageIndex
    from .training.arguments import CustomClipTrainingArguments
    from .training.trainer import CustomClipTrainer

__version__ = "0.1.0"

_MODULE_OF = {
    "CustomClipConfig": "modeling.configuration_custom_clip",
    "CustomClipModel": "modeling.modeling_custom_clip",
    "CustomClipOutput": "modeling.modeling_custom_clip",
    "CustomClipProcessor": "modeling.processing_custom_clip",
    "CustomClipTrainer": "training.trainer",
    "CustomClipTrainingArguments": "training.arguments",
    "Moderator": "moderation.moderator",
    "ImageIndex": "search.index",
    "TorchvisionBackboneConfig": "modeling.configuration_custom_clip",
    "TorchvisionBackboneModel": "modeling.modeling_torchvision_backbone",
}

__all__ = [
    "CustomClipConfig",
    "CustomClipModel",
    "CustomClipOutput",
    "CustomClipProcessor",
    "CustomClipTrainer",
    "CustomClipTrainingArguments",
    "ImageIndex",
    "Moderator",
    "TorchvisionBackboneConfig",
    "TorchvisionBackboneModel",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # Torch and transformers take seconds to import; they are not needed for `hf-customclip --help`.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__


register_when_needed()
