"""Pins: a trained model folder knows its data (source, options, identities of 16 bytes an image, no paths), `evaluate`
divides the same data as training did, and refuses images that were trained on however they come back: by another
seed, fraction, split, name, folder, container, or as a part; what only looks the same is said; --overlap drop
leaves out exactly the trained images, and --overlap mark says what its numbers are worth."""

import csv
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Images
from tiny import tiny_text_tower, tiny_vision_tower

from hf_customclip.data import load_image_text_dataset
from hf_customclip.evaluation.overlap import RECORD_FILE, read_training_record

COUNT, SEED, SHARE = 40, 7, 0.2
TRAINED = COUNT - 2 * int(COUNT * SHARE)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Forty images of random clouds with captions, in no splits."""
    folder, generator = tmp_path_factory.mktemp("data") / "shop", np.random.default_rng(0)
    folder.mkdir()
    for number in range(COUNT):
        spots = Images.fromarray(generator.integers(0, 255, (6, 6, 3), np.uint8))
        spots.resize((48, 48), Images.Resampling.BICUBIC).save(folder / f"{number}.png")
    write_table(folder, [f"{number}.png" for number in range(COUNT)])
    return folder


def write_table(folder, names, caption="thing {}"):
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *((name, caption.format(name)) for name in names)])


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    """A model folder as `hf-customclip train` writes it, its splits drawn with a seed and shares of its own."""
    from hf_customclip.training.config import TrainConfig
    from hf_customclip.training.run import run_training

    folder = tmp_path_factory.mktemp("run")
    towers = {
        "vision": tiny_vision_tower("vit", folder / "vision"),
        "text": tiny_text_tower("distilbert", folder / "text"),
    }
    data = {"source": str(shop), "seed": SEED, "validation_fraction": SHARE, "test_fraction": SHARE}
    training = {"output_dir": str(folder / "model"), "max_steps": 1, "report_to": "none", "use_cpu": True}
    run_training(TrainConfig(towers | {"projection_dim": 16}, data, training | {"disable_tqdm": True}))
    return folder / "model"


@pytest.fixture(scope="module")
def train_split(shop):
    splits = load_image_text_dataset(shop, seed=SEED, validation_fraction=SHARE, test_fraction=SHARE)
    return splits["train"].cast_column("image", Image(decode=False))


def test_the_folder_knows_its_data(trained, train_split):
    record = read_training_record(trained)
    origin = record.origin
    assert origin.source == "shop" and origin.options["seed"] == SEED and "seed 7" in origin.split_rule
    assert len(record.contents) == len(train_split) == TRAINED
    file = trained / RECORD_FILE
    assert file.stat().st_size < 1000 + 16 * TRAINED
    assert b"/" not in file.read_bytes()[:400].replace(b'\\"', b'"')  # of a path only the name


def test_without_options_the_split_is_that_of_training(trained, shop, run):
    code, out, err = run(["evaluate", trained, shop, "--json"])
    metrics = json.loads(out)
    assert code == 0 and metrics["eval_images"] == COUNT * SHARE and metrics["eval_trained_on_images"] == 0
    assert "--seed 7" in err and "--test-fraction 0.2" in err


def parquet(shop, tmp_path):
    names = sorted(shop.glob("*.png"))
    rows = {
        "image": [{"bytes": n.read_bytes(), "path": None} for n in names],
        "text": [n.name for n in names],
    }
    features = Features({"image": Image(), "text": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "all.parquet")
    return [tmp_path / "all.parquet"]


def saved_to_disk(shop, tmp_path):
    load_image_text_dataset(shop, split="all").save_to_disk(tmp_path / "saved")
    return [tmp_path / "saved", "--split", "all"]


def renamed(shop, tmp_path):
    names = []
    for number, file in enumerate(sorted(shop.glob("*.png"))):
        names.append(f"photo-{number:03}.png")
        shutil.copy(file, tmp_path / names[-1])
    write_table(tmp_path, names)
    return [tmp_path, "--test-fraction", "0.5"]


def other_folder(shop, tmp_path):
    return [shutil.copytree(shop, tmp_path / "copy"), "--seed", "3"]


def part_of_it(shop, tmp_path):
    names = [f"{number}.png" for number in range(0, COUNT, 4)]
    for name in names:
        shutil.copy(shop / name, tmp_path)
    write_table(tmp_path, names)
    return [tmp_path, "--split", "all"]


def other_captions(shop, tmp_path):
    shutil.copytree(shop, tmp_path / "again")
    write_table(tmp_path / "again", [f"{number}.png" for number in range(COUNT)], "another caption of {}")
    return [tmp_path / "again", "--split", "all"]


def lines_with_full_paths(shop, tmp_path):
    rows = [json.dumps({"image": str(file), "caption": file.name}) for file in sorted(shop.glob("*.png"))]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    # Whole paths are other names in each run, and so another draw: of half the images some were trained on in any.
    return [tmp_path / "rows.jsonl", "--test-fraction", "0.5"]


def shards(shop, tmp_path):
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        for file in sorted(shop.glob("*.png")):
            for suffix, content in (("png", file.read_bytes()), ("txt", file.name.encode())):
                member = tarfile.TarInfo(f"k{file.stem}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return [tmp_path / "000.tar"]


WAYS = {
    "another seed": lambda shop, _: [shop, "--seed", "42"],
    "another share": lambda shop, _: [shop, "--test-fraction", "0.5"],
    "the train split": lambda shop, _: [shop, "--split", "train"],
    "all splits": lambda shop, _: [shop, "--split", "all"],
    "renamed files": renamed,
    "a copied folder": other_folder,
    "a part of it": part_of_it,
    "other captions": other_captions,
    "Parquet": parquet,
    "saved to disk": saved_to_disk,
    "JSON lines elsewhere": lines_with_full_paths,
    "tar shards": shards,
}


@pytest.mark.parametrize("way", WAYS)
def test_trained_images_are_refused(way, trained, shop, tmp_path, run):
    code, out, err = run(["evaluate", trained, *WAYS[way](shop, tmp_path)])
    assert code == 1 and out == ""
    assert "was trained on" in err and "--seed 7" in err and "--overlap drop" in err


@pytest.mark.parametrize("change", ["another format", "half the size"])
def test_images_that_only_look_the_same_are_said(change, trained, shop, tmp_path, run):
    names = []
    for file in sorted(shop.glob("*.png")):
        image = Images.open(file)
        names.append(file.with_suffix(".jpg").name)
        (image.resize((24, 24)) if change == "half the size" else image).save(
            tmp_path / names[-1], quality=90
        )
    write_table(tmp_path, names)
    code, out, err = run(["evaluate", trained, tmp_path, "--split", "all", "--json"])
    assert code == 0 and json.loads(out)["eval_trained_on_images"] == 0
    assert json.loads(out)["eval_near_trained_images"] == TRAINED
    assert f"{TRAINED} images look nearly like" in err


def test_dropping_leaves_out_exactly_the_trained_ones(trained, shop, train_split, run):
    code, out, err = run(["evaluate", trained, shop, "--split", "all", "--overlap", "drop", "--json"])
    assert code == 0 and json.loads(out)["eval_images"] == COUNT - TRAINED
    assert f"{TRAINED} of the {COUNT} images" in err


def test_marking_measures_and_warns(trained, shop, run):
    code, out, err = run(["evaluate", trained, shop, "--split", "all", "--overlap", "mark", "--json"])
    metrics = json.loads(out)
    assert code == 0 and metrics["eval_images"] == COUNT and metrics["eval_trained_on_images"] == TRAINED
    assert "WARNING" in err


def test_other_images_are_measured_without_a_word_of_overlap(trained, tmp_path, run):
    generator = np.random.default_rng(99)
    names = [f"{number}.png" for number in range(12)]
    for name in names:
        Images.fromarray(generator.integers(0, 255, (6, 6, 3), np.uint8)).resize((48, 48)).save(
            tmp_path / name
        )
    write_table(tmp_path, names)
    code, out, err = run(["evaluate", trained, tmp_path, "--split", "all", "--json"])
    assert code == 0 and json.loads(out)["eval_trained_on_images"] == 0 and "trained on" not in err


def test_a_model_without_a_record_is_said_to_know_nothing(saved_model, shop, run):
    code, _, err = run(["evaluate", saved_model, shop])
    assert code == 0 and "does not know its training data" in err


def test_classes_of_trained_images_are_refused_too(trained, shop, train_split, run, tmp_path):
    """As folders of classes under other names; dropping leaves those held out."""
    for number in range(COUNT):
        folder = tmp_path / "classes" / ("odd" if number % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(shop / f"{number}.png", folder / f"x{number}_train.png")
    command = ["evaluate", trained, tmp_path / "classes", "--label-column", "label", "--json"]
    code, out, err = run(command)
    assert code == 1 and not out and f"was trained on {TRAINED} of the {COUNT} images" in err
    dropped = json.loads(run([*command, "--overlap", "drop"])[1])
    assert dropped["eval_images"] == COUNT - TRAINED and dropped["eval_trained_on_images"] == 0
    assert json.loads(run([*command, "--overlap", "mark"])[1])["eval_trained_on_images"] == TRAINED


def test_a_model_saved_from_python_knows_its_images_too(tmp_path, run):
    """By the trainer's own save, without a source; a checkpoint of heads knows what its folder does."""
    from tiny_training import make_trainer

    trainer = make_trainer(tmp_path / "model", rows=24)
    trainer.save_model()
    record = read_training_record(tmp_path / "model")
    assert len(record.contents) == len(trainer.train_dataset) and not record.origin.source
    (tmp_path / "model" / "checkpoint-3").mkdir()
    again = read_training_record(tmp_path / "model" / "checkpoint-3")
    assert (again.contents == record.contents).all()
    trainer.train_dataset.to_parquet(tmp_path / "again.parquet")
    code, _, err = run(["evaluate", tmp_path / "model", tmp_path / "again.parquet", "--split", "all"])
    assert code == 1 and "was trained on 24 of the 24 images" in err and "--overlap drop" in err
