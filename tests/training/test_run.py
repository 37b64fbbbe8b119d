"""Pins: a run's numbers are those of the saved model: all_results.json, the file for the card, the printed table and
`evaluate` afterwards agree to the last digit, on both splits held out; a second run into the folder is refused until
it may overwrite; the weight set of a configuration reaches the image processor too."""

import json

import pytest
from tiny import tiny_dataset, tiny_text_tower, tiny_vision_tower

from hf_customclip import load_image_text_dataset, load_model
from hf_customclip.evaluation import embed_dataset, format_retrieval_table
from hf_customclip.evaluation.intervals import bootstrap_intervals
from hf_customclip.evaluation.retrieval import ranks_both_ways
from hf_customclip.training.config import TrainConfig
from hf_customclip.training.run import build_processor, run_training


@pytest.fixture
def config(tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["file_name,text"]
    for number, row in enumerate(tiny_dataset(48)):
        row["image"].save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number}.png,{row['captions'][0]}")
    (tmp_path / "images" / "metadata.csv").write_text("\n".join(lines))
    return TrainConfig(
        model={
            "vision": tiny_vision_tower("vit", tmp_path / "vision"),
            "text": tiny_text_tower("distilbert", tmp_path / "text"),
            "projection_dim": 16,
        },
        data={"source": str(tmp_path / "images"), "validation_fraction": 0.25, "test_fraction": 0.25},
        training={
            "output_dir": str(tmp_path / "out"),
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "use_cpu": True,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
        },
    )


def test_every_number_is_the_saved_models(config, tmp_path, capsys):
    metrics = run_training(config)
    folder = tmp_path / "out"
    written = json.loads((folder / "all_results.json").read_text())
    assert written == metrics
    said = capsys.readouterr().out
    splits = load_image_text_dataset(**config.data)
    for entry in json.loads((folder / "retrieval_results.json").read_text()):
        embedded = embed_dataset(*load_model(folder), splits[entry["split"]])
        prefix = {"validation": "eval_", "test": "test_"}[entry["split"]]
        assert len(embedded.metrics()) >= 11
        for name, value in embedded.metrics().items():
            assert written[prefix + name] == entry["metrics"][name] == value, name
    sides = embedded.image_embeds, embedded.text_embeds, embedded.image_ids, embedded.text_image_ids
    intervals = bootstrap_intervals(ranks_both_ways(*sides))
    assert entry["split"] == "test"
    assert format_retrieval_table(embedded.metrics(), entry["chance"], intervals) in said

    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"earlier run.*training\.overwrite=true"):
        run_training(config)
    assert (folder / "model.safetensors").read_bytes() == before
    config.training |= {"overwrite": True, "num_train_epochs": 2}
    run_training(config)
    assert (folder / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(("weights", "resized"), [("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232)])
def test_the_weight_set_reaches_the_processor(tmp_path, weights, resized):
    text = tiny_text_tower("distilbert", tmp_path)
    model = {"vision": "resnet50", "text": text, "vision_weights": weights}
    processor = build_processor(TrainConfig(model=model, data={}, training={}))
    assert processor.image_processor.size["shortest_edge"] == resized
