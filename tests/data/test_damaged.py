"""Promises pinned here: each kind of damaged or odd input has one stated outcome; nothing is lost silently.

- text damage is repaired or left out, named in the report, with counts that add up; `on_error="raise"` stops
  for what is left out and not for what is repaired;
- images that cannot be read are found by `verify=True`, and without it when they are used, by name;
- a source that cannot be used at all is refused in one sentence that says what to do.
"""

import json
import os
import unicodedata
from io import BytesIO

import datasets
import numpy as np
import PIL.Image
import pytest
from miniatures import FLICKR, jpeg, karpathy_content, write_images

from hf_customclip.data import (
    DataError,
    UnreadableImageError,
    decode_image,
    load_image_text_dataset,
    load_with_report,
    to_rgb,
)
from hf_customclip.data.report import KINDS

LONG = "word " * 50_000 + "end"
SEPARATORS = "one\u2028two\u0085three"  # str.splitlines would break this caption into three
TEXT_CASES = {
    # name: (file, its content, captions of 1.jpg and 2.jpg, problems as {kind: (cases, images, captions)})
    "sound": ("c.csv", "image,caption\n1.jpg,a\n2.jpg,b\n", ["a"], ["b"], {}),
    "empty caption": (
        "c.csv",
        "image,caption\n1.jpg,a\n1.jpg,\n2.jpg,b\n",
        ["a"],
        ["b"],
        {"empty_caption": (1, 0, 1)},
    ),
    "blank caption": (
        "r.token",
        "1.jpg#0\ta\n1.jpg#1\t  \n2.jpg#0\tb\n",
        ["a"],
        ["b"],
        {"empty_caption": (1, 0, 1)},
    ),
    "null caption": (
        "c.jsonl",
        '{"image":"1.jpg","caption":"a"}\n{"image":"2.jpg","caption":["b",null]}',
        ["a"],
        ["b"],
        {"empty_caption": (1, 0, 1)},
    ),
    "only an empty caption": (
        "c.csv",
        "image,caption\n1.jpg,a\n2.jpg,\n",
        ["a"],
        None,
        {"empty_caption": (1, 0, 1), "uncaptioned_image": (1, 1, 0)},
    ),
    "image without caption": (
        "c.csv",
        "image,caption\n1.jpg,a\n",
        ["a"],
        None,
        {"uncaptioned_image": (1, 1, 0)},
    ),
    "empty list of captions": (
        "c.jsonl",
        '{"image":"1.jpg","captions":["a"]}\n{"image":"2.jpg","captions":[]}',
        ["a"],
        None,
        {"uncaptioned_image": (1, 1, 0)},
    ),
    "captions without image": (
        "c.csv",
        "image,caption\n1.jpg,a\n2.jpg,b\n3.jpg,c\n3.jpg,d\n",
        ["a"],
        ["b"],
        {"missing_image": (1, 1, 2)},
    ),
    "token line without a tab": (
        "r.token",
        "1.jpg#0\ta\n1.jpg#1 a\n2.jpg#0\tb\n",
        ["a"],
        ["b"],
        {"broken_line": (1, 0, 1)},
    ),
    "bars: line without caption": (
        "results.csv",
        "image_name| comment_number| comment\n1.jpg| 0| a\n1.jpg\n2.jpg| 0| b\n",
        ["a"],
        ["b"],
        {"broken_line": (1, 0, 1)},
    ),
    "bars: second bar missing": (
        "results.csv",
        "image_name| comment_number| comment\n1.jpg| 4   a\n2.jpg| 0| b\n",
        ["a"],
        ["b"],
        {"repaired_line": (1, 0, 0)},
    ),
    "bars: a bar in the caption": (
        "results.csv",
        "image_name| comment_number| comment\n1.jpg| 0| a | b\n2.jpg| 0| b\n",
        ["a | b"],
        ["b"],
        {},
    ),
    "row too short": (
        "c.csv",
        "image,caption\n1.jpg,a\n2.jpg,b\nx\n",
        ["a"],
        ["b"],
        {"broken_line": (1, 0, 1)},
    ),
    "row without an image's name": (
        "c.csv",
        "image,caption\n1.jpg,a\n2.jpg,b\n,c\n",
        ["a"],
        ["b"],
        {"broken_line": (1, 0, 1)},
    ),
    "row too long": ("c.csv", "image,caption\n1.jpg,one, two\n2.jpg,b\n", ["one, two"], ["b"], {}),
    "quote never closed": (
        "c.csv",
        'image,caption\n1.jpg,"a\n2.jpg,b\n',
        ["a"],
        ["b"],
        {"repaired_line": (1, 0, 0)},
    ),
    "quoted caption of two lines": (
        "c.csv",
        'image,caption\n1.jpg,"one\ntwo"\n2.jpg,b\n',
        ["one\ntwo"],
        ["b"],
        {},
    ),
    "quote in the middle": (
        "c.csv",
        'image,caption\n1.jpg,a 12" ruler\n2.jpg,b\n',
        ['a 12" ruler'],
        ["b"],
        {},
    ),
    "quoted word first": (
        "c.csv",
        'image,caption\n1.jpg,"Hi" he said\n2.jpg,b\n',
        ['"Hi" he said'],
        ["b"],
        {},
    ),
    "JSON line broken off": (
        "c.jsonl",
        '{"image":"1.jpg","caption":"a"}\n{"image":"2.jpg","caption":"b"}\n{"image":"2.j',
        ["a"],
        ["b"],
        {"broken_line": (1, 0, 1)},
    ),
    "JSON line of another kind": (
        "c.jsonl",
        '{"image":"1.jpg","caption":"a"}\n[1]\n{"image":"2.jpg","caption":"b"}',
        ["a"],
        ["b"],
        {"broken_line": (1, 0, 1)},
    ),
    "texts that look like nothing": (
        "c.csv",
        "image,caption\n1.jpg,NA\n1.jpg,None\n1.jpg,null\n1.jpg,nan\n2.jpg,N/A\n",
        ["NA", "None", "null", "nan"],
        ["N/A"],
        {},
    ),
    "every script": (
        "c.csv",
        "image,caption\n1.jpg,👩‍👩‍👧 كلب يجري שלום\n2.jpg,犬が走る ё é\n",
        ["👩‍👩‍👧 كلب يجري שלום"],
        ["犬が走る ё é"],
        {},
    ),
    "very long caption": ("c.csv", f'image,caption\n1.jpg,"{LONG}"\n2.jpg,b\n', [LONG], ["b"], {}),
    "Unicode line separators": ("r.token", f"1.jpg#0\t{SEPARATORS}\n2.jpg#0\tb\n", [SEPARATORS], ["b"], {}),
    "byte order mark": ("c.csv", "\ufeffimage,caption\n1.jpg,a\n2.jpg,b\n", ["a"], ["b"], {}),
    "UTF-16": ("c.csv", "image,caption\n1.jpg,é\n2.jpg,b\n".encode("utf-16"), ["é"], ["b"], {}),
    "one line in Windows-1252": (
        "c.csv",
        "image,caption\n1.jpg,ё\n2.jpg,".encode() + b"caf\xe9\n",
        ["ё"],
        ["café"],
        {"not_utf8": (1, 0, 0)},
    ),
    "Windows line ends": ("r.token", "1.jpg#0\ta\r\n2.jpg#0\tb\r\n", ["a"], ["b"], {}),
    "old Macintosh line ends": ("c.csv", "image,caption\r1.jpg,a\r2.jpg,b\r", ["a"], ["b"], {}),
    "NUL bytes": ("c.csv", "image,caption\n1.jpg,a\0\n2.jpg,b\n", ["a"], ["b"], {}),
    "blank lines": ("c.csv", "\nimage,caption\n\n1.jpg,a\n\n\n2.jpg,b\n\n", ["a"], ["b"], {}),
    "shouted header with blanks": ("c.csv", " Image , CAPTION \n1.jpg,a\n2.jpg,b\n", ["a"], ["b"], {}),
    "backslashes": ("c.csv", "image,caption\nold\\1.jpg,a\n.\\2.jpg,b\n", ["a"], ["b"], {}),
    "rows twice": ("c.csv", "image,caption\n1.jpg,a\n2.jpg,b\n1.jpg,a\n", ["a", "a"], ["b"], {}),
    "an image in two splits": (
        "c.csv",
        "image,caption,split\n1.jpg,a,train\n2.jpg,b,train\n1.jpg,c,test\n",
        ["a", "c"],
        ["b"],
        {"split_conflict": (1, 0, 0)},
    ),
}


def loaded(source, **options):
    rows, report = load_with_report(source, "all", **options)
    assert report.balanced, report
    return rows, report


def found_problems(report):
    return {kind: (len(p.names), p.images, p.captions) for kind, p in report.problems.items()}


@pytest.mark.parametrize("case", TEXT_CASES)
def test_damaged_text(tmp_path, case):
    file, content, first, second, problems = TEXT_CASES[case]
    write_images(tmp_path, ["1.jpg", "2.jpg"])
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / file).write_bytes(content)
    rows, report = loaded(tmp_path)
    paths = rows.cast_column("image", datasets.Image(decode=False))
    captions = {os.path.basename(row["image"]["path"]): row["captions"] for row in paths}
    assert captions == {k: v for k, v in (("1.jpg", first), ("2.jpg", second)) if v is not None}
    assert found_problems(report) == problems
    assert all(name in str(report) for problem in report.problems.values() for name in problem.names)
    if any(KINDS[kind].stops for kind in problems):
        with pytest.raises(DataError, match=KINDS[next(iter(problems))].words):
            load_image_text_dataset(tmp_path, on_error="raise")
    else:
        assert len(load_image_text_dataset(tmp_path, "all", on_error="raise")) == len(rows)


def test_what_is_left_out_is_said_in_one_warning(tmp_path, caplog):
    write_images(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "c.csv").write_text("image,caption\n1.jpg,a\n1.jpg,\n3.jpg,b\n")
    load_image_text_dataset(tmp_path)
    (record,) = caplog.records
    assert (
        "empty captions, left out (1): 1.jpg" in record.message
        and "3.jpg" in record.message
        and "2.jpg" in record.message
    )


def test_coco_and_karpathy_damage(tmp_path):
    write_images(tmp_path / "val2017", ["1.jpg", "2.jpg"])
    images = [
        {"id": 1, "file_name": "1.jpg"},
        {"id": 2, "file_name": "2.jpg"},
        {"id": 3, "file_name": "3.jpg"},
    ]
    said = [(1, "a"), (9, "of no image"), (3, "of a lost image"), (1, "")]
    content = {"images": images, "annotations": [{"image_id": i, "caption": text} for i, text in said]}
    (tmp_path / "captions_val2017.json").write_text(json.dumps(content))
    rows, report = loaded(tmp_path)
    assert any("no train split, only validation" in note for note in report.notes)
    assert rows["captions"][:] == [["a"]]
    assert found_problems(report) == {
        "broken_line": (1, 0, 1),
        "empty_caption": (1, 0, 1),
        "missing_image": (1, 1, 1),
        "uncaptioned_image": (1, 1, 0),
    }


def test_karpathy_damage(tmp_path):
    write_images(tmp_path, ["1.jpg", "2.jpg"])
    content = karpathy_content({"1.jpg": ["a", ""], "2.jpg": [], "": ["lost", "lost"]}, ["train"] * 3)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    rows, report = loaded(tmp_path)
    assert rows["captions"][:] == [["a"]]
    assert found_problems(report) == {
        "broken_line": (1, 0, 2),
        "empty_caption": (1, 0, 1),
        "uncaptioned_image": (1, 1, 0),
    }


def test_rows_of_a_data_set_with_nothing_in_them():
    rows = {
        "image": [
            {"bytes": jpeg(0), "path": None},
            None,
            {"bytes": jpeg(2), "path": None},
            {"bytes": jpeg(3)},
        ],
        "captions": [["a", None, " "], ["of no image"], None, []],
        "image_id": ["p", "q", "r", "s"],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "image_id": datasets.Value("string"),
        }
    )
    kept, report = loaded(datasets.Dataset.from_dict(rows, features=features))
    assert kept["captions"][:] == [["a"]] and kept["image_id"][:] == ["p"]
    assert found_problems(report) == {
        "empty_caption": (3, 0, 3),
        "missing_image": (1, 1, 1),
        "uncaptioned_image": (2, 2, 0),
    }


def test_streamed_rows_with_nothing_in_them(tmp_path, caplog):
    rows = {"image": [jpeg(0), None, jpeg(2), b"junk"], "text": ["a", "b", "", "d"], "image_id": [0, 1, 2, 3]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "x.parquet")
    stream = load_image_text_dataset(
        tmp_path, streaming=True, verify=True, test_fraction=0, validation_fraction=0
    )
    assert [row["captions"] for row in stream["train"]] == [["a"]]
    told = " ".join(record.message for record in caplog.records)
    assert "1: no image" in told and "2: no caption" in told and "3: it is not in an image format" in told
    strict = load_image_text_dataset(tmp_path, "train", streaming=True, on_error="raise", test_fraction=0)
    with pytest.raises(DataError, match="no image"):
        list(strict)


def test_file_names_that_macos_decomposed(tmp_path):
    write_images(tmp_path, [unicodedata.normalize("NFD", "café.jpg")])
    (tmp_path / "c.csv").write_text(f"image,caption\n{unicodedata.normalize('NFC', 'café.jpg')},a\n")
    assert loaded(tmp_path)[0]["captions"][:] == [["a"]]


def test_absolute_paths_and_images_outside_the_folder(tmp_path):
    images = write_images(tmp_path / "elsewhere", ["1.jpg", "2.jpg"])
    data = write_images(tmp_path / "data", ["own.jpg"])
    lines = [f"{images / '1.jpg'},a", f"{data / 'own.jpg'},b", f"{images / 'none.jpg'},c"]
    (data / "c.csv").write_text("\n".join(["image,caption", *lines]))
    rows, report = loaded(data)
    assert sorted(rows["captions"][:]) == [["a"], ["b"]]
    assert report.problems["missing_image"].names == [str(images / "none.jpg")]


def test_hidden_and_macos_files_are_no_images(tmp_path):
    write_images(tmp_path, ["1.jpg", "._1.jpg", ".thumbs/1.jpg", "__MACOSX/1.jpg"])
    (tmp_path / "c.csv").write_text("image,caption\n1.jpg,a\n")
    rows, report = loaded(tmp_path)
    assert len(rows) == 1 and not report.problems


def test_linked_folders_are_followed_once(tmp_path):
    images = write_images(tmp_path / "elsewhere", ["1.jpg"])
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(images)
    (data / "loop").symlink_to(data)
    (data / "c.csv").write_text("image,caption\n1.jpg,a\n")
    assert len(loaded(data)[0]) == 1


def encoded(image, format, **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


NOISE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
UNREADABLE = {
    "empty file": (b"", "empty"),
    "a web page": (b"<html>Not found</html>", "not in an image format"),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "git lfs pull",
    ),
    "truncated JPEG": (encoded(NOISE, "JPEG")[:2000], "truncated"),
    "truncated PNG": (encoded(NOISE, "PNG")[:5000], "."),
    "damaged PNG": (encoded(NOISE, "PNG").replace(b"IDAT", b"XXXX"), "."),
    "decompression bomb": (encoded(PIL.Image.new("1", (20_000, 20_000)), "PNG"), "bomb"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_unreadable_images(tmp_path, kind, form):
    data, reason = UNREADABLE[kind]
    if form == "folder":
        write_images(tmp_path, ["1.jpg", "bad.jpg"])
        (tmp_path / "bad.jpg").write_bytes(data)
        (tmp_path / "c.csv").write_text("image,caption\n1.jpg,a\nbad.jpg,b\nbad.jpg,c\n")
    else:
        images = [{"bytes": jpeg(0), "path": "1.jpg"}, {"bytes": data, "path": "bad.jpg"}]
        columns = {"image": images, "captions": [["a"], ["b", "c"]]}
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "train.parquet")

    rows, report = loaded(tmp_path)  # listed all the same, since nothing is opened
    assert len(rows) == 2 and not report.problems
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    (bad,) = [row["image"] for row in undecoded if row["captions"] == ["b", "c"]]
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode_image(bad)
    assert caught.value.name.endswith("bad.jpg")

    kept, report = loaded(tmp_path, verify=True)
    assert kept["captions"][:] == [["a"]]
    assert found_problems(report) == {"unreadable_image": (1, 1, 2)}
    assert "bad.jpg" in report.problems["unreadable_image"].names[0]
    with pytest.raises(DataError, match=r"bad\.jpg"):
        load_image_text_dataset(tmp_path, verify=True, on_error="raise")


SEEN_AS = {
    "CMYK": (encoded(PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), (254, 0, 0)),
    "palette": (encoded(PIL.Image.new("RGB", (8, 8), "lime").convert("P"), "PNG"), (0, 255, 0)),
    "16 bit": (encoded(PIL.Image.fromarray(np.full((8, 8), 65535, np.uint16)), "PNG"), (255, 255, 255)),
    "alpha": (encoded(PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG"), (255, 255, 255)),
    "grey": (encoded(PIL.Image.new("L", (8, 8), 100), "PNG"), (100, 100, 100)),
    "animated": (
        encoded(
            PIL.Image.new("RGB", (8, 8), "red"),
            "GIF",
            save_all=True,
            append_images=[PIL.Image.new("RGB", (8, 8), "blue")],
        ),
        (255, 0, 0),
    ),
    "one pixel": (encoded(PIL.Image.new("RGB", (1, 1), "red"), "PNG"), (255, 0, 0)),
    "a very long strip": (encoded(PIL.Image.new("RGB", (5000, 1), "red"), "PNG"), (255, 0, 0)),
    "JPEG under the name of a PNG": (jpeg(0), (0, 0, 0)),
}


@pytest.mark.parametrize("kind", SEEN_AS)
def test_odd_but_readable_images_pass_verification_and_look_right(tmp_path, kind):
    data, colour = SEEN_AS[kind]
    (tmp_path / "odd.png").write_bytes(data)
    (tmp_path / "c.csv").write_text("image,caption\nodd.png,a\n")
    rows, report = loaded(tmp_path, verify=True)
    assert not report.problems
    seen = to_rgb(rows[0]["image"]).getpixel((0, 0))
    assert max(abs(a - b) for a, b in zip(seen, colour, strict=True)) <= 2, seen


def folder_with(tmp_path, images=(), **files):
    write_images(tmp_path, images)
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return tmp_path


REFUSED = {
    "empty folder": (lambda p: folder_with(p), "0 images but no captions file"),
    "images only": (lambda p: folder_with(p, ["1.jpg"]), r"1 images but no captions file. Known are"),
    "captions only": (
        lambda p: folder_with(p, c_csv="image,caption\n1.jpg,a"),
        "None of the 1 images.*images=",
    ),
    "addresses": (
        lambda p: folder_with(p, c_csv="image,caption\nhttps://x.org/1.jpg,a"),
        "have to be downloaded first",
    ),
    "empty captions file": (lambda p: folder_with(p, ["1.jpg"], captions_txt=""), "No column looks like"),
    "header only": (lambda p: folder_with(p, ["1.jpg"], captions_txt="image,caption\n"), "names no image"),
    "nothing but empty captions": (
        lambda p: folder_with(p, ["1.jpg"], captions_txt="image,caption\n1.jpg,\n"),
        "Nothing is left",
    ),
    "no captions column": (
        lambda p: folder_with(p, ["1.jpg"], captions_txt="image,size\n1.jpg,3"),
        "columns are image, size",
    ),
    "broken JSON": (lambda p: folder_with(p, ["1.jpg"], dataset_json='{"images": ['), "not valid JSON"),
    "JSON of another form": (lambda p: folder_with(p, ["1.jpg"], dataset_json='{"a": 1}'), "unknown form"),
    "two captions files": (
        lambda p: folder_with(p, ["1.jpg"], a_csv="image,caption\n1.jpg,a", b_csv="image,caption\n1.jpg,b"),
        "several captions files: a.csv, b.csv. Say which",
    ),
    "archive still packed": (
        lambda p: folder_with(p, c_csv="image,caption\n1.jpg,a", images_zip="PK"),
        "unpack images.zip first",
    ),
    "archive": (lambda p: folder_with(p, x_zip="PK") / "x.zip", "unpack it"),
    "an image": (lambda p: folder_with(p, ["1.jpg"]) / "1.jpg", "is an image"),
    "script data set on disk": (
        lambda p: folder_with(p, data_py="import datasets"),
        "scripts no longer load",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_sentence(tmp_path, kind):
    make, message = REFUSED[kind]
    folder = tmp_path / "data"
    folder.mkdir()
    source = make(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_image_text_dataset(source)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_image_text_dataset(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_image_text_dataset("./nothing/here")
    with pytest.raises(FileNotFoundError, match="No file matches"):
        load_image_text_dataset(str(tmp_path / "*.tar"))
    write_images(tmp_path, FLICKR)
    with pytest.raises(FileNotFoundError, match=r"no folder.*images="):
        load_image_text_dataset(tmp_path, images=tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no captions file"):
        load_image_text_dataset(tmp_path, captions_file="c.csv")
    with pytest.raises(DataError, match="no Karpathy file"):
        load_image_text_dataset(tmp_path, karpathy_file=tmp_path / "k.json")
    with pytest.raises(ValueError, match="on_error"):
        load_image_text_dataset(tmp_path, on_error="ignore")


def test_scripts_of_the_hub_are_answered_without_the_hub():
    with pytest.raises(
        DataError, match=r"nlphuji/flickr30k is a script.*umaru97/flickr30k_train_val_test"
    ) as caught:
        load_image_text_dataset("nlphuji/flickr30k")
    assert "AnyModal/flickr30k" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unreachable_hub_is_one_sentence():
    with pytest.raises(DataError, match="Hub cannot be reached, so 'someone/images' cannot be loaded"):
        load_image_text_dataset("someone/images")
