"""Promises pinned here:

- off by default; any `torchvision.transforms.v2` image transform can be named in a config, nested ones too;
- what comes out is an RGB image, the same for the same torch seed;
- a mistake in the config is a sentence at building time, and building shifts nobody's random numbers.
"""

import numpy as np
import PIL.Image
import pytest
import torch

from hf_customclip.data.augmentation import build_augmentation


@pytest.fixture
def image():
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_off_by_default(nothing):
    assert build_augmentation(nothing) is None


def test_flip_does_what_its_name_says(image):
    flip = build_augmentation([{"RandomHorizontalFlip": {"p": 1.0}}])
    assert np.array_equal(np.asarray(flip(image)), np.asarray(image)[:, ::-1])


@pytest.mark.parametrize(
    "spec",
    [
        [
            {"RandomResizedCrop": {"size": 24, "scale": [0.8, 1.0], "interpolation": "bicubic"}},
            "RandomGrayscale",
        ],
        {"RandomResizedCrop": {"size": 24}, "RandomHorizontalFlip": None},
        [{"Resize": {"size": [24, 24]}}, "Grayscale"],
        [{"RandomApply": {"transforms": [{"Resize": {"size": [24, 24]}}], "p": 1.0}}],
    ],
)
def test_specs_give_rgb_images_of_the_asked_size(spec, image):
    result = build_augmentation(spec)(image)
    assert isinstance(result, PIL.Image.Image) and result.mode == "RGB" and result.size == (24, 24)


def test_same_seed_same_image(image):
    augment = build_augmentation([{"RandomResizedCrop": {"size": 24}}, {"ColorJitter": {"brightness": 0.5}}])
    torch.manual_seed(1)
    first, second = np.asarray(augment(image)), np.asarray(augment(image))
    torch.manual_seed(1)
    assert np.array_equal(first, np.asarray(augment(image)))
    assert not np.array_equal(first, second)


def test_building_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    build_augmentation([{"RandomResizedCrop": {"size": 24}}])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["RandomHorizontlFlip"], "Did you mean RandomHorizontalFlip"),
        (["os"], "no transform 'os'"),
        (["Transform"], "no transform"),
        ([{"RandomResizedCrop": {}}], "size"),
        ([{"RandomResizedCrop": {"sise": 3}}], "it takes size, scale"),
        ([{"Resize": {"size": 3, "interpolation": "bicubik"}}], "InterpolationMode"),
        ([{"RandomResizedCrop": 224}], "name with its arguments"),
        ("RandomHorizontalFlip", "list of transforms"),
        ([3], "name or a name"),
        ([{"MixUp": {"num_classes": 2}}], "fails on an image"),
        (["ToImage"], "not an image"),
    ],
)
def test_mistakes_are_sentences(spec, message):
    with pytest.raises(ValueError, match=message):
        build_augmentation(spec)
