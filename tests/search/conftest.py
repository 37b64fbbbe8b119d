"""A tiny model, what has gone through it, and images in files."""

import pytest
from tiny import tiny_dataset, tiny_model, tiny_processor


@pytest.fixture
def made():
    return tiny_model(), tiny_processor()


@pytest.fixture
def seen(made):
    """How many images have gone through the image tower, in `seen[0]`."""
    count = [0]

    def note(module, args, kwargs):
        count[0] += len(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0])

    made[0].vision_model.register_forward_pre_hook(note, with_kwargs=True)
    return count


@pytest.fixture(scope="session")
def write_images():
    """`write_images(folder, numbers)` writes those of the tiny data set as `<number>.png`."""

    def write(folder, numbers):
        folder.mkdir(parents=True, exist_ok=True)
        for number, row in zip(numbers, tiny_dataset(64).select(numbers), strict=True):
            row["image"].save(folder / f"{number}.png")

    return write
