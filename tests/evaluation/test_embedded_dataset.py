"""Pins: a whole data set, embedded in any batch size, gives the metrics of a brute-force NumPy computation;
dropout stays off; rows of the same image are one image with all their captions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from hf_customclip.data import load_image_text_dataset
from hf_customclip.evaluation.embedded_dataset import embed_dataset
from hf_customclip.inference import encode_images, encode_texts

SAMPLE = str(Path(__file__).parents[2] / "examples" / "sample")
CAPTIONS = ["a red cat", "the green dog in a house", "blue bird", "small tree", "a photo of a big house"]


@pytest.fixture(scope="module")
def dataset(images):
    """24 rows of 22 images with 1 to 3 captions each; rows 22 and 23 show images 3 and 0 again."""
    rng = np.random.default_rng(1)
    captions = [list(rng.permutation(CAPTIONS)[: 1 + i % 3]) for i in range(24)]
    ids = [f"{i:02}.jpg" for i in range(22)] + ["03.jpg", "00.jpg"]
    mixed = [image.convert("RGB") for image in images[:22]] + [images[3], images[0]]
    features = Features(
        {"image": ImageFeature(), "captions": List(Value("string")), "image_id": Value("string")}
    )
    return Dataset.from_dict({"image": mixed, "captions": captions, "image_id": ids}, features=features)


def one_by_one(model, processor, dataset):
    """Each row alone through the forward pass: embeddings, and ids as the data set has them."""
    model.eval()
    images, texts, text_ids = [], [], []
    for row in dataset:
        with torch.no_grad():
            out = model(**processor(images=[row["image"]], text=row["captions"], return_tensors="pt"))
        images.append(out.image_embeds[0].numpy())
        texts += list(out.text_embeds.numpy())
        text_ids += [row["image_id"]] * len(row["captions"])
    model.train()
    return np.array(images), np.array(texts), list(dataset["image_id"]), text_ids


def brute_force(images, texts, image_ids, text_ids):
    """In NumPy, from the whole score matrix; nothing is shared with the library."""
    first = [row for row, image_id in enumerate(image_ids) if image_id not in image_ids[:row]]
    scores = (images[first].astype("f8") @ texts.astype("f8").T).astype("f4")
    right = np.array(image_ids)[first][:, None] == np.array(text_ids)[None]
    metrics = {}
    for way, s, r in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        best = np.where(r, s, -np.inf).max(1, keepdims=True)
        ranks = 1 + ((s >= best) & ~r).sum(1)
        metrics |= {f"{way}_recall@{k}": (ranks <= k).mean() for k in (1, 5, 10)}
        metrics |= {f"{way}_median_rank": np.median(ranks), f"{way}_mean_rank": ranks.mean()}
    metrics["rsum"] = 100 * sum(v for k, v in metrics.items() if "recall" in k)
    return metrics


def check_against_brute_force(model, processor, dataset, batch_size):
    """Embeddings against rows embedded alone, to rounding; metrics against NumPy's, to 1e-6."""
    embedded = embed_dataset(model, processor, dataset, batch_size)
    images, texts, image_ids, text_ids = one_by_one(model, processor, dataset)
    np.testing.assert_allclose(embedded.image_embeds, images, atol=1e-5)
    np.testing.assert_allclose(embedded.text_embeds, texts, atol=1e-5)
    # Ranked from the same embeddings: those of rows embedded alone tie or not by their last bits.
    expected = brute_force(embedded.image_embeds.numpy(), embedded.text_embeds.numpy(), image_ids, text_ids)
    assert embedded.metrics() == pytest.approx(expected, abs=1e-6)
    return expected


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_metrics_agree_with_brute_force(model, processor, dataset, batch_size):
    check_against_brute_force(model, processor, dataset, batch_size)


def test_the_samples_test_split_agrees_with_brute_force(model, processor):
    """Drawn emoji with two captions each, ranked by a random model."""
    split = load_image_text_dataset(SAMPLE, split="test")
    expected = check_against_brute_force(model, processor, split, batch_size=32)
    assert 0 < expected["t2i_recall@10"] < 0.5


def test_every_caption_keeps_its_image(model, processor, dataset):
    embedded = embed_dataset(model, processor, dataset)
    # The ids sort as the file names do; rows 22 and 23 show images 3 and 0 again.
    assert embedded.image_ids.tolist() == [*range(22), 3, 0]
    assert embedded.text_image_ids[-len(dataset[23]["captions"]) :].unique().tolist() == [0]
    assert len(embedded.text_embeds) == sum(len(captions) for captions in dataset["captions"])


def test_embeddings_are_unit_float32_and_the_same_twice(model, processor, images):
    for embed, items in ((encode_images, images), (encode_texts, CAPTIONS)):
        first = embed(model, processor, items)
        assert first.dtype == torch.float32
        torch.testing.assert_close(first.norm(dim=1), torch.ones(len(items)))
        assert torch.equal(first, embed(model, processor, items))
        assert not first.requires_grad


def test_a_half_precision_model_gives_float32_embeddings(processor, images, model):
    half = model.__class__(model.config).to(torch.bfloat16)
    assert encode_images(half, processor, images[:2]).dtype == torch.float32
