"""Pins: a whole data set, embedded in any batch size, gives the metrics of a brute-force NumPy computation;
dropout stays off; rows of the same image are one image with all their captions."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from hf_customclip.evaluation.embedding import embed_dataset, embed_images, embed_texts

CAPTIONS = ["a red cat", "the green dog in a house", "blue bird", "small tree", "a photo of a big house"]


@pytest.fixture(scope="module")
def dataset(images):
    """24 rows of 22 images with 1 to 3 captions each; rows 22 and 23 show images 3 and 0 again."""
    rng = np.random.default_rng(1)
    captions = [list(rng.permutation(CAPTIONS)[: 1 + i % 3]) for i in range(24)]
    ids = [f"{i:02}.jpg" for i in range(22)] + ["03.jpg", "00.jpg"]
    pictures = [image.convert("RGB") for image in images[:22]] + [images[3], images[0]]
    features = Features(
        {"image": ImageFeature(), "captions": List(Value("string")), "image_id": Value("string")}
    )
    return Dataset.from_dict({"image": pictures, "captions": captions, "image_id": ids}, features=features)


def brute_force(model, processor, dataset):
    """One image and one caption at a time through the forward pass, ranks by sorting in float64."""
    model.eval()
    images, texts, text_ids, ids = [], [], [], []
    for row in dataset:
        with torch.no_grad():
            out = model(**processor(images=[row["image"]], text=row["captions"], return_tensors="pt"))
        if row["image_id"] not in ids:
            ids.append(row["image_id"])
            images.append(out.image_embeds[0].double().numpy())
        texts += list(out.text_embeds.double().numpy())
        text_ids += [row["image_id"]] * len(row["captions"])
    model.train()
    scores = np.array(images) @ np.array(texts).T
    right = np.array(ids)[:, None] == np.array(text_ids)[None]
    metrics = {}
    for way, s, r in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        best = np.where(r, s, -np.inf).max(1, keepdims=True)
        # Equal captions differ by rounding here, but they are ties.
        ranks = 1 + ((s >= best - 1e-6) & ~r).sum(1)
        metrics |= {f"{way}_recall@{k}": (ranks <= k).mean() for k in (1, 5, 10)}
        metrics |= {f"{way}_median_rank": np.median(ranks), f"{way}_mean_rank": ranks.mean()}
    metrics["rsum"] = 100 * sum(v for k, v in metrics.items() if "recall" in k)
    return metrics


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_metrics_agree_with_brute_force(model, processor, dataset, batch_size):
    embedded = embed_dataset(model, processor, dataset, batch_size)
    assert embedded.image_embeds.shape == (24, 16)
    assert embedded.metrics() == pytest.approx(brute_force(model, processor, dataset), abs=1e-6)


def test_every_caption_keeps_its_image(model, processor, dataset):
    embedded = embed_dataset(model, processor, dataset)
    # The ids sort as the file names do; rows 22 and 23 show images 3 and 0 again.
    assert embedded.image_ids.tolist() == [*range(22), 3, 0]
    assert embedded.text_image_ids[-len(dataset[23]["captions"]) :].unique().tolist() == [0]
    assert len(embedded.text_embeds) == sum(len(captions) for captions in dataset["captions"])


def test_embeddings_are_unit_float32_and_the_same_twice(model, processor, images):
    for embed, items in ((embed_images, images), (embed_texts, CAPTIONS)):
        first = embed(model, processor, items)
        assert first.dtype == torch.float32
        torch.testing.assert_close(first.norm(dim=1), torch.ones(len(items)))
        assert torch.equal(first, embed(model, processor, items))
        assert not first.requires_grad


def test_a_half_precision_model_gives_float32_embeddings(processor, images, model):
    half = model.__class__(model.config).to(torch.bfloat16)
    assert embed_images(half, processor, images[:2]).dtype == torch.float32
