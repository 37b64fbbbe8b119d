# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Images prepared as torchvision and timm prepare them, to the row: crops and borders as theirs."""

from typing import Any

import torch
from torchvision.transforms.v2 import functional as tvF
from transformers import CLIPImageProcessor


class CustomClipImageProcessor(CLIPImageProcessor):
    """As `CLIPImageProcessor`, but a crop's odd row is split as torchvision splits it, a `size` of `max_height` and
    `max_width` is rounded as timm rounds it, and what such an image lacks to the crop is filled with the mean
    colour (timm's "border")."""

    def resize(self, image: torch.Tensor, size: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., height, width) to the size that `size` asks for."""
        if size.max_height and size.max_width:
            height, width = image.shape[-2:]
            ratio = max(height / size.max_height, width / size.max_width)
            size = type(size)(height=round(height / ratio), width=round(width / ratio))
        return super().resize(image, size, *args, **kwargs)

    def center_crop(self, image: torch.Tensor, size: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """(..., height, width) to (..., size.height, size.width)."""
        wanted, there = (size.width, size.height), (image.shape[-1], image.shape[-2])
        missing = [max(0, side - has) for side, has in zip(wanted, there, strict=True)]
        if any(missing) and self.size["max_height"]:  # timm's "border"; else torchvision's, in black
            before = [number // 2 for number in missing]
            after = [(number + 1) // 2 for number in missing]
            colour = [round(255 * value) for value in self.image_mean]
            image = tvF.pad(image, [*before, *after], fill=colour)
        cropped: torch.Tensor = tvF.center_crop(image, [size.height, size.width])
        return cropped


CustomClipImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["CustomClipImageProcessor"]
