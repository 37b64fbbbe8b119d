"""Pins: `hf-customclip classify` prints what `ZeroShotClassifier` predicts, as a table, JSONL or CSV, whatever the
batch; unreadable images are named and cost exit code 1; mistakes end in one sentence before a model is loaded."""

import csv
import io
import json

import pytest
from PIL import Image
from tiny import tiny_model, tiny_processor

from hf_customclip.inference.zero_shot import ZeroShotClassifier

LABELS = ["red circle", "blue square", "green cross"]
TEMPLATES = ["a photo of the {}", "{} drawn"]
NAMES = ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "broken.png", "sub/6.png"]


@pytest.fixture(scope="module")
def expected(images):
    """`{name: predictions}` of the readable images, one at a time."""
    classifier = ZeroShotClassifier(tiny_model(), tiny_processor(), LABELS, TEMPLATES)
    readable = [name for name in NAMES if name != "broken.png"]
    return {name: classifier.predict([Image.open(images / name)])[0] for name in readable}


def classify(run, saved_model, images, *options):
    templates = [part for template in TEMPLATES for part in ("--template", template)]
    return run(["classify", saved_model, images, "--labels", ",".join(LABELS), *templates, *options])


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_json_lines_are_the_predictions_and_the_damaged_image_is_named(
    run, saved_model, images, expected, batch_size
):
    code, out, err = classify(run, saved_model, images, "--top-k", "3", "--json", "--batch-size", batch_size)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["path"] for row in rows] == [str(images / name) for name in NAMES]
    for name, row in zip(NAMES, rows, strict=True):
        if name == "broken.png":
            assert set(row) == {"path", "error"} and "truncated" in row["error"]
            continue
        assert [x["label"] for x in row["labels"]] == [x["label"] for x in expected[name]]
        assert [x["score"] for x in row["labels"]] == pytest.approx(
            [x["score"] for x in expected[name]], abs=1e-6
        )
    assert code == 1 and err == "1 of 8 images could not be read.\n", "and no progress bar in a pipe"


def test_csv_has_a_row_for_each_label_and_for_each_damaged_image(run, saved_model, images, expected):
    code, out, _ = classify(run, saved_model, images, "--top-k", "2", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1 and len(rows) == 2 * 7 + 1
    damaged = next(row for row in rows if row["error"])
    assert damaged["path"].endswith("broken.png") and not damaged["label"]
    of_six = [row for row in rows if row["path"].endswith("6.png")]
    assert [row["label"] for row in of_six] == [x["label"] for x in expected["sub/6.png"][:2]]
    assert [row["rank"] for row in of_six] == ["1", "2"]


def test_a_table_of_single_images_and_exit_code_0(run, saved_model, images, expected):
    templates = ["--template", TEMPLATES[0], "--template", TEMPLATES[1]]
    files = [images / "3.png", images / "1.png"]
    code, out, err = run(["classify", saved_model, *files, "--labels", ",".join(LABELS), *templates])
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 2)
    for line, name in zip(lines, ["3.png", "1.png"], strict=True):
        best = expected[name][0]
        assert line.split("  ")[0] == str(images / name)
        assert best["label"] in line and line.endswith(f"{best['score']:.3f}")


def test_labels_come_from_a_file_too(run, saved_model, images, tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("red, or a circle\n\n  blue square \n", encoding="utf-8-sig")
    _, out, _ = run(["classify", saved_model, images / "0.png", "--labels", file, "--top-k", 9, "--json"])
    assert {x["label"] for x in json.loads(out)["labels"]} == {"red, or a circle", "blue square"}


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        ("nowhere.png", "a,b", "There is no image or folder 'nowhere.png'."),
        (".", "a,b", "The folder '.' holds no images"),
        (".", " , ", "No labels in ' , '"),
        (".", "missing.txt", "There is no file of labels 'missing.txt'."),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(run, tmp_path, monkeypatch, images, labels, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(["classify", "no/model", images, "--labels", labels])
    assert (code, out) == (1, "") and err.startswith(f"error: {said}")
