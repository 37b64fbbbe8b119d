"""Pins: NaN in the loss, gradient or weights stops training with the step, the images and a likely cause, and the
last checkpoint is good."""

import pytest
import torch
from tiny import tiny_dataset
from tiny_training import make_trainer
from transformers import TrainerCallback

from hf_customclip import CustomClipModel
from hf_customclip.training.finite import NotFiniteError, check_gradient_norm, check_weights


class Spoil(TrainerCallback):
    def __init__(self, step, spoil):
        self.step, self.spoil = step, spoil

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.spoil(model)


def nan_weight(model):
    with torch.no_grad():
        model.visual_projection.linear1.weight[0, 0] = torch.nan


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_a_nan_loss_names_step_images_and_cause(tmp_path, chunk_size):
    trainer = make_trainer(
        tmp_path,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        gradient_cache_chunk_size=chunk_size,
    )
    ids = [f"image-{i}" for i in range(24)]
    trainer.train_dataset = tiny_dataset(24).remove_columns("image_id").add_column("image_id", ids)
    trainer.add_callback(Spoil(2, nan_weight))
    with pytest.raises(NotFiniteError, match="loss at step 3 is nan") as caught:
        trainer.train()
    assert "visual_projection.linear1.weight" in str(caught.value)
    assert "lower learning_rate" in str(caught.value) and "image-" in str(caught.value)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    saved = CustomClipModel.from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.isfinite(p).all() for p in saved.parameters())


def test_images_that_are_not_finite_are_named(tmp_path):
    trainer = make_trainer(tmp_path, feature_cache="never")
    prepare = trainer.data_collator

    def broken(examples):
        inputs = prepare(examples)
        inputs["pixel_values"][3] = torch.inf
        return inputs

    trainer.data_collator = broken
    with pytest.raises(NotFiniteError, match=r"pixel_values are not finite for 1 image\(s\)"):
        trainer.train()


def test_no_checkpoint_of_spoilt_weights(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2)

    class SpoilAfter(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            nan_weight(model)

    trainer.add_callback(SpoilAfter())
    with pytest.raises(NotFiniteError):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    with pytest.raises(NotFiniteError, match="After step 2 these weights are not finite"):
        check_weights(trainer.model, 2)


def test_gradients():
    check_gradient_norm(torch.tensor(1.0), 1, scaled=False)
    check_gradient_norm(float("inf"), 1, scaled=True)  # the loss scaler skips that step
    with pytest.raises(NotFiniteError, match="gradient at step 7"):
        check_gradient_norm(torch.tensor(torch.inf), 7, scaled=False)
