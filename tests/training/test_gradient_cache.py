"""Pins: cached gradients are the plain batch's, dropout included (against one plain graph over chunks run from
the same random states, and against plain batches without dropout); they are not if the random state is not
replayed; live BatchNorm counts once; accumulation and training runs work."""

import copy

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor
from tiny_training import make_trainer
from torch import nn

from hf_customclip import CustomClipConfig, CustomClipModel
from hf_customclip.training import gradient_cache
from hf_customclip.training.gradient_cache import cached_backward, split_batch


def batch(rows=10):
    data = tiny_dataset(rows)
    text = [captions[0] for captions in data["captions"]]
    inputs = tiny_processor()(images=list(data["image"]), text=text, return_tensors="pt")
    names = ("pixel_values", "input_ids", "attention_mask")
    return {name: inputs[name] for name in names} | {"image_ids": torch.arange(rows) // 2}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def temperature(model):
    return [p for name, p in model.named_parameters() if name in ("logit_scale", "logit_bias")]


def run_cached(model, inputs, chunks):
    model.zero_grad()
    loss = cached_backward(
        model,
        split_batch(inputs, chunks),
        lambda images, texts: model.contrastive_loss(
            images, texts, model.inverse_temperature(), inputs["image_ids"], inputs.get("text_image_ids")
        ),
        temperature=temperature(model),
        backward=torch.Tensor.backward,
    )
    return loss.item(), gradients(model)


def run_plain_in_chunks(model, inputs, chunks):
    """One graph over all chunks: the whole batch's activations, and dropout as the chunks draw it."""
    model.zero_grad()
    outputs = [model(**chunk) for chunk in split_batch(inputs, chunks)]
    images, texts = (torch.cat([out[name] for out in outputs]) for name in ("image_embeds", "text_embeds"))
    loss = model.contrastive_loss(images, texts, model.inverse_temperature(), inputs["image_ids"])
    loss.backward()
    return loss.item(), gradients(model)


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1].keys() == other[1].keys() and one[1]
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
@pytest.mark.parametrize("unfrozen", [False, True])
def test_as_the_plain_batch_with_dropout(loss_type, unfrozen):
    model = tiny_model(loss_type=loss_type)
    if unfrozen:
        model.unfreeze()
    model.train()
    inputs = batch()
    torch.manual_seed(3)
    plain = run_plain_in_chunks(model, inputs, 4)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert_same(run_cached(model, inputs, 4), plain)
    # The random numbers go on as if the batch had been run once.
    assert torch.equal(torch.get_rng_state(), after)


def test_without_dropout_as_the_batch_in_one_piece():
    model = tiny_model(projection_dropout=0.0)
    model.unfreeze()
    model.eval()
    inputs = batch()
    assert_same(run_cached(model, inputs, 3), run_plain_in_chunks(model, inputs, 1))


def test_without_replayed_randomness_this_is_seen(monkeypatch):
    model, inputs = tiny_model().train(), batch()
    torch.manual_seed(3)
    plain = run_plain_in_chunks(model, inputs, 4)
    monkeypatch.setattr(gradient_cache, "_set_random_state", lambda state: None)
    torch.manual_seed(3)
    with pytest.raises(AssertionError):
        assert_same(run_cached(model, inputs, 4), plain)


def test_live_batch_norm_counts_once():
    vision = {"model_type": "torchvision_backbone", "architecture": "shufflenet_v2_x0_5", "image_size": 32}
    model = CustomClipModel(
        CustomClipConfig(vision_config=vision, text_config=tiny_model().config.text_config, projection_dim=16)
    )
    model.unfreeze()
    model.train()
    other = copy.deepcopy(model)
    torch.manual_seed(3)
    cached = run_cached(model, batch(), 2)
    torch.manual_seed(3)
    plain = run_plain_in_chunks(other, batch(), 2)
    assert cached[0] == pytest.approx(plain[0], abs=1e-5)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.track_running_stats for m in norms)
    for (name, a), b in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_ends_where_the_plain_run_does(tmp_path, accumulation):
    runs = []
    for chunk_size in (None, 5):
        model = tiny_model(projection_dropout=0.0)
        trainer = make_trainer(
            tmp_path,
            model,
            gradient_cache_chunk_size=chunk_size,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            optim="sgd",
            learning_rate=0.1,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        runs.append((losses, model))
    assert runs[0][0] == pytest.approx(runs[1][0], abs=1e-4)
    for (name, a), b in zip(runs[0][1].named_parameters(), runs[1][1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=name)


def test_a_chunk_has_a_pair_at_least(tmp_path):
    with pytest.raises(ValueError, match="gradient_cache_chunk_size must be at least 1 or null, got 0"):
        make_trainer(tmp_path, gradient_cache_chunk_size=0)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
@pytest.mark.parametrize("chunks", [2, 3])
def test_images_with_several_captions_each(loss_type, chunks):
    """Chunks hold captions of other chunks' images, which only the whole batch's loss compares."""
    model = tiny_model(loss_type=loss_type, projection_dropout=0.0).eval()
    features = {"image_features": torch.randn(4, 32), "text_features": torch.randn(9, 32)}
    ids = {"image_ids": torch.arange(4), "text_image_ids": torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3])}
    inputs = {**features, **ids}
    model.zero_grad()
    loss = model(**inputs, return_loss=True).loss
    loss.backward()
    whole = loss.item(), gradients(model)
    assert_same(run_cached(model, inputs, chunks), whole)
