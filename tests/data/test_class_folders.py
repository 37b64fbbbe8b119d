"""Pins: every image of folders of classes is read, also where file names speak of splits; folders named after splits
are splits; a split that is not there falls back to the only one, with a word."""

import logging

import pytest
from PIL import Image as Images

from hf_customclip.data.load import load_labelled_images


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Images.new("RGB", (4, 4)).save(path)


def test_names_that_speak_of_splits_lose_nothing(tmp_path, caplog):
    for kind in ("red_car", "dog"):
        for number in range(6):
            draw(tmp_path / kind / f"{number}.jpg")
        draw(tmp_path / kind / f"{kind}_train.jpg")
    with caplog.at_level(logging.WARNING):
        dataset, names = load_labelled_images(str(tmp_path), "test")
    assert len(dataset) == 14 and names == ["dog", "red car"]
    assert sorted(dataset["label"]) == [0] * 7 + [1] * 7
    assert "no split 'test'" in caplog.text


def test_folders_of_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("cat", "dog"):
            for number in range(count):
                draw(tmp_path / split / kind / f"{number}.png")
    assert len(load_labelled_images(str(tmp_path), "validation")[0]) == 4
    with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
        load_labelled_images(str(tmp_path), "test")
