# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""CustomClipProcessor: images to pixels as the image tower wants them, captions to tokens."""

import os
from typing import Any

from torchvision import models
from transformers import AutoImageProcessor, AutoTokenizer, CLIPImageProcessor
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from .modeling_torchvision_backbone import published_weights
from .towers_custom_clip import image_input_shape, tower_config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CustomClipProcessorKwargs(ProcessingKwargs, total=False):
    """Captions are padded to their batch's longest and cut at the tokenizer's `model_max_length`."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}  # type: ignore[misc]  # noqa: RUF012


class CustomClipProcessor(ProcessorMixin):
    """An image processor and a tokenizer; call it with `images=` and/or `text=`."""

    valid_processor_kwargs = CustomClipProcessorKwargs

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike[str],
        text: str | os.PathLike[str],
        *,
        max_text_length: int = 32,
        vision_weights: str | None = "DEFAULT",
        vision_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
        **image_options: Any,
    ) -> "CustomClipProcessor":
        """The processor of the two towers, named as in `CustomClipModel.from_vision_text_pretrained`.

        Args:
            max_text_length: captions are cut at so many tokens.
            vision_weights: as in the model; torchvision publishes the preprocessing with the weights.
            image_options: override the image tower's own preprocessing, such as `do_normalize=False` or
                `size={"height": 224, "width": 224}, do_center_crop=False` (the tutorial's squashed resize).
        """
        if str(vision) in models.list_models(module=models):
            preset = _torchvision_options(str(vision), vision_weights or "DEFAULT")
            image_processor = CLIPImageProcessor(**{**preset, **image_options})
        else:
            image_processor = _image_processor(vision, image_options, **(vision_kwargs or {}))
        tokenizer = AutoTokenizer.from_pretrained(text, **(text_kwargs or {}))
        tokenizer.model_max_length = max_text_length
        return cls(image_processor, tokenizer)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[str]:
        """As `ProcessorMixin.save_pretrained`; the code files come along."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        # Saving leaves it on the object, which then differs from the same processor loaded.
        vars(self).pop("auto_map", None)
        return files


def _image_processor(vision: str | os.PathLike[str], options: dict[str, Any], **kwargs: Any) -> Any:
    config = tower_config(vision, "vision", **kwargs)
    if config.model_type == "timm_wrapper":
        return CLIPImageProcessor(**{**_timm_options(config), **options})
    return AutoImageProcessor.from_pretrained(vision, **{**kwargs, **options})


def _torchvision_options(architecture: str, weights: str) -> dict[str, Any]:
    """The evaluation preset that torchvision publishes beside its weights."""
    preset = published_weights(architecture, weights).transforms()
    resample = {"nearest": 0, "bilinear": 2, "bicubic": 3}[preset.interpolation.value]
    return _options(preset.resize_size[0], preset.crop_size[0], preset.mean, preset.std, resample)


def _timm_options(config: Any) -> dict[str, Any]:
    """timm's `pretrained_cfg`, so that no second kind of image processor is needed."""
    preset = getattr(config, "pretrained_cfg", None) or {}
    crop = image_input_shape(config)[1]
    resample = {"nearest": 0, "bilinear": 2, "bicubic": 3}[preset.get("interpolation", "bicubic")]
    mean, std = preset.get("mean", IMAGENET_MEAN), preset.get("std", IMAGENET_STD)
    return _options(int(crop / preset.get("crop_pct", 0.875)), crop, mean, std, resample)


def _options(resize: int, crop: int, mean: Any, std: Any, resample: int) -> dict[str, Any]:
    return {
        "size": {"shortest_edge": resize},
        "crop_size": {"height": crop, "width": crop},
        "image_mean": list(mean),
        "image_std": list(std),
        "resample": resample,
    }


CustomClipProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["CustomClipProcessor"]
