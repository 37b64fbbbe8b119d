"""Training on cached features.

Pinned: in float32 it gives the losses of training through the towers, step by step, and their final weights
(dropout in the heads on), for both towers, for LiT's case and for mean pooling; evaluation gives the same
recalls, and asks neither tower; an epoch's batches come from memory; what forbids keeping a tower's outputs
switches that tower off with a one-line reason, and is an error under "always".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor
from torch import nn
from transformers import DefaultDataCollator, TrainerCallback

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments

LOGGER = "hf_customclip.features.cache"


def trainer(
    tmp_path: Path,
    mode: str,
    *,
    model: Any = None,
    image_transform: Callable[[Any], Any] | None = None,
    data_collator: Any = None,
    **args: Any,
) -> CustomClipTrainer:
    data = tiny_dataset(24, captions=3)
    options: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"),
        "feature_cache_dir": str(tmp_path / "features"),
        "feature_precision": "float32",
        "per_device_train_batch_size": 8,
        "batch_of": "pairs",
        "captions_per_image": 2,
        # What only runs on cached features have.
        "head_init": None,
        "ema_decay": None,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
    }
    return CustomClipTrainer(
        model=model if model is not None else tiny_model(),
        args=CustomClipTrainingArguments(feature_cache=mode, **{**options, **args}),
        data_collator=data_collator,
        train_dataset=data.select(range(16)),
        eval_dataset=data.select(range(16, 24)),
        processing_class=tiny_processor(),
        image_transform=image_transform,
    )


def trained(*args: Any, **options: Any) -> CustomClipTrainer:
    done = trainer(*args, **options)
    done.train()
    return done


def losses(done: CustomClipTrainer) -> list[float]:
    return [entry["loss"] for entry in done.state.log_history if "loss" in entry]


def calls_of(module: nn.Module) -> list[int]:
    """Grows by the batch size at every forward pass of the module or a copy of it."""
    sizes: list[int] = []

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(len(next(iter(kwargs.values()))))

    module.register_forward_pre_hook(note, with_kwargs=True)
    return sizes


def assert_same_training(kept: CustomClipTrainer, through: CustomClipTrainer) -> None:
    assert len(losses(kept)) == 8
    assert losses(kept) == pytest.approx(losses(through), rel=1e-5)
    others = dict(through.model.named_parameters())
    for name, parameter in kept.model.named_parameters():
        torch.testing.assert_close(parameter, others[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("config", [{}, {"text_pooling": "mean", "vision_pooling": "mean"}])
def test_losses_and_weights_are_those_of_training_through_the_towers(
    tmp_path: Path, config: dict[str, str]
) -> None:
    runs = [
        trained(tmp_path, mode, model=tiny_model(projection_dropout=0.5, **config))
        for mode in ("always", "never")
    ]
    assert_same_training(*runs)


def test_a_frozen_image_tower_under_a_trained_text_tower(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = [tiny_model(freeze_text=False, projection_dropout=0.5) for _ in range(2)]
    images = calls_of(models[0].vision_model)
    # Dropout of the trained tower draws from the same generator as the heads'.
    with caplog.at_level(logging.WARNING, LOGGER):
        kept = trained(tmp_path, "auto", model=models[0])
    assert "The text tower runs at every step: it is trained." in caplog.messages
    assert sum(images) == 16  # the training images, once
    through = trained(tmp_path, "never", model=models[1])
    assert_same_training(kept, through)
    assert kept.evaluate()["eval_loss"] == pytest.approx(through.evaluate()["eval_loss"], rel=1e-4)


def test_each_tower_sees_each_image_and_chosen_caption_once(tmp_path: Path) -> None:
    model = tiny_model()
    images, captions = calls_of(model.vision_model), calls_of(model.text_model)
    kept = trained(tmp_path, "auto", model=model, captions_per_image=2)
    assert (sum(images), sum(captions)) == (16, 32)  # the third caption of an image is never shown
    first, again = kept.evaluate(), kept.evaluate()
    assert (sum(images), sum(captions)) == (16 + 8, 32 + 24)
    assert first["eval_loss"] == again["eval_loss"]
    trained(tmp_path, "auto", model=model)  # a second run
    assert (sum(images), sum(captions)) == (16 + 8, 32 + 24)


def test_random_captions_need_all_of_them(tmp_path: Path) -> None:
    model = tiny_model()
    captions = calls_of(model.text_model)
    trained(tmp_path, "auto", model=model, captions_per_image=1, caption_sampling="random")
    assert sum(captions) == 48


def test_evaluation_on_cached_features_gives_the_same_metrics(tmp_path: Path) -> None:
    kept, through = (trainer(tmp_path, mode).evaluate() for mode in ("auto", "never"))
    timing = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    same = {name: value for name, value in through.items() if name not in timing}
    assert {name: kept[name] for name in same} == pytest.approx(same, rel=1e-5)


def test_a_batch_of_cached_features_is_what_its_examples_make(tmp_path: Path) -> None:
    loader = trainer(tmp_path, "auto").get_train_dataloader()
    pairs, collate = loader.dataset, loader.collate_fn
    batch, examples = collate(pairs.__getitems__([4, 0, 10])), collate([pairs[i] for i in (4, 0, 10)])
    assert batch.keys() == examples.keys() == {"image_ids", "image_features", "text_features"}
    for name in batch:
        torch.testing.assert_close(batch[name], examples[name], rtol=0, atol=0)


def test_augmented_images_are_not_kept_for_training_but_are_for_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    images = calls_of(model.vision_model)
    with caplog.at_level(logging.WARNING, LOGGER):
        run = trained(tmp_path, "auto", model=model, image_transform=lambda image: image.rotate(90))
    assert "The vision tower runs at every step: the training images are augmented." in caplog.messages
    assert sum(images) == 16 * 2 * 2
    run.evaluate(), run.evaluate()
    assert sum(images) == 16 * 2 * 2 + 8


def nothing_kept(tmp_path: Path) -> bool:
    return not list((tmp_path / "features").glob("*-*"))


def test_never(tmp_path: Path) -> None:
    trained(tmp_path, "never", num_train_epochs=1)
    assert nothing_kept(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": lambda: tiny_model(freeze_vision=False)}, "the vision tower's outputs: it is trained"),
        ({"model": lambda: tiny_model(text_unfrozen_groups=1)}, "the text tower's outputs: it is trained"),
        ({"image_transform": lambda: lambda image: image}, "the training images are augmented"),
        ({"data_collator": DefaultDataCollator}, "prepared by a data_collator of your own"),
    ],
)
def test_always_says_why_it_is_impossible(
    tmp_path: Path, options: dict[str, Callable[[], Any]], reason: str
) -> None:
    run = trainer(tmp_path, "always", **{name: make() for name, make in options.items()})
    with pytest.raises(ValueError, match=reason):
        run.train()


def test_a_tower_unfrozen_in_the_middle_is_noticed(tmp_path: Path) -> None:
    class Unfreeze(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            model.unfreeze("vision")

    run = trainer(tmp_path, "auto")
    run.add_callback(Unfreeze())
    with pytest.raises(ValueError, match="vision tower was unfrozen"):
        run.train()


def test_other_weights_in_the_same_model_are_not_served_the_old_features(tmp_path: Path) -> None:
    run = trainer(tmp_path, "auto")
    before = run.evaluate()["eval_loss"]
    with torch.no_grad():
        run.model.vision_model.embeddings.patch_embeddings.projection.weight.mul_(-1)
    after, through = run.evaluate()["eval_loss"], trainer(tmp_path, "never", model=run.model).evaluate()
    assert after == pytest.approx(through["eval_loss"], rel=1e-5) != pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("name", ["feature_precision", "unreadable_images", "feature_cache"])
def test_values_that_are_not_allowed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'fast'"):
        CustomClipTrainingArguments(output_dir=str(tmp_path), **{name: "fast"})
