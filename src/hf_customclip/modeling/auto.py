"""Registers this package's classes with transformers' Auto classes, when it is imported."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from .configuration_custom_clip import CustomClipConfig
from .image_processing_custom_clip import CustomClipImageProcessor
from .modeling_custom_clip import CustomClipModel
from .processing_custom_clip import CustomClipProcessor

AutoConfig.register(CustomClipConfig.model_type, CustomClipConfig, exist_ok=True)
AutoModel.register(CustomClipConfig, CustomClipModel, exist_ok=True)
AutoModelForZeroShotImageClassification.register(CustomClipConfig, CustomClipModel, exist_ok=True)
AutoImageProcessor.register(
    CustomClipConfig, image_processor_classes={"torchvision": CustomClipImageProcessor}, exist_ok=True
)
AutoProcessor.register(CustomClipConfig, CustomClipProcessor, exist_ok=True)
