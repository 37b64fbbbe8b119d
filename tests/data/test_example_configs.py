"""Promises pinned here: every form of data trains, end to end; and each config in `examples/configs` does so
on a small faithful copy of its form lying where the config says, up to `all_results.json` and a saved model. A
run repeated gives the same bytes.
"""

import json
from pathlib import Path

import miniatures
import pytest
import torch
from tiny import tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments
from hf_customclip.data import load_image_text_dataset
from hf_customclip.training.config import load_config
from hf_customclip.training.run import run_training

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
NAMES = [f"{number}.jpg" for number in range(12)]


def kaggle(root):
    _, captions = miniatures.kaggle_flickr30k(root)
    content = miniatures.karpathy_content(captions, ["train", "train", "train", "val", "test"])
    (root / "dataset_flickr30k.json").write_text(json.dumps(content))
    return {"karpathy_file": root / "dataset_flickr30k.json", "source": root / "flickr30k_images"}


def flickr8k(root):
    return {"source": miniatures.flickr8k(root / "flickr8k")[0]}


def coco(root):
    return {"source": miniatures.coco(root / "coco")[0]}


def own_folder(root):
    miniatures.write_images(root / "my_images", NAMES)
    lines = [f"{name},image {name}" for name in NAMES]
    (root / "my_images" / "metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    return {"source": root / "my_images"}


def hub(root):
    return {"source": miniatures.hub_parquet(root / "hub")[0]}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {
        "vision": tiny_vision_tower("vit", folder / "vision"),
        "text": tiny_text_tower("distilbert", folder / "text"),
    }


def quick(config, paths, towers, folder):
    """The config with its data and towers elsewhere, and a single epoch on the CPU."""
    overrides = [f"data.{key}={path}" for key, path in paths.items()]
    overrides += [f"model.{key}={path}" for key, path in towers.items()]
    training = {"num_train_epochs": 1, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none",
                "dataloader_num_workers": 0, "output_dir": folder, "disable_tqdm": True,
                "head_init": "null"}  # fmt: skip # the closed form fits a few images perfectly: a loss of 0
    overrides += [f"training.{key}={value}" for key, value in training.items()]
    return load_config(CONFIGS / config, overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "lay_out"),
    [
        ("flickr30k_kaggle.yaml", kaggle),
        ("flickr8k.yaml", flickr8k),
        ("coco.yaml", coco),
        ("own_folder.yaml", own_folder),
        ("flickr30k.yaml", hub),
    ],
)
def test_config_trains(config, lay_out, towers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = lay_out(tmp_path / "data")
    written = load_config(CONFIGS / config).data
    if lay_out is not hub:  # the layout is where the config says it is
        assert {key: str(path.relative_to(tmp_path)) for key, path in paths.items()} == {
            key: written[key] for key in paths
        }
    metrics = run_training(quick(config, paths, towers, tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_i2t_recall@10"] == metrics["eval_i2t_recall@10"]
    # On so few images heads from CCA may leave nothing to lose.
    assert 0 <= results["train_loss"] < 20
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "modules.json").is_file()  # sentence-transformers'


@pytest.mark.slow
def test_a_run_can_be_repeated(towers, tmp_path):
    """Also where the random state was another before it: heads, order and dropout come from the seed."""
    paths = own_folder(tmp_path / "data")
    weights = []
    for name in ("first", "second"):
        torch.rand(len(weights) + 1)
        run_training(quick("own_folder.yaml", paths, towers, tmp_path / name))
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


FORMS = (
    miniatures.kaggle_flickr30k,
    miniatures.token_file,
    miniatures.karpathy,
    miniatures.flickr8k,
    miniatures.coco,
    miniatures.karpathy_coco,
    miniatures.imagefolder,
    miniatures.hub_parquet,
    miniatures.hub_long,
    miniatures.saved_to_disk,
    miniatures.webdataset,
)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_form_trains(form, tmp_path):
    splits = load_image_text_dataset(form(tmp_path / "data")[0])
    args = CustomClipTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", head_init=None,
    )  # fmt: skip
    held_out = splits["validation" if "validation" in splits else "test"]
    trainer = CustomClipTrainer(
        tiny_model(),
        args,
        train_dataset=splits["train"],
        eval_dataset=held_out,
        processing_class=tiny_processor(),
    )
    assert trainer.train().training_loss > 0
    assert 0 <= trainer.evaluate()["eval_t2i_recall@1"] <= 1
