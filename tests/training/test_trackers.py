"""Pins: trackers that take images get one at every evaluation, beside its metrics, in the real
TensorBoard, W&B and Trackio where they are installed; without such a tracker nothing is drawn."""

import io

import numpy as np
import PIL.Image
import pytest
from tiny import tiny_dataset
from tiny_training import make_trainer

pytest.importorskip("matplotlib")
EACH_EPOCH = {"eval_strategy": "epoch", "num_train_epochs": 2}


def images_in(events, tag):
    return [
        (event.step, np.array(PIL.Image.open(io.BytesIO(event.encoded_image_string))))
        for event in events.Images(tag)
    ]


def read_events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (file,) = folder.rglob("events.out.tfevents.*")
    return accumulator.EventAccumulator(str(file), {"images": 0}).Reload()


def test_tensorboard_has_an_image_beside_the_metrics_of_each_evaluation(tmp_path):
    pytest.importorskip("tensorboard")
    trainer = make_trainer(tmp_path, report_to="tensorboard", **EACH_EPOCH)
    trainer.train()
    events = read_events(tmp_path)
    assert events.Tags()["images"] == ["eval/retrieval"]
    images = images_in(events, "eval/retrieval")
    recalls = [event.step for event in events.Scalars("eval/rsum")]
    assert [step for step, _ in images] == recalls == [3, 6]
    for _, image in images:
        assert image.std() > 20 and min(image.shape[:2]) > 200


def test_each_of_several_data_sets_has_its_own_image_and_evaluation_needs_no_training(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = make_trainer(tmp_path, report_to="tensorboard")
    trainer.eval_dataset = {"one": tiny_dataset(8), "two": tiny_dataset(12)}
    trainer.evaluate()
    assert set(read_events(tmp_path / "logs").Tags()["images"]) == {
        "eval/one_retrieval",
        "eval/two_retrieval",
    }


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    make_trainer(tmp_path / "run", report_to="wandb", **EACH_EPOCH).train()
    assert len(list(tmp_path.rglob("files/media/images/eval/retrieval_*.png"))) == 2


def test_trackio_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    make_trainer(tmp_path / "run", report_to="trackio", project="tiny", **EACH_EPOCH).train()
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 2


def test_nothing_is_drawn_without_a_tracker_that_takes_images(tmp_path, monkeypatch):
    import hf_customclip.evaluation.plots as plots

    def refuse(*args, **kwargs):
        raise AssertionError("drawn")

    monkeypatch.setattr(plots, "draw_text_to_image", refuse)
    make_trainer(tmp_path, **EACH_EPOCH).train()
