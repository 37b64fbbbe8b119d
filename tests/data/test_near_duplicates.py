"""Pins: the difference hash is that of the `imagehash` library; an image scaled, saved again or brightened is found in
another split and a different one is not; plain and unreadable images are passed over."""

import io

import imagehash
import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Images

from hf_customclip.data.near_duplicates import difference_hash, hash_of_bytes, near_duplicates_across


def clouds(seed, side=200):
    spots = np.random.default_rng(seed).integers(0, 255, (7, 7, 3), np.uint8)
    return Images.fromarray(spots).resize((side, side), Images.Resampling.BICUBIC)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def dataset(images):
    rows = {
        "image": [{"bytes": data, "path": name} for name, data in images.items()],
        "image_id": list(images),
    }
    return Dataset.from_dict(rows, features=Features({"image": Image(), "image_id": Value("string")}))


@pytest.mark.parametrize("seed", range(10))
def test_the_hash_is_imagehash_s(seed):
    assert difference_hash(clouds(seed)) == int(str(imagehash.dhash(clouds(seed))), 16)


def test_near_duplicates_are_found_across_splits():
    train = {f"{seed}.png": encoded(clouds(seed)) for seed in range(30)}
    train |= {"plain.png": encoded(Images.new("RGB", (9, 9), "white")), "broken.png": b"no image"}
    test = {f"new-{seed}.png": encoded(clouds(seed)) for seed in range(100, 120)}
    test |= {"plain-too.png": encoded(Images.new("RGB", (40, 20), "black"))}
    test["small.jpg"] = encoded(clouds(3).resize((60, 60)), "JPEG", quality=60)
    test["bright.png"] = encoded(clouds(8).point(lambda value: min(255, int(value * 1.1))))
    found = near_duplicates_across({"train": dataset(train), "test": dataset(test)})
    assert {(pair.first, pair.second) for pair in found} == {("3.png", "small.jpg"), ("8.png", "bright.png")}
    assert {pair.splits for pair in found} == {("train", "test")}


def test_a_jpeg_decoded_small_has_nearly_the_hash_of_the_whole():
    big = clouds(5, side=1600)
    whole, quick = difference_hash(big), hash_of_bytes(encoded(big, "JPEG", quality=95))
    assert bin(whole ^ quick).count("1") <= 2
