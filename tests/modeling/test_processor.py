"""Pins: images are prepared as the image tower's weights were trained (torchvision's own preset, the checkpoint's;
timm's: test_timm_presets.py), the tutorial's squashed resize can be had, captions are padded and cut by themselves."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import VISION_KINDS, tiny_dataset, tiny_processor, tiny_text_tower, tiny_vision_tower
from torchvision import models, transforms
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from hf_customclip import CustomClipProcessor


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_text_tower("distilbert", tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def photograph():
    """Smooth and sharp parts, wider than high."""
    rows, columns = np.mgrid[0:300, 0:451]
    red, green = 127 + 120 * np.sin(rows / 23), 127 + 120 * np.cos(columns / 31)
    blue = 255.0 * ((rows // 40 + columns // 40) % 2)
    return Image.fromarray(np.stack([red, green, blue], -1).astype("uint8"))


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("resnet34", "DEFAULT"),
        ("resnet50", "DEFAULT"),
        ("resnet50", "IMAGENET1K_V1"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("efficientnet_b3", "DEFAULT"),
    ],
)
def test_equals_torchvisions_preset(architecture, weights, text, photograph):
    """Crops of 224 to 384, bilinear and bicubic; resampled before against after rounding to 8 bits."""
    ours = CustomClipProcessor.from_vision_text_pretrained(architecture, text, vision_weights=weights)
    pixels = ours(images=photograph, return_tensors="pt")["pixel_values"][0]
    expected = models.get_model_weights(architecture)[weights].transforms()(photograph)
    assert pixels.shape == expected.shape
    levels = (pixels - expected).abs() * 0.225 * 255
    assert levels.mean() < 0.5 and levels.quantile(0.999) < 3


def test_squashed_resize_is_the_tutorials(text, photograph):
    """`transforms.Resize((224, 224))` and `ToTensor()`, no crop, no normalisation."""
    ours = CustomClipProcessor.from_vision_text_pretrained(
        "resnet34", text, size={"height": 224, "width": 224}, do_center_crop=False, do_normalize=False
    )
    pixels = ours(images=photograph, return_tensors="pt")["pixel_values"][0]
    expected = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])(photograph)
    assert pixels.shape == expected.shape == (3, 224, 224)
    assert pixels.min() >= 0 and pixels.max() <= 1
    levels = (pixels - expected).abs() * 255
    assert levels.mean() < 0.5 and levels.quantile(0.999) < 3


def test_normalises_by_default(text):
    """The tutorial does not. An image of ImageNet's mean colour becomes zero."""
    ours = CustomClipProcessor.from_vision_text_pretrained("resnet34", text)
    mean_colour = Image.new("RGB", (300, 300), tuple(round(255 * x) for x in (0.485, 0.456, 0.406)))
    assert ours(images=mean_colour, return_tensors="pt")["pixel_values"].abs().max() < 0.01


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_checkpoints_own_preprocessing(kind, text, tmp_path, photograph):
    folder = tiny_vision_tower(kind, tmp_path)
    ours = CustomClipProcessor.from_vision_text_pretrained(folder, text)
    pixels = ours(images=photograph, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    if kind != "timm":
        expected = AutoImageProcessor.from_pretrained(folder)(images=photograph, return_tensors="pt")
        assert torch.equal(pixels, expected["pixel_values"])
    brighter = CustomClipProcessor.from_vision_text_pretrained(folder, text, do_normalize=False)
    assert brighter(images=photograph, return_tensors="pt")["pixel_values"].min() >= 0


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode(mode):
    assert (
        tiny_processor()(images=Image.new(mode, (20, 30)), return_tensors="pt")["pixel_values"].shape[1] == 3
    )


# ---- Captions ----

LONG = "red " * 100


def test_captions_are_cut_at_32_tokens(text):
    for processor in (tiny_processor(), CustomClipProcessor.from_vision_text_pretrained("resnet34", text)):
        batch = processor(text=["red", LONG], return_tensors="pt")
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 32)
        assert batch["input_ids"][1, -1] == processor.tokenizer.sep_token_id
        assert batch["attention_mask"].sum(1).tolist() == [3, 32]


def test_length_can_be_chosen(text, tmp_path):
    processor = CustomClipProcessor.from_vision_text_pretrained("resnet34", text, max_text_length=8)
    assert processor(text=LONG, return_tensors="pt")["input_ids"].shape == (1, 8)
    assert processor(text=LONG, max_length=5, return_tensors="pt")["input_ids"].shape == (1, 5)
    assert len(processor(text=[LONG], truncation=False)["input_ids"][0]) == 102
    assert processor(text="red", padding="max_length", return_tensors="pt")["input_ids"].shape == (1, 8)
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path)(text=LONG, return_tensors="pt")["input_ids"].shape == (
        1,
        8,
    )


def test_pads_to_the_batchs_longest():
    batch = tiny_processor()(text=["red", "red square on white"], return_tensors="pt")
    assert batch["input_ids"].shape == (2, 6)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]


def test_images_and_texts_together():
    data = tiny_dataset(3)
    batch = tiny_processor()(
        images=list(data["image"]), text=[captions[0] for captions in data["captions"]], return_tensors="pt"
    )
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"}
    assert len(batch["pixel_values"]) == len(batch["input_ids"]) == 3


def test_parts_load_by_themselves(tmp_path):
    """Others' tools load the tokenizer or the image processor alone, as the pipeline does."""
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)("a red square", truncation=True)
    assert tokens["input_ids"] == processor(text="a red square")["input_ids"]
    image = tiny_dataset(1)["image"][0]
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(images=image, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, processor(images=image, return_tensors="pt")["pixel_values"])


def test_saving_leaves_the_processor_as_it_was(tmp_path):
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    assert processor.to_dict() == CustomClipProcessor.from_pretrained(tmp_path).to_dict()
