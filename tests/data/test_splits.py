"""Promises pinned here:

- every way of writing a split's name comes to train, validation or test, restval to train;
- a drawn split is by image, the same for the same seed whatever the order of rows, of the exact shares asked
  for, and adding images moves few of the old ones;
- captions of one image are never in two drawn splits, in whatever form and order they come;
- fractions draw what the data lack and refuse to replace what they have.
"""

from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import FLICKR, jpeg, karpathy

from hf_customclip.data import DataError, load_image_text_dataset, load_with_report
from hf_customclip.data.splits import SeededSplit, SplitList, split_in_path, split_name

IDS = st.lists(st.text(min_size=1, max_size=8), min_size=0, max_size=60)


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("train", "train"),
        ("restval", "train"),
        ("Training", "train"),
        ("val", "validation"),
        (" DEV ", "validation"),
        ("valid", "validation"),
        ("validation", "validation"),
        ("TEST", "test"),
        ("testA", "testa"),
    ],
)
def test_names(written, usual):
    assert split_name(written) == usual


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/captions_val2017.json", "validation"),
        ("captions_train2014.json", "train"),
        ("data/train-00000-of-00009.parquet", "train"),
        ("test/metadata.csv", "test"),
        ("Flickr_8k.devImages.txt", "validation"),
        ("results.csv", None),
        ("latest/contest.csv", None),
        ("train_or_test.csv", None),
        ("train/val.csv", "validation"),
    ],
)
def test_split_in_path(path, split):
    assert split_in_path(Path("/root/train") / path, Path("/root/train")) == split


def test_split_list_finds_by_any_name():
    listed = SplitList("", {"1.jpg": "test", "42": "train"})
    assert listed.find("images/1.jpg", None) == listed.find(None, "a\\1.jpg") == "test"
    assert listed.find("x.jpg", "42") == "train"
    assert listed.find("x.jpg", "7") is None


@given(IDS, st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.2, 0.45]), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_draw_has_exact_shares_and_does_not_mind_order(ids, seed, validation, test):
    draw = SeededSplit(seed, validation, test)
    split_of = dict(zip(ids, draw.assign(ids), strict=True))
    total = len(split_of)
    for name, fraction in (("validation", validation), ("test", test)):
        expected = max(round(fraction * total), 1) if fraction and total >= 3 else 0
        assert list(split_of.values()).count(name) == expected
    again = list(reversed(ids)) + ids
    assert dict(zip(again, draw.assign(again), strict=True)) == split_of


def test_a_draw_depends_on_the_seed_and_is_steady_as_data_grow():
    ids = [f"{number}.jpg" for number in range(2000)]
    before = dict(zip(ids, SeededSplit(1, 0.1, 0.1).assign(ids), strict=True))
    assert before != dict(zip(ids, SeededSplit(2, 0.1, 0.1).assign(ids), strict=True))
    more = ids + [f"new {number}.jpg" for number in range(200)]
    after = dict(zip(more, SeededSplit(1, 0.1, 0.1).assign(more), strict=True))
    assert sum(before[image_id] != after[image_id] for image_id in ids) < 0.02 * len(ids)


def test_a_draw_is_the_same_on_every_machine():
    ids = [f"{number}.jpg" for number in range(10)]
    names = SeededSplit(42, 0.2, 0.2).assign(ids)
    # `printf 42:8.jpg | b2sum -l 64` gives 0286..., then come 4 (51d0), 9 (5d1b), 0 (70ac), 2 (8ebf), ...
    assert [image_id for image_id, name in zip(ids, names, strict=True) if name == "test"] == [
        "4.jpg",
        "8.jpg",
    ]
    assert [image_id for image_id, name in zip(ids, names, strict=True) if name == "validation"] == [
        "0.jpg",
        "9.jpg",
    ]


def test_the_streamed_draw_agrees_with_the_listed_one_on_average():
    ids = [f"{number}.jpg" for number in range(5000)]
    draw = SeededSplit(0, 0.1, 0.2)
    streamed = [draw.assign_one(image_id) for image_id in ids]
    agreed = sum(a == b for a, b in zip(streamed, draw.assign(ids), strict=True))
    assert agreed > 0.97 * len(ids)
    assert abs(streamed.count("test") - 1000) < 100 and abs(streamed.count("validation") - 500) < 80


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (1.0, 0.0), (0.0, 1.5)])
def test_impossible_fractions(fractions):
    with pytest.raises(DataError, match="below 1"):
        SeededSplit(0, *fractions)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.text(min_size=1, max_size=5)), min_size=4, max_size=30),
    st.data(),
)
def test_captions_of_a_image_stay_together(rows, data):
    """One caption a row, in any order, with or without an id to tell the images by."""
    with_ids = data.draw(st.booleans())
    columns = {"image": [{"bytes": jpeg(n), "path": None} for n, _ in rows], "caption": [t for _, t in rows]}
    if with_ids:
        columns["image_id"] = [n for n, _ in rows]
    features = {"image": datasets.Image(), "caption": datasets.Value("string")}
    features |= {"image_id": datasets.Value("int64")} if with_ids else {}
    source = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    try:
        splits, report = load_with_report(
            source,
            seed=data.draw(st.integers(0, 9)),
            validation_fraction=0.3,
            test_fraction=0.3,
        )
    except DataError:
        assert not any(text.strip() for _, text in rows)
        return
    assert report.balanced and report.captions_in == len(rows)
    images = {}
    for name, rows_of_split in splits.items():
        for row in rows_of_split.cast_column("image", datasets.Image(decode=False)):
            assert images.setdefault(row["image"]["bytes"], name) == name
    expected = {number for number, text in rows if text.strip()}
    assert len(images) == sum(map(len, splits.values())) == len(expected)


def rows_of(names):
    rows = {
        "image": [jpeg(n) for n in range(len(names))],
        "caption": ["x"] * len(names),
        "image_id": list(names),
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_fractions_draw_what_is_missing_out_of_train():
    source = datasets.DatasetDict({"train": rows_of(range(10)), "test": rows_of("ab")})
    as_found = load_image_text_dataset(source)
    assert {name: len(rows) for name, rows in as_found.items()} == {"train": 10, "test": 2}
    drawn, report = load_with_report(source, validation_fraction=0.2)
    assert {name: len(rows) for name, rows in drawn.items()} == {"train": 8, "validation": 2, "test": 2}
    assert sorted(drawn["test"]["image_id"]) == ["a", "b"]
    assert report.split_rule.startswith(
        "as the data have them (train, test); out of train, drawn here by image"
    )
    with pytest.raises(DataError, match="has a test split of its own"):
        load_image_text_dataset(source, test_fraction=0.2)


def test_no_split_can_be_asked_for():
    source = rows_of(range(10))
    whole = load_image_text_dataset(source, validation_fraction=0, test_fraction=0)
    assert {name: len(rows) for name, rows in whole.items()} == {"train": 10}
    assert len(load_image_text_dataset(source, "all")) == 10


def test_seeds_differ_and_default_is_stated(tmp_path):
    source = rows_of(range(200))
    first, second = (load_image_text_dataset(source, "test", seed=seed)["image_id"][:] for seed in (1, 2))
    assert len(first) == len(second) == 10 and first != second
    assert first == load_image_text_dataset(source, "test", seed=1)["image_id"][:]


def test_a_list_of_other_images_is_refused(tmp_path):
    root, _ = karpathy(tmp_path)
    with pytest.raises(DataError, match="No image of Dataset is in the split list"):
        load_image_text_dataset(rows_of("ab"), karpathy_file=root / "dataset_flickr30k.json")
    with pytest.raises(DataError, match="leave the fractions out"):
        load_image_text_dataset(root, karpathy_file=root / "dataset_flickr30k.json", test_fraction=0.1)
    with pytest.raises(DataError, match="not a Karpathy file"):
        (tmp_path / "x.json").write_text("{}")
        load_image_text_dataset(rows_of(FLICKR), karpathy_file=tmp_path / "x.json")
