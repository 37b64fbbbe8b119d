"""Pins: for every distinct preset of timm's published weights our pixels are those of timm's own transform, up to the
rounding of 8 bit resizing: at most 2 of 255 levels in any pixel, a hundredth of a level on average. timm resizes with
Pillow and we with torchvision, whose fixed-point weights round otherwise in the last bit of each of the two passes."""

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg, list_models
from transformers import TimmWrapperConfig

from hf_customclip.modeling.image_processing_custom_clip import CustomClipImageProcessor
from hf_customclip.modeling.processing_custom_clip import timm_options

MOST, MEAN = 2, 0.012  # of 255 levels
PARTS = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


def distinct_presets():
    """What images are prepared by: one published configuration of each kind."""
    presets = {}
    for name in list_models(pretrained=True):
        preset = get_pretrained_cfg(name).to_dict()
        presets.setdefault(tuple(preset.get(part) for part in PARTS), preset)
    return list(presets.values())


def test_pixels_are_timms():
    """On noise, which shows every rounding and every row that is one off."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 451, 3), dtype=np.uint8)
    image, seen = Image.fromarray(noise), set()
    presets = distinct_presets()
    for preset in presets:
        config = TimmWrapperConfig(architecture=preset["architecture"], pretrained_cfg=preset)
        ours = CustomClipImageProcessor(**timm_options(config))(images=image, return_tensors="pt")
        theirs = create_transform(**resolve_data_config(pretrained_cfg=preset), is_training=False)(image)
        levels = 255 * torch.tensor(preset["std"])[:, None, None]
        difference = (ours["pixel_values"][0] - theirs).abs() * levels
        told = {part: preset.get(part) for part in PARTS}
        assert difference.max() < MOST + 0.01 and difference.mean() < MEAN, told
        seen |= {preset["crop_mode"], preset["interpolation"], preset["crop_pct"] > 1}
    assert len(presets) > 150 and {"center", "squash", "border", "bilinear", "bicubic", True} <= seen
