"""Promises pinned here: for every form that image-caption data come in, with its known quirks,

- the right images (known by their colour) stand beside the right captions, letter by letter, "NA" included;
- the splits are the data's own where there are any, val and dev read as validation, restval as train;
- no image is in two splits, and what went in equals what came out plus what the report names;
- a stream gives the same rows as the listing;
- other simple columns are kept only where asked for.
"""

import json
import shutil
import warnings
from collections import defaultdict

import datasets
import miniatures
import pytest
from miniatures import FLICKR, colours, jpeg

from hf_customclip.data import DataError, decode_image, load_image_text_dataset, load_with_report


def loaded(source, **options):
    splits, report = load_with_report(source, **options)
    assert report.balanced, report
    return splits, report


def captions_by_id(splits):
    return {row["image_id"]: row["captions"] for dataset in splits.values() for row in undecoded(dataset)}


def undecoded(dataset):
    return dataset.cast_column("image", datasets.Image(decode=False))


def ids(splits):
    return {name: list(dataset["image_id"]) for name, dataset in splits.items()}


def assert_columns(splits):
    for dataset in splits.values():
        assert dataset.column_names == ["image", "captions", "image_id"]
        assert isinstance(dataset.features["image"], datasets.Image)
        assert dataset.features["captions"].feature.dtype == "string"
        assert dataset.features["image_id"].dtype == "string"
        assert dataset[0]["image"].size == (16, 12)


def assert_images(splits, numbers):
    """Every row's image is the one whose number its id stands for."""
    for dataset in splits.values():
        for image_id, seen in zip(dataset["image_id"], colours(dataset), strict=True):
            expected = decode_image(jpeg(numbers[image_id])).convert("RGB").getpixel((0, 0))
            assert seen == list(expected), image_id


FLICKR_NUMBERS = {name: number for number, name in enumerate(FLICKR)}


def test_kaggle_flickr30k_with_its_broken_row(tmp_path):
    root, captions = miniatures.kaggle_flickr30k(tmp_path)
    splits, report = loaded(root)
    assert_columns(splits)
    assert captions_by_id(splits) == captions
    assert_images(splits, FLICKR_NUMBERS)
    assert captions["2199200615.jpg"][4] == "A dog runs across the grass ."
    assert report.problems.keys() == {"repaired_line"}
    assert report.problems["repaired_line"].names == ["results.csv line 11"]
    assert "seed 42" in report.split_rule
    assert {name: len(dataset) for name, dataset in splits.items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }


@pytest.mark.parametrize("nesting", [("flickr30k_images",), ("flickr30k_images", "flickr30k_images")])
def test_kaggle_flickr30k_from_any_folder_on_the_way(tmp_path, nesting):
    root, captions = miniatures.kaggle_flickr30k(tmp_path)
    splits, _ = loaded(root.joinpath(*nesting))
    assert captions_by_id(splits) == captions
    by_file, _ = loaded(root / "flickr30k_images" / "results.csv")
    assert captions_by_id(by_file) == captions and ids(by_file) == ids(splits)


def test_kaggle_flickr30k_unpacked_with_a_third_nesting_of_everything(tmp_path):
    root, captions = miniatures.kaggle_flickr30k(tmp_path)
    inner = root / "flickr30k_images" / "flickr30k_images"
    shutil.copytree(inner, inner / "flickr30k_images")
    splits, report = loaded(root)
    assert captions_by_id(splits) == captions
    assert len(report.problems["second_copy"].names) == 5


def test_kaggle_flickr30k_with_the_karpathy_split(tmp_path):
    root, captions = miniatures.kaggle_flickr30k(tmp_path / "kaggle")
    content = miniatures.karpathy_content(dict(list(captions.items())[:4]), ["test", "val", "train", "train"])
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(content))
    splits, report = loaded(root, karpathy_file=tmp_path / "dataset_flickr30k.json")
    assert ids(splits) == {"train": FLICKR[2:4], "validation": [FLICKR[1]], "test": [FLICKR[0]]}
    assert report.split_rule == "as in dataset_flickr30k.json"
    assert report.problems["unlisted_image"].names == [FLICKR[4]]  # as 769 of the real ones are
    assert report.problems["unlisted_image"].captions == 5


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("header", ["image_name,comment_number,comment", "image,caption", None])
def test_kaggle_captions_txt(tmp_path, header, quoted):
    miniatures.write_images(tmp_path / "Images", FLICKR)
    captions = miniatures.captions_of(FLICKR)
    captions[FLICKR[0]][0] = 'He said "hi" , and a 12" ruler , too .'
    numbered = header != "image,caption"
    lines = [header] if header else []
    for name, texts in captions.items():
        for k, text in enumerate(texts):
            cell = '"' + text.replace('"', '""') + '"' if quoted else text
            lines.append(",".join([name, str(k), cell] if numbered else [name, cell]))
    (tmp_path / "captions.txt").write_text("\n".join(lines), encoding="utf-8")
    splits, report = loaded(tmp_path)
    assert captions_by_id(splits) == captions
    assert not report.problems


def test_original_token_file(tmp_path):
    root, captions = miniatures.token_file(tmp_path)
    splits, report = loaded(root)
    assert_columns(splits)
    assert captions_by_id(splits) == captions
    assert_images(splits, FLICKR_NUMBERS)
    assert not report.problems


def test_every_flickr30k_text_form_gives_the_same_split(tmp_path):
    kaggle, _ = loaded(miniatures.kaggle_flickr30k(tmp_path / "kaggle")[0])
    token, _ = loaded(miniatures.token_file(tmp_path / "token")[0])
    assert ids(kaggle) == ids(token)


def test_karpathy_json(tmp_path):
    root, captions = miniatures.karpathy(tmp_path)
    splits, report = loaded(root)
    assert_columns(splits)
    assert captions_by_id(splits) == captions
    assert_images(splits, FLICKR_NUMBERS)
    assert ids(splits) == {
        "train": [FLICKR[0], FLICKR[1], FLICKR[4]], "validation": [FLICKR[2]], "test": [FLICKR[3]],
    }  # fmt: skip
    assert report.split_rule == "as the data have them (train, validation, test)"


def test_karpathy_json_beside_other_captions_wins_and_with_images_elsewhere(tmp_path):
    root, captions = miniatures.karpathy(tmp_path / "data")
    shutil.move(root / "flickr30k-images", tmp_path / "images")
    splits, _ = loaded(root / "dataset_flickr30k.json", images=tmp_path / "images")
    assert captions_by_id(splits) == captions
    with pytest.raises(DataError, match="images=FOLDER"):
        load_image_text_dataset(root)


def test_karpathy_coco_with_restval(tmp_path):
    root, captions = miniatures.karpathy_coco(tmp_path)
    splits, _ = loaded(root)
    assert captions_by_id(splits) == captions
    assert ids(splits) == {"train": ["522418", "318219"], "validation": ["184613"], "test": ["391895"]}


def test_flickr8k_with_its_split_lists(tmp_path):
    root, captions = miniatures.flickr8k(tmp_path)
    names = list(captions)
    splits, report = loaded(root)
    assert ids(splits) == {"train": names[:4], "validation": names[4:5], "test": names[5:7]}
    assert captions_by_id(splits) == {name: captions[name] for name in names[:7]}
    assert report.problems["missing_image"].names == ["2258277193_586949ec62.jpg.1"]
    assert report.problems["missing_image"].captions == 5
    assert report.problems["unlisted_image"].names == [names[7]]


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_annotations(tmp_path, year):
    root, captions = miniatures.coco(tmp_path, year)
    splits, _ = loaded(root)
    assert_columns(splits)
    assert captions_by_id(splits) == captions
    assert ids(splits) == {"train": ["9", "25", "30"], "validation": ["139", "285"]}
    one, _ = loaded(root / "annotations" / f"captions_train{year}.json", images=root / f"train{year}")
    assert captions_by_id(one) == {number: captions[number] for number in ("9", "25", "30")}


def test_coco_of_two_years_is_not_mixed(tmp_path):
    miniatures.coco(tmp_path / "a", "2014")
    miniatures.coco(tmp_path / "b", "2017")
    with pytest.raises(DataError, match="captions_file="):
        load_image_text_dataset(tmp_path)
    splits, _ = loaded(tmp_path, captions_file="a/annotations/captions_train2014.json")
    assert sorted(captions_by_id(splits)) == ["25", "30", "9"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_imagefolder_with_metadata_and_the_same_names_in_every_split(tmp_path, suffix):
    root, captions = miniatures.imagefolder(tmp_path, suffix)
    splits, _ = loaded(root)
    assert_columns(splits)
    assert captions_by_id(splits) == {f"{split}/{name}": texts for (split, name), texts in captions.items()}
    assert list(splits) == ["train", "validation", "test"]


def test_imagefolder_without_splits_and_with_subfolders(tmp_path):
    miniatures.write_images(tmp_path, ["a/1.jpg", "b/1.jpg"])
    (tmp_path / "metadata.csv").write_text("file_name,caption\na/1.jpg,first\nb/1.jpg,second\n")
    splits, _ = loaded(tmp_path, split=None)
    assert captions_by_id(splits) == {"a/1.jpg": ["first"], "b/1.jpg": ["second"]}


TABLES = {
    "nlphuji/flickr30k, cloned": (
        'raw,sentids,split,filename,img_id\n"[""one"", ""two""]","[0, 1]",train,1.jpg,0\n'
    ),
    "several caption columns": "file_name,caption_1,caption_0\n1.jpg,two,one\n",
    "a list as JSON": 'filename,raw,split\n1.jpg,"[""one"", ""two""]",train\n',
    "a list as Python prints it": "img,captions\n1.jpg,\"['one', 'two']\"\n",
    "a row for each caption": "image_path;text\nsub/1.jpg;one\nsub/1.jpg;two\n",
    "tabs": "image\tdescription\n1.jpg\tone\n1.jpg\ttwo\n",
    "captions first": "caption,image\none,1.jpg\ntwo,1.jpg\n",
    "names without a suffix": "image_id,caption\n1,one\n1,two\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES.keys())
def test_tables(tmp_path, text):
    miniatures.write_images(tmp_path / "sub", ["1.jpg"])
    (tmp_path / "my data.csv").write_text(text)
    (tmp_path / f"{tmp_path.name}.py").write_text("import datasets")  # a loading script is no obstacle
    options = {"image_column": "image_id"} if "image_id" in text else {}
    splits, _ = loaded(tmp_path, **options)
    assert list(captions_by_id(splits).values()) == [["one", "two"]]


RECORDS = [
    {"image": "1.jpg", "caption": "one"},
    {"image": "1.jpg", "caption": ["two", "null"]},
    {"image": "1.jpg", "sentences": [{"raw": "x"}], "caption": "NA"},
]


@pytest.mark.parametrize("form", ["jsonl", "list", "lines under .json"])
def test_json_records(tmp_path, form):
    miniatures.write_images(tmp_path, ["1.jpg"])
    lines = "\n".join(json.dumps(row) for row in RECORDS)
    name, text = ("c.jsonl", lines) if form == "jsonl" else ("c.json", lines)
    (tmp_path / name).write_text(json.dumps(RECORDS) if form == "list" else text)
    splits, _ = loaded(tmp_path)
    assert list(captions_by_id(splits).values()) == [["one", "two", "null", "NA"]]


def test_a_file_for_each_split(tmp_path):
    miniatures.write_images(tmp_path / "images", ["1.jpg", "2.jpg", "3.jpg"])
    for number, name in enumerate(["train.csv", "dev.csv", "test.csv"], 1):
        (tmp_path / name).write_text(f"image,caption\n{number}.jpg,text {number}\n")
    splits, _ = loaded(tmp_path)
    assert ids(splits) == {"train": ["1.jpg"], "validation": ["2.jpg"], "test": ["3.jpg"]}


def test_a_split_column(tmp_path):
    miniatures.write_images(tmp_path, FLICKR)
    rows = zip(FLICKR, ["train", "restval", "dev", "test", "extra"], strict=True)
    lines = [f"{name},a caption,{split}" for name, split in rows]
    (tmp_path / "data.csv").write_text("\n".join(["image,caption,split", *lines]))
    splits, _ = loaded(tmp_path)
    assert ids(splits) == {
        "train": FLICKR[:2], "validation": [FLICKR[2]], "test": [FLICKR[3]], "extra": [FLICKR[4]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "names"),
    [("caption", ("train", "val", "test")), ("alt_text", ("train", "validation", "test"))],
)
def test_hub_parquet_with_splits(tmp_path, caption, names):
    root, captions = miniatures.hub_parquet(tmp_path, caption, names)
    splits, report = loaded(root)
    assert_columns(splits)
    assert {n: len(d) for n, d in splits.items()} == {"train": 4, "validation": 3, "test": 2}
    assert sorted(map(str, captions_by_id(splits).values())) == sorted(map(str, captions.values()))
    assert not report.problems


def test_hub_parquet_that_numbers_each_split_from_zero(tmp_path):
    root, _ = miniatures.hub_parquet(tmp_path)
    for number, path in enumerate(sorted((root / "data").iterdir())):
        rows = datasets.Dataset.from_parquet(str(path)).remove_columns(["img_id", "filename"])
        rows = rows.add_column("image_id", list(range(len(rows)))).remove_columns("split")
        images = [
            {"bytes": jpeg(50 * number + n, (16, 12 + n)), "path": "image.jpg"} for n in range(len(rows))
        ]
        rows = rows.remove_columns("image").add_column("image", images).cast_column("image", datasets.Image())
        rows.to_parquet(path)
    splits, report = loaded(root)
    everything = [image_id for names in ids(splits).values() for image_id in names]
    assert len(set(everything)) == len(everything) == 9
    assert not report.problems


def test_hub_parquet_with_a_image_in_two_splits_is_told(tmp_path):
    root, _ = miniatures.saved_to_disk(tmp_path / "saved")
    _, report = loaded(root)
    assert report.problems["split_conflict"].names == ["0 (test)"]


def test_hub_data_all_in_one_split_called_test(tmp_path):
    root, captions = miniatures.hub_test_only(tmp_path / "data")
    with pytest.warns(UserWarning, match="no train split, only test.*karpathy_file=") as warned:
        splits, _ = loaded(root)
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    assert ids(splits) == {"test": ["0", "1", "2", "3", "4"]}
    with pytest.warns(UserWarning), pytest.raises(DataError, match="no split 'train'"):
        load_image_text_dataset(root, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_image_text_dataset(root, "test")) == len(load_image_text_dataset(root, "all")) == 5
    drawn, report = loaded(root, test_fraction=0.2)
    assert {name: len(dataset) for name, dataset in drawn.items()} == {"train": 3, "validation": 1, "test": 1}
    assert "seed 42" in report.split_rule
    content = miniatures.karpathy_content(captions, ["train", "train", "val", "test", "train"])
    (tmp_path / "k.json").write_text(json.dumps(content))
    karpathy, _ = loaded(root, karpathy_file=tmp_path / "k.json")
    assert ids(karpathy) == {"train": ["0", "1", "4"], "validation": ["2"], "test": ["3"]}


@pytest.mark.parametrize("with_names", [True, False])
def test_hub_rows_of_one_caption_are_gathered_by_image(tmp_path, with_names):
    root, captions = miniatures.hub_long(tmp_path, with_names=with_names)
    splits, _ = loaded(root)
    found = captions_by_id(splits)
    assert sorted(map(str, found.values())) == sorted(map(str, captions.values()))
    assert not with_names or found == captions
    assert not with_names or assert_images(splits, FLICKR_NUMBERS) is None


def test_parquet_with_names_of_images(tmp_path):
    miniatures.write_images(tmp_path / "images", FLICKR)
    captions = miniatures.captions_of(FLICKR)
    rows = {"file_name": [f"images/{name}" for name in captions], "captions": list(captions.values())}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    splits, _ = loaded(tmp_path)
    assert captions_by_id(splits) == {f"images/{name}": texts for name, texts in captions.items()}
    elsewhere, _ = loaded(tmp_path / "train.parquet", images=tmp_path)
    assert ids(elsewhere) == ids(splits)


def test_parquet_with_names_and_a_file_for_each_split(tmp_path):
    miniatures.write_images(tmp_path / "images", ["1.jpg", "2.jpg", "3.jpg"])
    for split, name in (("train", "1.jpg"), ("val", "2.jpg"), ("test", "3.jpg")):
        rows = {"file_name": [name], "caption": [f"in {split}"], "image_id": [0]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    splits, report = loaded(tmp_path)
    assert ids(splits) == {"train": ["1.jpg"], "validation": ["2.jpg"], "test": ["3.jpg"]}
    assert not report.problems


def test_parquet_with_bare_bytes(tmp_path):
    rows = {"photo": [jpeg(n) for n in range(4)], "text": ["NA", "b", "c", "d"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "x.parquet")
    splits, _ = loaded(tmp_path / "x.parquet")
    assert_columns(splits)
    assert sorted(captions_by_id(splits).values()) == [["NA"], ["b"], ["c"], ["d"]]


def test_saved_to_disk_and_data_sets_in_memory(tmp_path):
    root, captions = miniatures.saved_to_disk(tmp_path / "saved")
    splits, report = loaded(root)
    assert_columns(splits)
    assert report.form == "data set saved by save_to_disk"
    in_memory, _ = loaded(datasets.load_from_disk(str(root)))
    assert ids(in_memory) == ids(splits)
    shuffled = datasets.load_from_disk(str(root))["train"].shuffle(seed=1)
    one, _ = loaded(shuffled, split="all")
    assert {row["image_id"]: row["captions"] for row in one} == dict(
        zip("01234", captions.values(), strict=True)
    )


@pytest.mark.parametrize("text", ["json", "txt"])
def test_webdataset_shards(tmp_path, text):
    root, captions = miniatures.webdataset(tmp_path, text=text)
    splits, _ = loaded(root)
    assert_columns(splits)
    assert captions_by_id(splits) == captions
    assert_images(splits, {name.removesuffix(".jpg"): n for name, n in FLICKR_NUMBERS.items()})
    for pattern in ("shard-*.tar", "shard-{000..001}.tar"):
        assert ids(loaded(str(root / pattern))[0]) == ids(splits)


STREAMED = {
    "kaggle": miniatures.kaggle_flickr30k,
    "karpathy": miniatures.karpathy,
    "parquet": miniatures.hub_parquet,
    "long": miniatures.hub_long,
    "webdataset": miniatures.webdataset,
}


@pytest.mark.parametrize("form", STREAMED)
def test_a_stream_gives_the_rows_of_the_listing(tmp_path, form):
    root, _ = STREAMED[form](tmp_path)
    listed, streams = load_image_text_dataset(root), load_image_text_dataset(root, streaming=True)
    assert isinstance(streams, datasets.IterableDatasetDict) and list(streams) == list(listed)
    streamed = defaultdict(list)
    for stream in streams.values():
        for row in stream:
            assert row["image"].size == (16, 12)
            streamed[row["image_id"]] += row["captions"]
    assert streamed == captions_by_id(listed)
    splits_of = {name: {row["image_id"] for row in stream} for name, stream in streams.items()}
    assert sum(map(len, splits_of.values())) == len(streamed)  # no image in two splits


def test_one_split_or_all(tmp_path):
    root, captions = miniatures.karpathy(tmp_path)
    assert list(load_image_text_dataset(root, "val")["image_id"]) == [FLICKR[2]]
    assert list(load_image_text_dataset(root, split="validation")["image_id"]) == [FLICKR[2]]
    assert sorted(load_image_text_dataset(root, "all")["image_id"]) == sorted(captions)
    assert [row["image_id"] for row in load_image_text_dataset(root, "dev", streaming=True)] == [FLICKR[2]]
    with pytest.raises(DataError, match="no split 'tset', only train, validation, test"):
        load_image_text_dataset(root, "tset")


def test_columns_by_name(tmp_path):
    rows = {
        "a": [jpeg(0), jpeg(1)],
        "b": [jpeg(2), jpeg(3)],
        "x": ["1", "2"],
        "y": ["3", "4"],
        "k": ["p", "q"],
    }
    source = datasets.Dataset.from_dict(rows)
    options = {"image_column": "b", "caption_column": ["y", "x"], "image_id_column": "k"}
    splits, _ = loaded(source, **options)
    assert captions_by_id(splits) == {"p": ["3", "1"], "q": ["4", "2"]}
    assert_images(splits, {"p": 2, "q": 3})
    with pytest.raises(DataError, match="No column looks like the captions; the columns are a, b, x, y, k"):
        load_image_text_dataset(source)
    with pytest.raises(DataError, match="holds neither images nor names: List"):
        lists = source.add_column("images", [[jpeg(0)], [jpeg(1)]])
        load_image_text_dataset(lists, image_column="images", caption_column="x")
    with pytest.raises(DataError, match="There is no column 'z'"):
        load_image_text_dataset(source, caption_column="z")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_ids_by_hand_may_join_images_that_belong_together(tmp_path, form):
    """Frames of one film: never negatives of each other, and in one split."""
    miniatures.write_images(tmp_path, [f"{n}.jpg" for n in range(8)])
    if form == "csv":
        lines = [f"{n}.jpg,frame {n},film {n // 4}" for n in range(8)]
        (tmp_path / "c.csv").write_text("\n".join(["image,caption,film", *lines]))
    else:
        rows = {"image": [jpeg(n) for n in range(8)], "caption": [f"frame {n}" for n in range(8)]}
        rows["film"] = [f"film {n // 4}" for n in range(8)]
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    source = tmp_path if form == "csv" else tmp_path / "train.parquet"
    everything, _ = loaded(source, split="all", image_id_column="film")
    assert sorted(zip(everything["image_id"], everything["captions"], strict=True)) == [
        (f"film {n // 4}", [f"frame {n}"]) for n in range(8)
    ]
    splits, _ = loaded(source, image_id_column="film", validation_fraction=0, test_fraction=0.4)
    assert list(splits) == ["train"]  # of two films none can be spared


def test_a_slice_of_a_split_is_that_split():
    rows = datasets.Dataset.from_dict(
        {"image": [jpeg(n) for n in range(9)], "caption": ["a"] * 9}, split="train[:9]"
    )
    assert list(loaded(rows)[0]) == ["train", "validation", "test"]


def test_records_in_columns(tmp_path):
    """COCO copies on the Hub hold each caption in a record, one or several a row."""
    said = [[{"raw": "one", "sentid": 1}, {"raw": "NA", "sentid": 2}], [{"raw": "three", "sentid": 3}]]
    rows = {"image": [jpeg(0), jpeg(1)], "cocoid": [7, 8], "sentences": said}
    splits, _ = loaded(datasets.Dataset.from_dict(rows))
    assert captions_by_id(splits) == {"7": ["one", "NA"], "8": ["three"]}
    rows = {"image": [jpeg(0), jpeg(0)], "cocoid": [7, 7], "sentences": [said[0][0], said[0][1]]}
    splits, _ = loaded(datasets.Dataset.from_dict(rows))
    assert captions_by_id(splits) == {"7": ["one", "NA"]}


def test_a_stream_whose_columns_are_not_declared():
    def rows():
        for number in range(4):
            yield {"image": {"bytes": jpeg(number), "path": f"{number}.jpg"}, "text": f"text {number}"}

    stream = load_image_text_dataset(datasets.IterableDataset.from_generator(rows), "all", streaming=True)
    assert {row["image_id"]: row["captions"] for row in stream} == {
        f"{n}.jpg": [f"text {n}"] for n in range(4)
    }


def test_a_stream_through_data_loading_workers(tmp_path):
    from torch.utils.data import DataLoader

    root, captions = miniatures.kaggle_flickr30k(tmp_path)
    stream = load_image_text_dataset(root, "all", streaming=True).select_columns(["image_id"])
    seen = [
        image_id
        for batch in DataLoader(stream, num_workers=2, batch_size=2)
        for image_id in batch["image_id"]
    ]
    assert sorted(seen) == sorted(captions)


def test_simple_columns_are_kept_where_asked_for():
    columns = {
        "image": [{"bytes": jpeg(number), "path": None} for number in (1, 2, 2)],
        "caption": ["a", "b", "c"],
        "year": [2000, 2001, 2002],
        "label": [0, 1, 0],
        "box": [[1], [2], [3]],
        "raw": [b"x"] * 3,
    }
    source = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    source = source.cast_column("label", datasets.ClassLabel(names=["x", "y"]))
    plain = load_image_text_dataset(source, split="all")
    kept = load_image_text_dataset(source, split="all", keep_columns=True)
    assert set(plain.column_names) == {"image", "captions", "image_id"}
    assert set(kept.column_names) - set(plain.column_names) == {"year", "label"}
    rows = zip(kept["captions"], kept["year"], kept["label"], strict=True)
    assert sorted(rows) == [(["a"], 2000, 0), (["b", "c"], 2001, 1)]
    assert kept["image_id"][:] == plain["image_id"][:]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_simple_columns_of_named_images_are_kept_where_asked_for(tmp_path, form):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    rows = {
        "image": ["0.jpg", "1.jpg", "1.jpg", "2.jpg"],
        "caption": ["a", "b", "c", "d"],
        "price": [1.5, 20.0, 99.0, None],
        "year": [2000, 2001, 2001, 2002],
        "sku": ["007", "x", "y", "012"],
    }
    file = tmp_path / f"shop.{form}"
    written = datasets.Dataset.from_dict(rows)
    {"csv": written.to_csv, "jsonl": written.to_json, "parquet": written.to_parquet}[form](file)
    assert load_image_text_dataset(file, "all").column_names == ["image", "captions", "image_id"]
    kept = load_image_text_dataset(file, "all", keep_columns=True, group_column="sku")
    found = zip(*(kept[name][:] for name in ("captions", "price", "year", "sku")), strict=True)
    assert sorted(found) == [
        (["a"], 1.5, 2000, "007"),
        (["b", "c"], 20.0, 2001, "x"),
        (["d"], None, 2002, "012"),
    ]
