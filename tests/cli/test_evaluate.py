"""Pins: `evaluate` on the sample's test split prints what a brute-force NumPy computation gives, to 1e-6; with
a label column it classifies, as plain matrix arithmetic does; its files and images are written; a wrong split
or column is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, load_dataset

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sample"


@pytest.fixture(scope="module")
def split():
    return load_dataset("parquet", data_files=str(SAMPLE / "data" / "test-*.parquet"), split="train")


@pytest.fixture(scope="module")
def brute(saved_model, split):
    """Unit image embeddings, and a function for those of texts, each input alone through the model."""
    from hf_customclip import CustomClipModel, CustomClipProcessor

    model, processor = (
        CustomClipModel.from_pretrained(saved_model).eval(),
        CustomClipProcessor.from_pretrained(saved_model),
    )

    def unit(features):
        vector = features.pooler_output[0].double().numpy()
        return vector / np.linalg.norm(vector)

    def embed(**inputs):
        tensors = processor(**inputs, return_tensors="pt")
        with torch.no_grad():
            if "images" in inputs:
                return unit(model.get_image_features(tensors["pixel_values"]))
            return unit(model.get_text_features(tensors["input_ids"], tensors["attention_mask"]))

    images = np.stack([embed(images=image.convert("RGB")) for image in split["image"]])
    return images, lambda texts: np.stack([embed(text=text) for text in texts])


@pytest.fixture
def printed(run):
    def printed(*arguments):
        code, out, err = run(["evaluate", *arguments, "--json"])
        assert code == 0, err
        return json.loads(out)

    return printed


def brute_force_recalls(images, texts, owner):
    """The papers' protocol in loops; a wrong candidate that scores as high counts as being in front."""
    similarity = images @ texts.T
    ranks = {"i2t": [], "t2i": []}
    for i in range(len(images)):
        best = max(similarity[i, owner == i])
        ranks["i2t"].append(1 + sum(similarity[i, owner != i] >= best - 1e-7))
    for j, i in enumerate(owner):
        others = np.delete(similarity[:, j], i)
        ranks["t2i"].append(1 + sum(others >= similarity[i, j] - 1e-7))
    return {
        f"eval_{way}_recall@{k}": np.mean(np.array(found) <= k)
        for way, found in ranks.items()
        for k in (1, 5, 10)
    }


def test_retrieval_is_what_brute_force_gives(saved_model, split, brute, printed):
    images, embed_texts = brute
    captions = [caption for row in split["captions"] for caption in row]
    owner = np.repeat(np.arange(len(split)), [len(row) for row in split["captions"]])
    expected = brute_force_recalls(images, embed_texts(captions), owner)
    measured = printed(saved_model, SAMPLE)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert measured["eval_rsum"] == pytest.approx(100 * sum(expected.values()), abs=1e-4)


def test_classification_is_plain_arithmetic(saved_model, split, brute, printed, tmp_path):
    images, embed_texts = brute
    groups = sorted(set(split["group"]))
    logits = images @ embed_texts([f"a {name.replace('_', ' ')} thing" for name in groups]).T
    right = np.array([groups.index(name) for name in split["group"]])
    options = ["--label-column", "group", "--template", "a {} thing"]
    measured = printed(saved_model, SAMPLE, *options, "--output", tmp_path, "--plots", tmp_path / "plots")
    assert measured["eval_accuracy"] == pytest.approx(np.mean(logits.argmax(1) == right), abs=1e-6)
    top5 = np.mean([right[i] in np.argsort(-logits[i])[:5] for i in range(len(right))])
    assert measured["eval_top5_accuracy"] == pytest.approx(top5, abs=1e-6)
    assert (tmp_path / "plots" / "confusion.png").stat().st_size > 5_000
    assert json.loads((tmp_path / "all_results.json").read_text()) == measured
    (entry,) = json.loads((tmp_path / "model_index.json").read_text())
    assert entry["results"][0]["task"]["type"] == "zero-shot-image-classification"


def test_folder_of_classes(saved_model, split, printed, tmp_path):
    """One subfolder for each class, as torchvision's ImageFolder wants it."""
    for number, row in enumerate(split.select(range(6))):
        kind = tmp_path / ("snow_man" if number % 2 else "bear")
        kind.mkdir(exist_ok=True)
        row["image"].save(kind / f"{number}.png")
    measured = printed(saved_model, tmp_path, "--split", "train", "--label-column", "label")
    assert 0 <= measured["eval_accuracy"] <= 1 and measured["eval_top5_accuracy"] == 1
    from hf_customclip.data.load import load_labelled_images

    dataset, names = load_labelled_images(str(tmp_path), "train")
    assert names == ["bear", "snow man"] and sorted(dataset["label"]) == [0, 0, 0, 1, 1, 1]
    assert isinstance(dataset.features["label"], ClassLabel)


def test_files_and_images(saved_model, run, tmp_path):
    code, out, _ = run(["evaluate", saved_model, SAMPLE, "--plots", tmp_path, "--output", tmp_path])
    assert code == 0 and "184 images, 368 captions" in out
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == {"text_to_image.png", "image_to_text.png", "similarity.png", "recall.png"}
    (entry,) = json.loads((tmp_path / "model_index.json").read_text())
    assert {result["dataset"]["split"] for result in entry["results"]} == {"test"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label-column", "group", "--split", "tset"], "no split 'tset'; it has train, validation, test"),
        (["--label-column", "colour"], "the column 'colour' with their classes; it has"),
    ],
)
def test_what_is_not_there_is_named(saved_model, options, said, run):
    code, _, err = run(["evaluate", saved_model, SAMPLE, *options])
    assert code == 1 and said in err


def test_by_language_is_each_language_alone(run, printed, saved_model):
    every = printed(saved_model, SAMPLE, "--by-language")
    # In Latin letters, which the tiny tokenizer knows: captions of unknown letters alone would all tie.
    spanish = printed(saved_model, SAMPLE, "--languages", "es")
    for name in ("eval_t2i_recall@10", "eval_i2t_recall@10", "eval_rsum"):
        assert every[f"{name}_es"] == pytest.approx(spanish[name], abs=1e-6)
    assert len([name for name in every if name.startswith("eval_rsum_")]) == 19
    code, out, _ = run(
        ["evaluate", saved_model, SAMPLE, "--by-language", "--languages", "zh", "--languages", "de"]
    )
    assert code == 0 and [line.split()[0] for line in out.splitlines()[2:4]] == ["de", "zh"]
    code, _, err = run(["evaluate", saved_model, SAMPLE, "--by-language", "--languages", "de"])
    assert code == 1 and "--by-language needs columns" in err


def test_corrected_numbers_stand_beside_the_raw_ones(saved_model, brute, run, tmp_path):
    """With a bank in the model's folder: raw numbers stay, corrected ones come under a name of their own."""
    import shutil

    from hf_customclip.inference.hubness import HubnessBank

    shutil.copytree(saved_model, tmp_path / "model")
    raw = json.loads(run(["evaluate", str(tmp_path / "model"), str(SAMPLE), "--json"])[1])
    assert not any("csls" in name for name in raw)
    width = brute[0].shape[1]
    embeds = torch.nn.functional.normalize(torch.randn(2, 20, width), dim=-1)
    HubnessBank(*embeds).save(tmp_path / "model")
    code, out, err = run(["evaluate", str(tmp_path / "model"), str(SAMPLE), "--json"])
    assert code == 0, err
    corrected = json.loads(out)
    assert corrected["eval_rsum"] == raw["eval_rsum"]
    assert 0 <= corrected["eval_csls_t2i_recall@10"] <= 1
    assert "corrected for hubs" in run(["evaluate", str(tmp_path / "model"), str(SAMPLE)])[1]
