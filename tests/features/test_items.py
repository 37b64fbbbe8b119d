"""Distinct images and captions, and what they are told apart by.

Pinned: one item for equal bytes or one file, and for equal texts, in the stated order (against plain
dictionaries); the digest follows the content and nothing else: it survives a copy of the data set, and
changes with an image's bytes, a file's size or time, and a caption's letter; digests of a memory-mapped data
set are read again instead of its images, and made anew when its files change or they are damaged.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from tiny import tiny_dataset

from hf_customclip.features import items
from hf_customclip.features.items import distinct_captions, distinct_images

FEATURES = Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("int64")})


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


def dataset_of(images: list[Any], captions: list[list[str]] | None = None) -> Dataset:
    captions = captions or [["a"]] * len(images)
    rows = {"image": images, "captions": captions, "image_id": list(range(len(images)))}
    return Dataset.from_dict(rows, features=FEATURES)


def embedded(*colours: str) -> Dataset:
    return dataset_of([{"bytes": png(c), "path": f"{i}.png"} for i, c in enumerate(colours)])


def test_equal_images_are_one(tmp_path: Path) -> None:
    images = distinct_images(embedded("red", "blue", "red", "green", "blue"), tmp_path)
    assert len(images) == 3
    assert images.index.tolist() == [0, 1, 0, 2, 1]
    assert [images[n]["bytes"] for n in range(3)] == [png("red"), png("blue"), png("green")]
    assert images.name(2) == "3.png"


def test_the_digest_follows_images_and_their_order(tmp_path: Path) -> None:
    one = distinct_images(embedded("red", "blue"), tmp_path).digest
    assert distinct_images(embedded("red", "blue"), tmp_path).digest == one
    assert distinct_images(embedded("red", "green"), tmp_path).digest != one
    assert distinct_images(embedded("red"), tmp_path).digest != one
    shuffled = embedded("blue", "red").select([1, 0])
    assert distinct_images(shuffled, tmp_path).digest == one


def test_images_in_files(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{colour}.png") for colour in ("red", "blue")]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        Path(path).write_bytes(png(colour))
    dataset = dataset_of([paths[0], paths[1], paths[0]])
    images = distinct_images(dataset, tmp_path)
    assert images.index.tolist() == [0, 1, 0]
    os.utime(paths[1], ns=(0, 1))
    touched = distinct_images(dataset, tmp_path)
    assert touched.digest != images.digest
    Path(paths[1]).unlink()
    missing = distinct_images(dataset, tmp_path)
    assert len(missing) == 2 and missing.digest not in (images.digest, touched.digest)
    assert not (tmp_path / "digests").exists()


def test_digests_of_a_mapped_data_set_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_dataset(8).save_to_disk(tmp_path / "data")
    first = distinct_images(load_from_disk(tmp_path / "data"), tmp_path)
    (kept,) = (tmp_path / "digests").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(items, "_digests", lambda chunk: pytest.fail("the images were read again"))
        again = distinct_images(load_from_disk(tmp_path / "data"), tmp_path)
    assert again.digest == first.digest and again.index.tolist() == first.index.tolist()

    kept.write_bytes(kept.read_bytes()[:-5])
    assert distinct_images(load_from_disk(tmp_path / "data"), tmp_path).digest == first.digest

    (arrow,) = (tmp_path / "data").glob("*.arrow")
    content = bytearray(arrow.read_bytes())
    place = content.index(b"IDAT") + 10  # in the first image
    content[place] ^= 1
    arrow.write_bytes(content)
    assert distinct_images(load_from_disk(tmp_path / "data"), tmp_path).digest != first.digest


def test_equal_captions_are_one_and_sorted() -> None:
    dataset = dataset_of([png("red")] * 3, [["b", "a"], [], ["a", "ü", "c"]])
    captions = distinct_captions(dataset)
    assert [captions[n] for n in range(len(captions))] == ["a", "b", "c", "ü"]
    assert captions.index.tolist() == [1, 0, 0, 3, 2]


def test_captions_that_are_not_used_are_out_of_range() -> None:
    dataset = dataset_of([png("red")] * 2, [["b", "a"], ["c", "b"]])
    captions = distinct_captions(dataset, np.array([0, 2]))
    assert [captions[n] for n in range(len(captions))] == ["b", "c"]
    assert captions.index.tolist() == [0, 2, 1, 0]


TEXTS = st.lists(st.lists(st.text(max_size=3), max_size=3), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(TEXTS, TEXTS)
def test_the_digest_tells_sets_of_captions_apart(one: list[list[str]], other: list[list[str]]) -> None:
    sets = [{text for texts in captions for text in texts} for captions in (one, other)]
    if not all(sets):
        return
    digests = [
        distinct_captions(dataset_of([png("red")] * len(texts), texts)).digest for texts in (one, other)
    ]
    assert (digests[0] == digests[1]) == (sets[0] == sets[1])
