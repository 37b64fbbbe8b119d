"""Promises pinned here: captions in several languages,

- come out of every form in which they are given, letter by letter, each with its language, none lost;
- `languages=` keeps the ones asked for in any form, and the report names and counts the rest;
- a plain `captions` column is read alone unless languages are asked for, and is English beside `captions_de`;
- what looks like a language and is none (`caption_id`, `comment_no`, `id`) is taken for none;
- a stream gives the same captions and languages as the listing;
- a file of captions with a line too few is refused by name.
"""

import gzip
import json

import datasets
import miniatures
import pytest

from hf_customclip.data import DataError, load_image_text_dataset, load_with_report
from hf_customclip.data.languages import language_code, language_of_column, languages_of_keys

NAMES = ["1000092795.jpg", "2199200615.jpg", "1001773457.jpg"]
# The second image has no German caption, the third has two Chinese ones.
SAID = {
    NAMES[0]: {"en": ["A dog runs ."], "de": ["Ein Hund läuft ."], "zh": ["一只狗在跑。"]},
    NAMES[1]: {"en": ["NA"], "de": [], "zh": ["null"]},
    NAMES[2]: {"en": ["Two boys ."], "de": ["Zwei Jungen ."], "zh": ["两个男孩。", "男孩们。"]},
}
EVERYTHING = sorted(
    (name, language, text)
    for name, languages in SAID.items()
    for language, texts in languages.items()
    for text in texts
)


def images(root):
    miniatures.write_images(root / "images", NAMES)
    return root


def as_columns(root):
    rows = [
        {
            "image": {"bytes": miniatures.jpeg(number), "path": name},
            "captions": said["en"],
            "captions_de": said["de"],
            "captions_zh": said["zh"],
        }
        for number, (name, said) in enumerate(SAID.items())
    ]
    features = datasets.Features(
        {"image": datasets.Image()}
        | {
            name: datasets.List(datasets.Value("string"))
            for name in ("captions", "captions_de", "captions_zh")
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(root / "train.parquet")
    return root


def write_lines(root, name, rows):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (images(root) / name).write_text(text + "\n", encoding="utf-8")
    return root


def as_bare_keys(root):
    return write_lines(root, "captions.jsonl", [{"file_name": name, **said} for name, said in SAID.items()])


def as_record_of_languages(root):
    return write_lines(
        root, "captions.jsonl", [{"image": name, "caption": said} for name, said in SAID.items()]
    )


def as_list_of_records(root):
    rows = [
        {
            "image": name,
            "captions": [
                {"text": text, "language": language} for language, texts in said.items() for text in texts
            ],
        }
        for name, said in SAID.items()
    ]
    return write_lines(root, "captions.jsonl", rows)


def as_crossmodal(root):
    rows = [
        {
            "image/key": name.removesuffix(".jpg"),
            "image/locale": "de",
            **{
                language: {"caption": texts, "caption/tokenized": [text.lower() for text in texts]}
                for language, texts in said.items()
            },
        }
        for name, said in SAID.items()
    ]
    return write_lines(root, "captions.jsonl", rows)


def as_language_column(root):
    lines = ["image,language,caption"]
    lines += [f"{name},{language},{text}" for name, language, text in EVERYTHING]
    (images(root) / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def as_saved(root):
    loaded = load_image_text_dataset(
        as_columns(root), languages="all", test_fraction=0, validation_fraction=0
    )
    loaded.save_to_disk(root / "saved")
    return root / "saved"


FORMS = [
    *(as_columns, as_bare_keys, as_record_of_languages, as_list_of_records, as_crossmodal),
    *(as_language_column, as_saved),
]


def triples(splits):
    return sorted(
        (row["image_id"], language, text)
        for rows in splits.values()
        for row in rows.select_columns(["image_id", "captions", "languages"])
        for language, text in zip(row["languages"], row["captions"], strict=True)
    )


def with_names(found):
    """Image ids with their suffix, which some forms leave out."""
    return sorted((name.removesuffix(".jpg") + ".jpg", language, text) for name, language, text in found)


@pytest.mark.parametrize("write", FORMS)
def test_nothing_is_lost(write, tmp_path):
    splits, report = load_with_report(write(tmp_path), languages="all")
    assert with_names(triples(splits)) == EVERYTHING
    assert report.balanced and not report.problems
    assert report.languages == {"zh": 4, "en": 3, "de": 2}
    assert "languages          zh: 4, en: 3, de: 2" in str(report)


@pytest.mark.parametrize("write", FORMS)
def test_only_the_languages_asked_for(write, tmp_path):
    splits, report = load_with_report(write(tmp_path), languages=["de", "zh"])
    assert with_names(triples(splits)) == [found for found in EVERYTHING if found[1] != "en"]
    assert report.balanced and report.problems["other_language"].captions == 3
    with pytest.raises(DataError, match="no caption in fr; it has"):
        load_image_text_dataset(
            tmp_path if write is not as_saved else tmp_path / "saved", languages=["zh", "fr"]
        )


@pytest.mark.parametrize("write", [as_columns, as_saved])
def test_a_stream_says_the_same(write, tmp_path):
    options = {"languages": "all", "test_fraction": 0, "validation_fraction": 0}
    folder = write(tmp_path)
    listed = load_image_text_dataset(folder, "train", **options)
    streamed = load_image_text_dataset(
        folder if write is as_columns else listed.to_iterable_dataset(), "train", streaming=True, **options
    )
    wanted = [(row["captions"], row["languages"]) for row in listed]
    assert [(row["captions"], row["languages"]) for row in streamed] == wanted


def test_a_plain_column_is_read_alone_unless_languages_are_asked_for(tmp_path):
    plain = load_image_text_dataset(as_columns(tmp_path), "all")
    assert plain.column_names == ["image", "captions", "image_id"]
    assert plain["captions"][:] == [said["en"] for said in SAID.values()]
    english = load_image_text_dataset(tmp_path, "all", languages="en")
    assert english["captions"][:] == plain["captions"][:] and english["languages"][:] == [["en"]] * 3


def test_an_image_without_a_caption_in_the_language_is_named(tmp_path):
    rows, report = load_with_report(as_bare_keys(tmp_path), "all", languages=["de"])
    assert rows["image_id"][:] == [NAMES[0], NAMES[2]]
    assert report.balanced and report.problems["image_of_other_language"].images == 1
    assert len(load_image_text_dataset(tmp_path, "all", languages=["de"], on_error="raise")) == 2


@pytest.mark.parametrize("each", [1, 2])
def test_multi30k(each, tmp_path):
    (tmp_path / "image_splits").mkdir()
    (tmp_path / "raw").mkdir()
    miniatures.write_images(tmp_path / "flickr30k-images", NAMES)
    for split, names in (("train", NAMES[:2]), ("val", NAMES[2:])):
        (tmp_path / "image_splits" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for language in ("en", "de"):
            for number in range(1, each + 1):
                lines = [f"{language} {number} {name}" for name in names]
                stem = split if each == 1 else f"{split}.{number}"
                packed = gzip.compress(("\n".join(lines) + "\n").encode())
                (tmp_path / "raw" / f"{stem}.{language}.gz").write_bytes(packed)
    splits, report = load_with_report(tmp_path)
    assert {name: rows["image_id"][:] for name, rows in splits.items()} == {
        "train": NAMES[:2],
        "validation": NAMES[2:],
    }
    assert triples(splits) == sorted(
        (name, language, f"{language} {number} {name}")
        for name in NAMES
        for language in ("en", "de")
        for number in range(1, each + 1)
    )
    assert report.balanced and report.languages == {"de": 3 * each, "en": 3 * each}


def xtd(root):
    (root / "XTD10").mkdir()
    miniatures.write_images(root / "images", NAMES)
    (root / "XTD10" / "test_image_names.txt").write_text("\n".join(NAMES) + "\n")
    for language, texts in (("ko", ["개", "고양이", "소년"]), ("jp", ["犬", "猫", "少年"])):
        (root / "XTD10" / f"test_1kcaptions_{language}.txt").write_text(
            "\n".join(texts) + "\n", encoding="utf-8"
        )
    return root


def test_xtd(tmp_path):
    splits, report = load_with_report(xtd(tmp_path))
    assert list(splits) == ["test"] and report.balanced and report.languages == {"ja": 3, "ko": 3}
    assert splits["test"][0]["captions"] == ["犬", "개"] and splits["test"][0]["languages"] == ["ja", "ko"]


def test_a_line_too_few_is_refused(tmp_path):
    (xtd(tmp_path) / "XTD10" / "test_1kcaptions_ko.txt").write_text("개\n고양이\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"captions_ko\.txt has 2 lines, but .*names 3 images"):
        load_image_text_dataset(tmp_path)


@pytest.mark.parametrize(
    ("column", "language"),
    [
        *(("captions_de", "de"), ("caption_pt_BR", "pt-br"), ("text_zh-hant", "zh-hant")),
        *(("captions_zh_translated", "zh-translated"), ("caption_1_de", "de"), ("caption_de_2", "de")),
        *(("captions_id", "id"), ("caption_id", None), ("comment_no", None), ("captions", None)),
        *(("caption_number", None), ("text_length", None), ("image_de", None)),
    ],
)
def test_the_language_in_a_columns_name(column, language):
    assert language_of_column(column) == language


def test_codes():
    assert language_code(" PT_BR ") == "pt-br" and language_code("english") is None
    assert languages_of_keys(["id", "no", "image"]) == {} == languages_of_keys(["en", "image"])
    assert languages_of_keys(["en", "de", "id"]) == {"en": "en", "de": "de", "id": "id"}
