"""Pins: the open_clip-style calls give the model's own embeddings; the real clip_benchmark, where installed,
runs our models from its own command line and functions and finds the numbers we find; torchmetrics' CLIPScore is
a hundred times our cosine."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Image
from tiny import tiny_dataset, tiny_processor, tiny_tokenizer

from hf_customclip import CustomClipProcessor
from hf_customclip.evaluation import adapters
from hf_customclip.evaluation.embedded_dataset import embed_dataset
from hf_customclip.inference import encode_images, encode_texts
from hf_customclip.inference.zero_shot import ZeroShotClassifier

TEXTS = ["a large red square on white", "small blue circle", "this is a photo"]


@pytest.fixture(scope="module")
def loaded(saved_model):
    return adapters.load_open_clip_style(saved_model, pretrained="main")


def test_encodes_as_the_model_does(loaded, model, processor):
    adapted, transform, tokenizer = loaded
    originals = tiny_dataset(4)["image"][:]
    with torch.no_grad():
        images = adapted.encode_image(torch.stack([transform(image) for image in originals]))
        texts = adapted.encode_text(tokenizer(TEXTS))
        normal_images, normal_texts, scale = adapted(
            torch.stack([transform(image) for image in originals]), tokenizer(TEXTS)
        )
    assert not torch.allclose(images.norm(dim=1), torch.ones(4)), "open_clip's features are not normalised"
    torch.testing.assert_close(F.normalize(images, dim=-1), encode_images(model, processor, originals))
    # Here padded to 32 tokens without a mask, there to the longest text with one.
    torch.testing.assert_close(F.normalize(texts, dim=-1), encode_texts(model, processor, TEXTS))
    torch.testing.assert_close(normal_images, F.normalize(images, dim=-1))
    torch.testing.assert_close(normal_texts, F.normalize(texts, dim=-1))
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-4)


def test_tokens_are_one_length_and_cut(loaded):
    tokens = loaded[2](["small", "red circle " * 50])
    assert tokens.shape == (2, 32)
    assert loaded[2]("small", context_length=7).shape == (1, 7)


def test_a_tokenizer_that_pads_with_its_end_token_is_refused():
    tokenizer = tiny_tokenizer("clip")
    tokenizer.pad_token = tokenizer.eos_token
    processor = CustomClipProcessor(tiny_processor().image_processor, tokenizer)
    with pytest.raises(ValueError, match="must pad with a token of its own"):
        adapters.OpenClipStyleTokenizer(processor, 32)


@pytest.fixture(scope="module")
def flickr(tmp_path_factory):
    """24 images with two captions each in the form in which CLIP_benchmark reads Flickr30k."""
    root = tmp_path_factory.mktemp("flickr")
    lines = ["image,caption"]
    for row in tiny_dataset(24, captions=2):
        row["image"].save(root / f"{row['image_id']:02}.jpg")
        lines += [f"{row['image_id']:02}.jpg,{caption}" for caption in row["captions"]]
    (root / "captions.txt").write_text("\n".join(lines))
    return root


def ours(model, processor, flickr):
    rows = tiny_dataset(24, captions=2).remove_columns("image")
    images = [str(flickr / f"{i:02}.jpg") for i in range(24)]
    return embed_dataset(
        model, processor, rows.add_column("image", images).cast_column("image", Image())
    ).metrics()


def test_clip_benchmark_itself_measures_our_models(
    saved_model, flickr, tmp_path, monkeypatch, model, processor
):
    """Its command line, its Flickr30k reader and its metric, on a folder we saved: the same recalls."""
    pytest.importorskip("clip_benchmark")
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", [
        "clip_benchmark", "eval", "--dataset", "flickr30k", "--dataset_root", str(flickr),
        "--annotation_file", str(flickr / "captions.txt"), "--model_type", "hf_customclip",
        "--model", saved_model, "--recall_k", "1", "5", "10", "--no_amp", "--num_workers", "2",
        "--output", str(out),
    ])  # fmt: skip
    adapters.main()
    theirs, expected = json.loads(out.read_text())["metrics"], ours(model, processor, flickr)
    assert 0 < expected["t2i_recall@10"] < 1
    for k in (1, 5, 10):
        assert theirs[f"image_retrieval_recall@{k}"] == pytest.approx(expected[f"t2i_recall@{k}"], abs=1e-6)
        assert theirs[f"text_retrieval_recall@{k}"] == pytest.approx(expected[f"i2t_recall@{k}"], abs=1e-6)


def test_clip_benchmarks_label_embeddings_are_ours(loaded, model, processor):
    """Its template ensembling is the classifier's."""
    classification = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    adapted, _, tokenizer = loaded
    labels = ["red circle", "blue square", "green cross"]
    theirs = classification.zero_shot_classifier(
        adapted, tokenizer, labels, ["a photo of {c}", "the {c}"], "cpu", amp=False
    )
    expected = ZeroShotClassifier(model, processor, labels, ["a photo of {}", "the {}"]).label_embeds
    torch.testing.assert_close(theirs.T, expected)


def test_torchmetrics_clip_score(saved_model, model, processor):
    multimodal = pytest.importorskip("torchmetrics.multimodal")
    originals = [image.convert("RGB") for image in tiny_dataset(3)["image"][:]]
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in originals]
    score = multimodal.CLIPScore(lambda: adapters.load_for_clip_score(saved_model))
    cosines = (encode_images(model, processor, originals) * encode_texts(model, processor, TEXTS)).sum(1)
    assert score(pixels, TEXTS).item() == pytest.approx(max(0, 100 * cosines.mean().item()), abs=1e-3)
    assert abs(cosines.mean()) > 1e-2
