"""Promise pinned here: each config in `examples/configs` for a form of data trains, on a small faithful copy
of that form lying where the config says, from its source line to `all_results.json` and a saved model.
"""

import json
from pathlib import Path

import miniatures
import pytest
from tiny import tiny_text_tower, tiny_vision_tower

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
    miniatures.write_pictures(root / "my_pictures", NAMES)
    lines = [f"{name},picture {name}" for name in NAMES]
    (root / "my_pictures" / "metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    return {"source": root / "my_pictures"}


def hub(root):
    return {"source": miniatures.hub_parquet(root / "hub")[0]}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {
        "vision": tiny_vision_tower("vit", folder / "vision"),
        "text": tiny_text_tower("distilbert", folder / "text"),
    }


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
    overrides = [f"data.{key}={path}" for key, path in paths.items()]
    overrides += [f"model.{key}={path}" for key, path in towers.items()]
    quick = {"num_train_epochs": 1, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none",
             "dataloader_num_workers": 0, "output_dir": tmp_path / "out", "disable_tqdm": True}  # fmt: skip
    overrides += [f"training.{key}={value}" for key, value in quick.items()]
    metrics = run_training(load_config(CONFIGS / config, overrides))
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_i2t_recall@10"] == metrics["eval_i2t_recall@10"]
    assert results["train_loss"] > 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
