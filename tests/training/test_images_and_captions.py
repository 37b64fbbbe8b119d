"""Pins: batches of images each with all its captions, whole and shared out; training on them on cached features or
not gives the same weights; a resumed run continues to the same bits, averaged weights and views included; the model is
the average of its weights; a closed form is a model that saves and loads; the hubness bank is saved with it and holds
training embeddings alone."""

import numpy as np
import pytest
import torch
import transformers as tr
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_dataset, tiny_model
from tiny_training import make_trainer

from hf_customclip.data.sampler import ImageBatchSampler
from hf_customclip.inference.hubness import HubnessBank
from hf_customclip.training.ema import WeightAverage

IMAGES = {"batch_of": "images", "captions_per_image": None, "per_device_train_batch_size": 8}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=4, max_size=20),
    batch_size=st.integers(1, 6),
    processes=st.integers(1, 3),
    captions_per_image=st.sampled_from([None, 1, 2]),
    sampling=st.sampled_from(["first", "random"]),
    epoch=st.integers(0, 3),
)
def test_every_image_once_with_its_captions(
    counts, batch_size, processes, captions_per_image, sampling, epoch
):
    ends = np.cumsum(counts)
    images = [list(range(end - count, end)) for end, count in zip(ends, counts, strict=True)]
    if sum(count > 0 for count in counts) < processes:
        return
    options = {"captions_per_image": captions_per_image, "caption_sampling": sampling, "num_views": 3}
    shares = []
    for index in range(processes):
        sampler = ImageBatchSampler(
            images, batch_size, process_index=index, num_processes=processes, **options
        )
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    # Together the shares are what one process would see in batches as large.
    whole = ImageBatchSampler(images, batch_size * processes, **options)
    whole.set_epoch(epoch)
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert sorted(batch) == sorted(item for part in parts for item in part)
        assert max(map(len, parts)) <= batch_size
    seen = {image: set(captions) for image, captions in enumerate(images) if captions}
    for _, captions in (item for share in shares for batch in share for item in batch):
        image = next(i for i, of_image in seen.items() if captions[0] in of_image)
        owned = seen.pop(image)
        assert set(captions) <= owned and len(set(captions)) == len(captions)
        assert len(captions) == len(
            owned if captions_per_image is None else images[image][:captions_per_image]
        )
    assert not seen


def test_cached_or_not_the_weights_are_the_same(tmp_path):
    weights = []
    for mode in ("never", "always"):
        trainer = make_trainer(
            tmp_path / mode, max_steps=3, feature_cache=mode, feature_cache_dir=str(tmp_path / "features"),
            feature_precision="float32", head_init=None, ema_decay=None, hubness_bank_size=0, **IMAGES,
        )  # fmt: skip
        trainer.train()
        weights.append(dict(trainer.model.visual_projection.named_parameters()))
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-5)


def test_resume_continues_to_the_same_bits(tmp_path):
    options = {**IMAGES, "image_views": 3, "feature_cache_dir": str(tmp_path / "features")}
    straight = make_trainer(tmp_path / "a", save_strategy="steps", save_steps=2, **options)
    straight.train()
    again = make_trainer(tmp_path / "b", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert straight.state.global_step == again.state.global_step == 6
    for (name, one), other in zip(straight.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average, expected = WeightAverage(model, decay=0.3), 0.0
    for step, value in enumerate([1.0, 5.0, -2.0], start=1):
        torch.nn.init.constant_(model.weight, value)
        average.on_step_end(None, None, None)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.shown():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == -2.0


def test_closed_form_round_trip(tmp_path):
    model = tiny_model(standardize_features=True, feature_dropout=0.5)
    trainer = make_trainer(tmp_path, model, method="closed_form", **IMAGES)
    before = trainer.evaluate()["eval_rsum"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_rsum"] > before + 50
    trainer.save_model()
    again = tr.AutoModel.from_pretrained(tmp_path).eval()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    # Standardised: the features of the training data have mean 0 and variance 1 behind the head's first step.
    batch = next(iter(trainer.get_eval_dataloader()))
    seen = again.visual_projection.input(batch["image_features"].float())
    torch.testing.assert_close(seen.mean(0), torch.zeros(32), atol=2e-2, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(32), atol=2e-2, rtol=0)


def test_the_bank_holds_training_embeddings_alone(tmp_path):
    trainer = make_trainer(tmp_path, hubness_bank_size=5, **IMAGES)
    trainer.eval_dataset = tiny_dataset(64).select(range(40, 64))
    metrics = trainer.evaluate()
    assert {"eval_rsum", "eval_csls_rsum", "eval_csls_t2i_recall@1"} <= set(metrics)
    trainer.save_model()
    bank = HubnessBank.load(tmp_path)
    assert bank.image_embeds.shape == bank.text_embeds.shape == (5, 16)
    embedded = trainer.predict(trainer.train_dataset).predictions
    nearest = (bank.image_embeds @ torch.from_numpy(embedded[0]).T).max(1).values
    assert (nearest > 0.999).all()
    one_caption = make_trainer(tmp_path / "one", batch_of="images", captions_per_image=1)
    assert "eval_csls_rsum" in one_caption.evaluate()  # of the captions that have features
    without = make_trainer(tmp_path / "none", hubness_bank_size=0, **IMAGES)
    assert "eval_csls_rsum" not in without.evaluate()


def test_a_closed_form_model_in_onnx_and_the_pipeline(tmp_path):
    pytest.importorskip("onnxruntime")
    from hf_customclip.export import export_onnx

    model = tiny_model(standardize_features=True, vision_feature_layers="auto", text_feature_layers="auto")
    trainer = make_trainer(tmp_path / "model", model, method="closed_form", **IMAGES)
    trainer.train()
    trainer.save_model()
    # The export compares both graphs with the model itself.
    differences = export_onnx(trainer.model, trainer.processing_class, tmp_path / "onnx")
    assert max(differences.values()) < 1e-4
    answer = tr.pipeline("zero-shot-image-classification", model=str(tmp_path / "model"))(
        tiny_dataset(1)[0]["image"], candidate_labels=["a red square", "a blue circle"]
    )
    assert sum(guess["score"] for guess in answer) == pytest.approx(1)
