"""Custom CLIP models: any pretrained image tower, any pretrained text tower, trained, measured, published.

Importing the package registers its classes with transformers' Auto classes, as soon as those are there.
"""

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from ._registration import register_when_needed

if TYPE_CHECKING:
    from .data.load import load_image_text_dataset as load_image_text_dataset
    from .inference.load_model import load_model as load_model
    from .modeling.configuration_custom_clip import CustomClipConfig as CustomClipConfig
    from .modeling.configuration_custom_clip import TorchvisionBackboneConfig as TorchvisionBackboneConfig
    from .modeling.modeling_custom_clip import CustomClipModel as CustomClipModel
    from .modeling.modeling_custom_clip import CustomClipOutput as CustomClipOutput
    from .modeling.modeling_torchvision_backbone import TorchvisionBackboneModel as TorchvisionBackboneModel
    from .modeling.processing_custom_clip import CustomClipProcessor as CustomClipProcessor
    from .moderation.moderator import Moderator as Moderator
    from .search.index import ImageIndex as ImageIndex
    from .training.recipe import create_model as create_model
    from .training.trainer import CustomClipTrainer as CustomClipTrainer
    from .training.training_args import CustomClipTrainingArguments as CustomClipTrainingArguments

__version__ = "0.1.0"

_NAMES_IN = {
    "data.load": ("load_image_text_dataset",),
    "inference.load_model": ("load_model",),
    "modeling.configuration_custom_clip": ("CustomClipConfig", "TorchvisionBackboneConfig"),
    "modeling.modeling_custom_clip": ("CustomClipModel", "CustomClipOutput"),
    "modeling.modeling_torchvision_backbone": ("TorchvisionBackboneModel",),
    "modeling.processing_custom_clip": ("CustomClipProcessor",),
    "moderation.moderator": ("Moderator",),
    "search.index": ("ImageIndex",),
    "training.recipe": ("create_model",),
    "training.trainer": ("CustomClipTrainer",),
    "training.training_args": ("CustomClipTrainingArguments",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES_IN)

register_when_needed()
