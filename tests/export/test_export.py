"""Pins: the ONNX graphs reproduce the embeddings to 1e-4 in onnxruntime, at batches and lengths other than the
exported ones, padding included, for towers of several families; the metadata say how to use them; a graph that
differs is never written; int8 graphs are smaller and rank as the model does; with a bank the graphs give each
candidate's hubness bias too."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower

from hf_customclip import CustomClipModel, CustomClipProcessor
from hf_customclip import export as exporting
from hf_customclip.export import TEXT_FILE, VISION_FILE, ExportError, export_onnx
from hf_customclip.inference.encode import encode_images, encode_texts
from hf_customclip.inference.hubness import HubnessBank

ort = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
pytest.importorskip("onnxscript", reason="the export extra is not installed")
pytest.importorskip("torch", minversion="2.14", reason="graphs are exported by torch 2.14 and later")

TEXTS = ["red", "a large red square on white", "this is a photo of the small blue circle , grey behind it"]


def run(folder, file, inputs):
    session = ort.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]


def assert_same(model, processor, folder):
    images = [*tiny_dataset(5)["image"]]
    for count in (1, 2, 5):
        pixels = processor(images=images[:count], return_tensors="pt")["pixel_values"]
        found = run(folder, VISION_FILE, {"pixel_values": pixels})
        expected = encode_images(model, processor, images[:count]).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    for texts in (TEXTS[:1], TEXTS[1:2], TEXTS, [" ".join(TEXTS * 9)]):
        tokens = processor(text=texts, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        found = run(folder, TEXT_FILE, {name: tokens[name] for name in names})
        np.testing.assert_allclose(found, encode_texts(model, processor, texts).numpy(), atol=1e-4, rtol=0)
    spread = run(folder, TEXT_FILE, {n: processor(text=TEXTS, return_tensors="pt")[n] for n in names})
    assert np.ptp(spread, axis=0).max() > 0.01, "the texts' embeddings differ, or nothing was compared"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "text"),
    [("torchvision", "distilbert"), ("timm", "bert"), ("vit", "minilm"), ("clip", "xlm_roberta")],
)
def test_graphs_reproduce_the_embeddings(vision, text, tmp_path):
    towers = tiny_vision_tower(vision, tmp_path / "v"), tiny_text_tower(text, tmp_path / "t")
    torch.manual_seed(0)
    model = CustomClipModel.from_vision_text_pretrained(*towers, projection_dim=16).eval()
    processor = CustomClipProcessor.from_vision_text_pretrained(*towers)
    differences = export_onnx(model, processor, tmp_path / "onnx")
    assert set(differences) == {VISION_FILE, TEXT_FILE} and max(differences.values()) <= 1e-4
    assert_same(model, CustomClipProcessor.from_pretrained(tmp_path / "onnx"), tmp_path / "onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "onnx"
    model, processor = tiny_model(loss_type="sigmoid"), tiny_processor()
    export_onnx(model, processor, folder)
    return model, processor, folder


def test_metadata_say_how_to_use_them(exported):
    model, processor, folder = exported
    assert_same(model, processor, folder)
    expected = {
        "loss_type": "sigmoid",
        "inverse_temperature": pytest.approx(10.0),
        "logit_bias": pytest.approx(-10.0),
    }
    for file in (VISION_FILE, TEXT_FILE):
        metadata = ort.InferenceSession(folder / file).get_modelmeta().custom_metadata_map
        assert metadata["loss_type"] == "sigmoid" and metadata["producer"].startswith("hf-customclip ")
        for name, value in expected.items():
            if name != "loss_type":
                assert json.loads(metadata[name]) == value
        preprocessing = json.loads(metadata["preprocessing"])
        if file == VISION_FILE:
            assert preprocessing["crop_size"] == {"height": 32, "width": 32} and preprocessing["image_mean"]
        else:
            assert preprocessing["max_length"] == 32 and (folder / preprocessing["tokenizer"]).is_file()


def test_graphs_of_a_model_that_cuts_its_embeddings(tmp_path):
    model, processor = tiny_model(truncate_dim=6), tiny_processor()
    export_onnx(model, processor, tmp_path)
    tokens = processor(text=TEXTS, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    whole = encode_texts(tiny_model(), processor, TEXTS)[:, :6]
    cut = torch.nn.functional.normalize(whole, dim=-1).numpy()
    np.testing.assert_allclose(run(tmp_path, TEXT_FILE, inputs), cut, atol=1e-4)


@pytest.mark.parametrize("width", [None, 6])
def test_graphs_with_a_bank_give_each_candidates_bias(tmp_path, width):
    model, processor = tiny_model(truncate_dim=width), tiny_processor()
    bank = HubnessBank(*torch.nn.functional.normalize(torch.randn(2, 30, 16), dim=-1))
    export_onnx(model, processor, tmp_path, bank=bank)
    tokens = processor(text=TEXTS, return_tensors="pt")
    inputs = {name: tokens[name].numpy() for name in ("input_ids", "attention_mask")}
    embeds, bias = ort.InferenceSession(tmp_path / TEXT_FILE).run(["text_embeds", "hubness_bias"], inputs)
    others = bank.image_embeds.numpy()[:, :width]
    others = others / np.linalg.norm(others, axis=1, keepdims=True)
    highest = np.sort(embeds @ others.T, axis=1)[:, -10:]
    np.testing.assert_allclose(bias, highest.mean(1) / 2, atol=1e-4)
    pixels = processor(images=tiny_dataset(5)["image"][:], return_tensors="pt")["pixel_values"].numpy()
    embeds, bias = ort.InferenceSession(tmp_path / VISION_FILE).run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(bias, bank.image_bias(torch.from_numpy(embeds)).numpy(), atol=1e-4)


def test_int8_graphs_are_smaller_and_rank_as_the_model_does(exported, tmp_path):
    """By recall, not by error alone: of all drawings the queries find nearly what they find with the model."""
    model, processor, whole = exported
    found = export_onnx(model, processor, tmp_path, quantize="int8")
    vision, text = (file.replace(".onnx", "_quantized.onnx") for file in (VISION_FILE, TEXT_FILE))
    assert set(found) == {vision, text} and 0 < max(found.values()) < 0.2
    assert not list(tmp_path.glob("*_model.onnx"))
    for file, original in ((vision, VISION_FILE), (text, TEXT_FILE)):
        assert (tmp_path / file).stat().st_size < 0.85 * (whole / original).stat().st_size
    data = tiny_dataset(96)
    inputs = processor(
        images=data["image"][:], text=[row[0] for row in data["captions"]], return_tensors="pt"
    )
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    images, texts = run(tmp_path, vision, {"pixel_values": inputs["pixel_values"]}), run(tmp_path, text, ids)
    embeds = [
        encode(model, processor, rows)
        for encode, rows in (
            (encode_images, data["image"][:]),
            (encode_texts, [row[0] for row in data["captions"]]),
        )
    ]
    right = (embeds[1] @ embeds[0].T).topk(10).indices.numpy()
    top = (texts @ images.T).argsort(1)[:, -10:]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(right, top, strict=True)]) > 0.9
    with pytest.raises(ValueError, match="int8"):
        export_onnx(model, processor, tmp_path, quantize="int4")


def test_inputs_are_named_and_free(exported):
    folder = exported[2]
    (pixels,) = ort.InferenceSession(folder / VISION_FILE).get_inputs()
    assert pixels.name == "pixel_values" and pixels.shape == ["batch", 3, 32, 32]
    ids, mask = ort.InferenceSession(folder / TEXT_FILE).get_inputs()
    assert [ids.name, mask.name] == ["input_ids", "attention_mask"] and ids.shape == ["batch", "length"]


def test_the_model_is_left_as_it_was_and_nothing_unfinished_remains(exported):
    model, _, folder = exported
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), tiny_model(loss_type="sigmoid").parameters(), strict=True)
    )
    assert {path.name for path in folder.iterdir()} >= {
        VISION_FILE,
        TEXT_FILE,
        "processor_config.json",
        "tokenizer.json",
    }
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(
        ExportError, match=r"vision_model\.onnx differs from the model by .* nothing was written"
    ):
        export_onnx(tiny_model(), tiny_processor(), tmp_path)
    assert list(tmp_path.iterdir()) == []
