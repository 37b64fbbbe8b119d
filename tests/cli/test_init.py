"""Pins: `init` writes a configuration that `train` accepts, with the data options given, the recipe's defaults, what
was found and what is amiss; towers by the captions' language; a file that is there is not replaced unasked."""

import csv

import pytest
import yaml
from PIL import Image as Images

from hf_customclip.cli.init import propose_towers
from hf_customclip.training.config import load_config
from hf_customclip.training.training_args import CustomClipTrainingArguments


@pytest.fixture
def shop(tmp_path):
    rows = [("file_name", "sku", "title", "price")]
    for number in range(40):
        Images.new("RGB", (8, 8), (5 * number, 90, 20)).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", f"S{number // 2}", f"a mug for the kitchen no {number // 2}", 3))
    with (tmp_path / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def test_what_is_written_is_accepted(shop, tmp_path, run):
    file = tmp_path / "shop.yaml"
    code, out, _ = run(["init", shop, "--group-column", "sku", "--test-fraction", "0.2", "--output", file])
    assert code == 0 and out == f"wrote {file}\n", "in a pipe without what comes next"
    config = load_config(file)
    assert config.data == {"source": str(shop), "group_column": "sku", "test_fraction": 0.2}
    given = CustomClipTrainingArguments(**{**config.training, "output_dir": str(tmp_path / "out")})
    assert given.learning_rate == CustomClipTrainingArguments(str(tmp_path)).learning_rate
    assert given.load_best_model_at_end and config.model["text_pooling"] == "mean"
    text = file.read_text()
    assert "40 images, 40 captions" in text and "by group" in text
    assert "captions from title; also there, not used: price" in text


def test_captions_in_several_splits_ask_for_a_group(shop, tmp_path, run):
    run(["init", shop, "--test-fraction", "0.4", "--output", tmp_path / "a.yaml"])
    text = (tmp_path / "a.yaml").read_text()
    assert "group_column" in text and "group_column" not in yaml.safe_load(text)["data"]


def test_a_file_that_is_there_stays(shop, tmp_path, run):
    (tmp_path / "mine.yaml").write_text("mine")
    code, _, err = run(["init", shop, "--output", tmp_path / "mine.yaml"])
    assert code == 1 and "--overwrite" in err and (tmp_path / "mine.yaml").read_text() == "mine"


def test_errors_name_the_options(shop, run):
    code, _, err = run(["init", shop / "products.csv", "--caption-column", "colour"])
    assert code == 1 and "'colour'" in err
    (shop / "bare.csv").write_text("file_name,price\n0.png,3\n")
    code, _, err = run(["init", shop / "bare.csv"])
    assert code == 1 and "--caption-column" in err and "caption_column" not in err


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a dog in the snow", "sentence-transformers/all-MiniLM-L6-v2"),
        ("两只狗在雪地里", "intfloat/multilingual-e5-small"),
        ("ein Hund läuft über das Gras", "intfloat/multilingual-e5-small"),
        ("Tasse blau Keramik", "intfloat/multilingual-e5-small"),
    ],
)
def test_towers_by_language(caption, text):
    assert propose_towers([caption] * 10)["text"] == text


def test_version(run):
    import hf_customclip

    assert run(["--version"])[:2] == (0, f"hf-customclip {hf_customclip.__version__}\n")
