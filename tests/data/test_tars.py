"""WebDataset tars in the forms they come in, each listed and streamed.

Pinned: samples are told by names up to the first dot, or to the last where each image has a text of its own; all
images may stand before all texts, in one tar or apart; folders in a tar are part of `__key__`, which is the image's
id; a text file's lines, a JSON list and a JSON record are several captions, a JSON record's languages are kept;
further images of a sample, files that are neither image nor text and broken JSON are passed over; a tar that is
changed is read anew; shards are read in any order and shared out to more workers than there are shards, each row
once; a tar without images is refused with its name.
"""

import io
import json
import tarfile

import pytest
from datasets import Image
from miniatures import jpeg
from torch.utils.data import DataLoader

from hf_customclip.data import DataError, load_image_text_dataset


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = jpeg(content) if isinstance(content, int) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def rows_of(source, **options):
    """Captions by id, the same from a listing and from a stream."""
    listed = load_image_text_dataset(source, split="all", **options)
    streamed = load_image_text_dataset(
        source, split="train", streaming=True, validation_fraction=0.0, test_fraction=0.0, **options
    )
    found = {row["image_id"]: row["captions"] for row in listed}
    assert {row["image_id"]: row["captions"] for row in streamed} == found
    return found


PAIRS = {"000": ["a cat"], "001": ["a dog"]}
FORMS = {
    "image and text": ([("000.jpg", 0), ("000.txt", "a cat"), ("001.jpg", 1), ("001.txt", "a dog")], PAIRS),
    "texts first": ([("000.txt", "a cat"), ("000.jpg", 0), ("001.txt", "a dog"), ("001.jpg", 1)], PAIRS),
    "all images before all texts": (
        [("000.jpg", 0), ("001.jpg", 1), ("001.txt", "a dog"), ("000.txt", "a cat")],
        PAIRS,
    ),
    "fields with names": (
        [
            ("000.image.JPG", 0),
            ("000.caption.txt", "a cat"),
            ("001.image.JPG", 1),
            ("001.caption.txt", "a dog"),
        ],
        PAIRS,
    ),
    "dotted keys": (
        [("a.b.1.jpg", 0), ("a.b.1.txt", "a cat"), ("a.b.2.jpg", 1), ("a.b.2.txt", "a dog")],
        {"a.b.1": ["a cat"], "a.b.2": ["a dog"]},
    ),
    "dotted keys, all images first": (
        [("a.1.jpg", 0), ("a.2.jpg", 1), ("a.1.txt", "a cat"), ("a.2.txt", "a dog")],
        {"a.1": ["a cat"], "a.2": ["a dog"]},
    ),
    "folders": (
        [
            ("v1.0/x/000.jpg", 0),
            ("v1.0/x/000.txt", "a cat"),
            ("v1.0/y/000.jpg", 1),
            ("v1.0/y/000.txt", "a dog"),
        ],
        {"v1.0/x/000": ["a cat"], "v1.0/y/000": ["a dog"]},
    ),
    "lines": (
        [("000.jpg", 0), ("000.txt", "a cat\na kitten\n"), ("001.jpg", 1), ("001.txt", "a dog\r\n")],
        {"000": ["a cat", "a kitten"], "001": ["a dog"]},
    ),
    "a JSON list": (
        [("000.jpg", 0), ("000.json", '["a cat", "a kitten"]'), ("001.jpg", 1), ("001.json", '["a dog"]')],
        {"000": ["a cat", "a kitten"], "001": ["a dog"]},
    ),
    "JSON records of different fields": (
        [
            *(("000.jpg", 0), ("000.json", '{"caption": "a cat", "size": 1}')),
            *(("001.png", 1), ("001.json", '{"caption": ["a dog"], "url": {"x": [1]}}')),
        ],
        PAIRS,
    ),
    "a text beside a record": (
        [
            *(("000.jpg", 0), ("000.json", '{"key": "000"}'), ("000.txt", "a cat")),
            *(("001.jpg", 1), ("001.txt", "a dog")),
        ],
        PAIRS,
    ),
    "further images and files": (
        [
            *(("000.depth.png", 5), ("000.jpg", 0), ("000.txt", "a cat"), ("000.npy", "?")),
            *(("001.jpg", 1), ("001.txt", "a dog"), ("readme", "?"), (".hidden.txt", "?")),
        ],
        PAIRS,
    ),
    "broken JSON": (
        [("000.jpg", 0), ("000.json", '["a cat"]'), ("001.jpg", 1), ("001.json", '["a dog"')],
        {"000": ["a cat"]},
    ),
    "a text without its image": (
        [("000.jpg", 0), ("000.txt", "a cat"), ("002.txt", "nothing"), ("001.jpg", 1), ("001.txt", "a dog")],
        PAIRS,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path, form):
    members, wanted = FORMS[form]
    write_tar(tmp_path / "shard.tar", members)
    assert rows_of(tmp_path) == wanted


def test_images_go_with_their_captions(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.jpg", 0), ("1.jpg", 1), ("1.txt", "one"), ("0.txt", "zero")])
    for row in load_image_text_dataset(tmp_path, split="all").cast_column("image", Image(decode=False)):
        assert row["image"]["bytes"] == jpeg({"zero": 0, "one": 1}[row["captions"][0]])


def test_languages_of_records(tmp_path):
    write_tar(
        tmp_path / "a.tar", [("0.jpg", 0), ("0.json", '{"de": "eine Katze", "en": "a cat", "id": "7"}')]
    )
    (row,) = load_image_text_dataset(tmp_path, split="all", languages=["de"])
    assert (row["captions"], row["languages"]) == (["eine Katze"], ["de"])
    write_tar(tmp_path / "a.tar", [("0.jpg", 0), ("0.de.txt", "ein Hund"), ("0.en.txt", "a dog")])
    (row,) = load_image_text_dataset(tmp_path, split="all")  # changed under its name
    assert (row["captions"], row["languages"]) == (["ein Hund", "a dog"], ["de", "en"])


def test_shuffled_shards_and_more_workers_than_shards(tmp_path):
    for shard in range(3):
        members = [
            member
            for row in range(5)
            for member in (
                (f"{shard}-{row}.jpg", row),
                (f"{shard}-{row}.json", json.dumps([f"{shard} {row}"])),
            )
        ]
        write_tar(tmp_path / f"{shard}.tar", members)
    options = {"split": "train", "validation_fraction": 0.0, "test_fraction": 0.0}
    stream = load_image_text_dataset(str(tmp_path / "{0..2}.tar"), streaming=True, **options)
    wanted = [f"{shard}-{row}" for shard in range(3) for row in range(5)]
    assert stream.num_shards == 3
    assert [row["image_id"] for row in stream] == wanted
    shuffled = [row["image_id"] for row in stream.shuffle(seed=1, buffer_size=4)]
    assert sorted(shuffled) == wanted != shuffled
    ids = stream.select_columns(["image_id"])
    for workers in (2, 4):
        found = [
            name for batch in DataLoader(ids, batch_size=2, num_workers=workers) for name in batch["image_id"]
        ]
        assert sorted(found) == wanted


def test_a_tar_without_images(tmp_path):
    write_tar(tmp_path / "texts.tar", [("0.txt", "a cat"), ("1.txt", "a dog")])
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"texts\.tar holds no images"):
            load_image_text_dataset(tmp_path, streaming=streaming)
