"""Pins: what is to be checked comes from folders, images, CSV and JSONL files; a wrong row is named by its line."""

import pytest
from tiny import tiny_dataset

from hf_customclip.moderation import Item, read_items


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, image in zip(["b.png", "sub/a.png"], tiny_dataset(2)["image"], strict=True):
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_and_a_image(folder):
    assert read_items(folder) == [Item(str(folder / "b.png")), Item(str(folder / "sub" / "a.png"))]
    assert read_items(folder / "b.png") == [Item(str(folder / "b.png"))]


def test_json_lines(folder):
    file = folder / "posts.jsonl"
    file.write_text(
        '{"path": "b.png", "text": "hello", "categories": ["x", "y"], "group": 7}\n\n{"text": "alone"}\n'
    )
    assert read_items(file) == [
        Item(str(folder / "b.png"), "hello", ("x", "y"), "7"),
        Item(None, "alone", (), None),
    ]


def test_csv(folder):
    file = folder / "posts.csv"
    file.write_text('path,text,categories\nb.png,"two\nlines",x; y\n,alone,\n', encoding="utf-8-sig")
    assert read_items(file) == [
        Item(str(folder / "b.png"), "two\nlines", ("x", "y")),
        Item(None, "alone"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", '{"text": "a"}\n{"text": ', r"x\.jsonl, line 2: this is not JSON"),
        (
            "x.jsonl",
            "[]\n",
            r"x\.jsonl, line 1: here must stand an object with path, text, categories, group",
        ),
        ("x.jsonl", '\n{"txt": "a"}\n', r"x\.jsonl, line 2: there is neither a 'path' nor a 'text'"),
        ("x.jsonl", '{"text": "a", "categories": "x"}\n', "line 1: 'categories' must be a list"),
        ("x.csv", "file\na.png\n", r"x\.csv, line 2: there is neither"),
        ("x.csv", "path\n", r"x\.csv' holds nothing to check"),
        ("x.md", "hello", r"x\.md' is neither a folder, nor an image, nor a \.csv or \.jsonl file"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        read_items(tmp_path / name)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        read_items(tmp_path / "none")
    with pytest.raises(ValueError, match="holds nothing to check"):
        read_items(tmp_path)
