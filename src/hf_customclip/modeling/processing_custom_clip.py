# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""CustomClipProcessor: images to pixels as the image tower wants them, captions to tokens."""

import json
import math
import os
from typing import Any

from torchvision import models
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import PROCESSOR_NAME

from .image_processing_custom_clip import CustomClipImageProcessor
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
        if tokenizer is not None:
            # The first position must be the text's first, whatever stands beside it in the batch.
            tokenizer.padding_side = "right"
            if tokenizer.pad_token is None:  # a decoder's; the attention mask hides it
                tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
        if image_processor is not None:
            # Loading leaves it there, which then differs from the same one as it was made; saving writes it anew.
            vars(image_processor).pop("auto_map", None)
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
            image_processor = CustomClipImageProcessor(**{**preset, **image_options})
        else:
            image_processor = _image_processor(vision, image_options, **(vision_kwargs or {}))
        tokenizer = _tokenizer(text, **(text_kwargs or {}))
        tokenizer.model_max_length = max_text_length
        return cls(image_processor, tokenizer)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[str]:
        """As `ProcessorMixin.save_pretrained`; the code files come along."""
        files: list[str] = super().save_pretrained(save_directory, *args, **kwargs)
        # Saving leaves it on the object, which then differs from the same processor loaded.
        for part in (self, self.image_processor):
            vars(part).pop("auto_map", None)
        _drop_foreign_entry(os.path.join(save_directory, PROCESSOR_NAME))
        return files


def _drop_foreign_entry(file: str) -> None:
    """Saving notes this class in the image processor's part too, where it is not what that part is."""
    with open(file, encoding="utf-8") as opened:
        content = json.load(opened)
    entries = content.get("image_processor", {}).get("auto_map", {})
    if entries.pop("AutoProcessor", None) is not None and not entries:
        del content["image_processor"]["auto_map"]
    with open(f"{file}.new", "w", encoding="utf-8") as opened:
        opened.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
    os.replace(f"{file}.new", file)


def _image_processor(vision: str | os.PathLike[str], options: dict[str, Any], **kwargs: Any) -> Any:
    config = tower_config(vision, "vision", **kwargs)
    if config.model_type == "timm_wrapper":
        return CustomClipImageProcessor(**{**timm_options(config), **options})
    return AutoImageProcessor.from_pretrained(vision, **{**kwargs, **options})


def _torchvision_options(architecture: str, weights: str) -> dict[str, Any]:
    """The evaluation preset that torchvision publishes beside its weights."""
    preset = published_weights(architecture, weights).transforms()
    resample = {"nearest": 0, "bilinear": 2, "bicubic": 3}[preset.interpolation.value]
    crop = (preset.crop_size[0], preset.crop_size[0])
    return _options({"shortest_edge": preset.resize_size[0]}, crop, preset.mean, preset.std, resample)


def timm_options(config: Any) -> dict[str, Any]:
    """timm's `pretrained_cfg`, so that no second kind of image processor is needed."""
    preset = getattr(config, "pretrained_cfg", None) or {}
    crop = image_input_shape(config)[1:]
    resample = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}[
        preset.get("interpolation", "bicubic")
    ]
    mean, std = preset.get("mean", IMAGENET_MEAN), preset.get("std", IMAGENET_STD)
    height, width = (math.floor(side / (preset.get("crop_pct") or 0.875)) for side in crop)
    mode = preset.get("crop_mode") or "center"
    if mode == "center" and height != width:
        raise ValueError(
            f"timm's crop_mode='center' of a {width} x {height} image is not offered: give "
            f"size={{'height': {height}, 'width': {width}}}"
        )
    sizes = {
        "center": {"shortest_edge": height},
        "squash": {"height": height, "width": width},
        "border": {"max_height": height, "max_width": width},
    }
    return _options(sizes[mode], crop, mean, std, resample)


def _tokenizer(text: str | os.PathLike[str], **kwargs: Any) -> Any:
    """The text tower's tokenizer, which must know words, and none that the tower has no embedding for."""
    tokenizer = AutoTokenizer.from_pretrained(text, **kwargs)
    known = getattr(tower_config(text, "text", **kwargs), "vocab_size", None)
    if known is not None and len(tokenizer) > known:
        raise ValueError(
            f"the tokenizer of {str(text)!r} has {len(tokenizer)} tokens, and the text tower embeddings for {known}: "
            "give the folder of a tower with its own tokenizer"
        )
    words = tokenizer("a photo of a dog", add_special_tokens=False)["input_ids"]
    if not words or all(token == tokenizer.unk_token_id for token in words):
        raise ValueError(
            f"the tokenizer of {str(text)!r} knows no word of 'a photo of a dog' (100 % unknown): its files are "
            "missing from the folder, or it is another language's; save the tokenizer beside the text tower"
        )
    return tokenizer


def _options(
    size: dict[str, int], crop: tuple[int, int], mean: Any, std: Any, resample: int
) -> dict[str, Any]:
    return {
        "size": size,
        "crop_size": {"height": crop[0], "width": crop[1]},
        "image_mean": list(mean),
        "image_std": list(std),
        "resample": resample,
    }


CustomClipProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["CustomClipProcessor"]
