"""Pins: evaluation by the protocol under the contract's names, best checkpoint by a recall, resume to the same
bits, checkpoints that load with the Auto classes and hold no pickle of ours, frozen BatchNorm that never moves,
the temperature free of weight decay, and errors as sentences."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from tiny import tiny_dataset, tiny_model, tiny_processor
from tiny_training import make_trainer
from transformers import AutoModel, AutoProcessor

METRICS = {
    *(f"eval_{way}_recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)),
    "eval_i2t_median_rank",
    "eval_t2i_median_rank",
    "eval_rsum",
    "eval_loss",
}


def test_evaluation_agrees_with_brute_force(tmp_path):
    trainer = make_trainer(tmp_path)
    metrics = trainer.evaluate()
    assert metrics.keys() >= METRICS
    data, model, processor = tiny_dataset(24), trainer.model, tiny_processor()
    with torch.no_grad():
        images = (
            model(**processor(images=data["image"][:], return_tensors="pt")).image_embeds.double().numpy()
        )
        texts = [caption for captions in data["captions"] for caption in captions]
        tokens = processor(text=texts, return_tensors="pt")
        texts = model(tokens["input_ids"], tokens["attention_mask"]).text_embeds.double().numpy()
    scores, owner = images @ texts.T, np.repeat(np.arange(24), 2)
    for k in (1, 5, 10):
        top_texts = np.argsort(-scores, axis=1)[:, :k]
        i2t = np.mean([i in owner[top] for i, top in enumerate(top_texts)])
        top_images = np.argsort(-scores.T, axis=1)[:, :k]
        t2i = np.mean([owner[t] in top for t, top in enumerate(top_images)])
        assert metrics[f"eval_i2t_recall@{k}"] == pytest.approx(i2t, abs=1e-6)
        assert metrics[f"eval_t2i_recall@{k}"] == pytest.approx(t2i, abs=1e-6)


def test_best_checkpoint_by_a_recall_and_what_a_checkpoint_holds(tmp_path):
    trainer = make_trainer(
        tmp_path,
        num_train_epochs=3,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="t2i_recall@5",
    )
    trainer.train()
    logged = [entry["eval_t2i_recall@5"] for entry in trainer.state.log_history if "eval_rsum" in entry]
    assert len(logged) == 3
    assert trainer.state.best_metric == max(logged)
    assert trainer.evaluate()["eval_t2i_recall@5"] == max(logged)
    best = trainer.state.best_model_checkpoint
    trainer.save_model()
    for folder in (best, tmp_path):
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert type(model).__name__ == "CustomClipModel" and type(processor).__name__ == "CustomClipProcessor"
    files = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert {"model.safetensors", "modeling_custom_clip.py", "processing_custom_clip.py"} <= files
    assert {"processor_config.json", "tokenizer.json", "training_args.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_resume_continues_to_the_same_bits(tmp_path):
    whole = make_trainer(tmp_path / "whole", save_strategy="steps", save_steps=2)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert whole.state.global_step == resumed.state.global_step == 6
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry and entry["step"] > 2]
        for trainer in (whole, resumed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_frozen_towers_do_not_move_and_heads_do(tmp_path):
    config = {"model_type": "torchvision_backbone", "architecture": "resnet18"}
    from hf_customclip import CustomClipConfig, CustomClipModel

    text = tiny_model().config.text_config
    model = CustomClipModel(CustomClipConfig(vision_config=config, text_config=text, projection_dim=16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_trainer(tmp_path, model, max_steps=5).train()
    after = model.state_dict()
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same == name.startswith(("vision_model.", "text_model.")), name


def test_partly_unfrozen_tower_trains_its_last_layers_only(tmp_path):
    model = tiny_model()
    model.unfreeze("text", last_groups=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_trainer(tmp_path, model, max_steps=3).train()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    towers = {name for name in moved if name.startswith(("vision_model.", "text_model."))}
    assert towers and all(name.startswith("text_model.transformer.layer.1.") for name in towers)


def test_temperature_is_not_decayed(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.1)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert "visual_projection.linear1.weight" in decayed
    assert "logit_scale" not in decayed


def test_logged_loss_is_the_mean_over_steps(tmp_path):
    """The tutorial prints its short last batch's loss as the epoch's."""
    trainer = make_trainer(tmp_path, num_train_epochs=1, logging_steps=1)
    trainer.train()
    steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    final = next(entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry)
    assert len(steps) == 3 and final == pytest.approx(np.mean(steps), abs=1e-4)


def test_errors_are_sentences(tmp_path):
    with pytest.raises(ValueError, match=r"'auto', 'always', 'never', got 'sometimes'"):
        make_trainer(tmp_path, feature_cache="sometimes")
    with pytest.raises(ValueError, match="'first', 'random'"):
        make_trainer(tmp_path, caption_sampling="best")
    trainer = make_trainer(tmp_path)
    trainer.train_dataset = Dataset.from_dict({"picture": [1], "captions": [["a"]]})
    with pytest.raises(ValueError, match=r"lacks the column\(s\) image, image_id"):
        trainer.train()
    trainer.train_dataset = None
    with pytest.raises(ValueError, match="train_dataset"):
        trainer.train()


def test_languages_are_measured_one_by_one(tmp_path):
    """Metrics of a language are those of its captions alone; the usual names hold their mean."""
    data = tiny_dataset(24)
    spoken = Dataset.from_dict(
        {**data.to_dict(), "languages": [["en", "de"]] * 24},
        features=Features({**data.features, "languages": data.features["captions"]}),
    )
    trainer = make_trainer(tmp_path)
    metrics = trainer.evaluate(spoken)
    for place, language in enumerate(("en", "de")):
        alone = data.map(lambda row, place=place: {"captions": [row["captions"][place]]})
        expected = trainer.evaluate(alone)
        for name in METRICS - {"eval_loss"}:
            assert metrics[f"{name}_{language}"] == pytest.approx(expected[name], abs=1e-6), name
    for name in METRICS - {"eval_loss"}:
        assert metrics[name] == pytest.approx((metrics[f"{name}_en"] + metrics[f"{name}_de"]) / 2)
