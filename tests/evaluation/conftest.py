"""Tiny models left in train mode on purpose (dropout must not reach an evaluation), and images."""

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_model, tiny_processor


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture(scope="session")
def model():
    return tiny_model().train()


@pytest.fixture(scope="session")
def sigmoid_model():
    return tiny_model(loss_type="sigmoid").train()


@pytest.fixture(scope="session")
def images():
    """24 images of different noise on different colours and of different sizes, one of them grey."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(24):
        base = rng.integers(0, 200, 3)
        noise = rng.integers(0, 55, (30 + i, 40, 3))
        made.append(Image.fromarray((base + noise).astype("uint8")))
    made[5] = made[5].convert("L")
    return made
