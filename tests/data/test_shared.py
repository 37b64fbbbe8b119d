"""Pins, on a shop's table of 100 products with 2 photographs and one title each: `title` is taken for the captions and
what is not used is said; a group column keeps a product's images in one split whatever the form of the data; the
report counts captions and groups that several images and several splits share; near-identical images too."""

import csv
import json
import os

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Images

from hf_customclip.data import inspect_source, load_image_text_dataset
from hf_customclip.data.inspection import inspect_captions
from hf_customclip.data.load import load_with_report
from hf_customclip.data.shared_captions import normalised, text_groups

PRODUCTS = 20


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Two photographs of each product, its title once in other letters and with other blanks."""
    folder, generator = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows = [("file_name", "sku", "title", "price")]
    for sku in range(PRODUCTS):
        spots = Images.fromarray(generator.integers(0, 255, (6, 6, 3), np.uint8))
        for side, title in (("front", f"Blue  mug no {sku}"), ("back", f"blue mug NO {sku}")):
            name = f"{sku}-{side}.png"
            image = spots if side == "front" else spots.point(lambda value: max(0, value - 9))
            image.resize((40, 40), Images.Resampling.BICUBIC).save(folder / name)
            rows.append((name, f"S{sku}", title, 9.5))
    with (folder / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def splits_of_products(splits):
    return {
        sku: {name for name, data in splits.items() if sku in data["group_id"]}
        for data in splits.values()
        for sku in data["group_id"]
    }


def parquet_of(shop, folder):
    with (shop / "products.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = {
        "image": [
            {"bytes": (shop / row["file_name"]).read_bytes(), "path": row["file_name"]} for row in rows
        ],
        "sku": [row["sku"] for row in rows],
        "title": [row["title"] for row in rows],
    }
    features = Features({"image": Image(), "sku": Value("string"), "title": Value("string")})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "shop.parquet")
    return folder / "shop.parquet"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_group_lies_in_one_split(form, shop, tmp_path):
    source = shop if form == "csv" else parquet_of(shop, tmp_path)
    shares = {"validation_fraction": 0.2, "test_fraction": 0.2}
    splits, report = load_with_report(source, group_column="sku", **shares)
    where = splits_of_products(splits)
    assert len(where) == PRODUCTS and all(len(names) == 1 for names in where.values())
    assert {name: len(data) for name, data in splits.items()} == {"train": 24, "validation": 8, "test": 8}
    assert "by group" in report.split_rule and splits["train"].features["group_id"] == Value("string")
    inspected = inspect_captions(splits, report)
    assert inspected.shared["groups in several splits"] == inspected.shared["captions in several splits"] == 0
    assert inspected.shared["groups of several images"] == PRODUCTS


def test_without_the_group_products_are_in_several_splits_and_the_report_says_so(shop):
    report = inspect_source(shop, test_fraction=0.3)
    splits = load_image_text_dataset(shop, test_fraction=0.3)
    titles = {name: {normalised(each[0]) for each in data["captions"]} for name, data in splits.items()}
    shared = (titles["train"] & titles["test"]) | (titles["train"] & titles["validation"])
    assert report.shared["captions"] == report.shared["captions of several images"] == PRODUCTS
    assert report.shared["captions in several splits"] >= len(shared) > 0
    assert "captions in several splits" in str(report)


def test_titles_are_captions_and_what_is_not_used_is_said(shop):
    report = inspect_source(shop)
    assert "captions from title; also there, not used: sku, price" in report.notes


def test_a_description_goes_before_the_title(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Images.new("RGB", (4, 4)).save(tmp_path / name)
    rows = [("image", "title", "description")] + [(f"{n}.png", n, f"a long text of {n}") for n in "abc"]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    data, report = load_with_report(tmp_path / "rows.csv", "all")
    assert sorted(data["captions"]) == [[f"a long text of {n}"] for n in "abc"]
    assert any("captions from description; also there, not used: title" in note for note in report.notes)


def test_near_duplicates_across_splits_are_named(shop):
    splits, report = load_with_report(shop, test_fraction=0.3)
    found = inspect_captions(splits, report, near_duplicates=True).near_duplicates
    alone = [data for data in splits.values()]
    products = [{os.path.basename(id).split("-")[0] for id in data["image_id"]} for data in alone]
    split_products = sum(len(one & other) for i, one in enumerate(products) for other in products[i + 1 :])
    assert len(found) == split_products > 0
    assert all(
        os.path.basename(pair.first).split("-")[0] == os.path.basename(pair.second).split("-")[0]
        for pair in found
    )


def test_equal_captions_and_groups_by_number(shop):
    data = load_image_text_dataset(shop, "all", group_column="sku")
    groups = text_groups(data)
    assert groups.shape == (2 * PRODUCTS, 2)
    for kind in groups.T:
        assert np.bincount(kind).tolist() == [2] * PRODUCTS


def test_full_paths_need_no_look_around(shop, tmp_path, monkeypatch):
    """A table of whole paths lies among files that have nothing to do with it: they are not even listed."""
    for number in range(5):
        Images.new("RGB", (4, 4)).save(tmp_path / f"stray-{number}.png")
    lines = [{"image": str(shop / f"{sku}-front.png"), "caption": f"mug {sku}"} for sku in range(PRODUCTS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    walked = []
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top, **options: walked.append(top) or walk(top, **options))
    data, report = load_with_report(tmp_path / "rows.jsonl", "all")
    assert len(data) == PRODUCTS == report.images_in and walked == [] and not report.problems


def test_a_stream_keeps_groups_together_too(shop, tmp_path):
    file = parquet_of(shop, tmp_path)
    options = {"group_column": "sku", "validation_fraction": 0.3, "test_fraction": 0.3}
    streams = load_image_text_dataset(file, streaming=True, **options)
    rows = {name: list(stream) for name, stream in streams.items()}
    splits = {sku: {n for n, of in rows.items() for row in of if row["group_id"] == sku} for sku in skus()}
    assert sum(map(len, rows.values())) == 2 * PRODUCTS and all(len(found) == 1 for found in splits.values())
    assert {name for found in splits.values() for name in found} == {"train", "validation", "test"}


def skus():
    return [f"S{number}" for number in range(PRODUCTS)]
