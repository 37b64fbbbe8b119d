"""Pins: every kind of tower comes back from a checkpoint bit for bit (weights, configuration, outputs, the
files of a second save), by every Auto class, with the towers' own folders gone; the towers' pretrained
weights are what the new model starts from; checkpoints are safetensors and hold all the code they need."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny import (
    TEXT_KINDS,
    VISION_KINDS,
    tiny_dataset,
    tiny_model,
    tiny_processor,
    tiny_text_tower,
    tiny_vision_tower,
)
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    pipeline,
)

from hf_customclip import CustomClipConfig, CustomClipModel, CustomClipProcessor, TorchvisionBackboneModel

PAIRS = [(vision, "distilbert") for vision in VISION_KINDS] + [("vit", text) for text in TEXT_KINDS[1:]]
POOLINGS = {"minilm": "mean", "t5": "mean", "clip": "pooler"}


def batch(processor, count=3):
    data = tiny_dataset(count)
    text = [captions[0] for captions in data["captions"]]
    return processor(images=list(data["image"]), text=text, return_tensors="pt")


def assert_same_weights(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


@torch.no_grad()
def assert_same_outputs(model, other, inputs):
    for tensor in (*other.parameters(), *other.buffers()):
        # A loaded tensor starts anywhere in its file; kernels round otherwise on memory aligned otherwise.
        tensor.data = tensor.data.clone()
    ours, theirs = model.eval()(**inputs), other.eval()(**inputs)
    assert ours.logits_per_image.std() > 0, "constant logits would prove nothing"
    for name in ("logits_per_image", "image_embeds", "text_embeds"):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_bit_for_bit(vision, text, tmp_path):
    towers = tiny_vision_tower(vision, tmp_path / "vision"), tiny_text_tower(text, tmp_path / "text")
    options = {"projection_dim": 16, "text_pooling": POOLINGS.get(text, "cls")}
    model = CustomClipModel.from_vision_text_pretrained(*towers, **options)
    processor = CustomClipProcessor.from_vision_text_pretrained(*towers)
    inputs = batch(processor)
    model.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    for tower in towers:
        shutil.rmtree(tower)

    again, loading = AutoModel.from_pretrained(tmp_path / "first", output_loading_info=True)
    assert type(again) is CustomClipModel
    assert not any(loading.values()), loading
    assert_same_weights(model, again)
    assert_same_outputs(model, again, inputs)
    assert again.config.to_dict() == AutoConfig.from_pretrained(tmp_path / "first").to_dict()

    processor_again = AutoProcessor.from_pretrained(tmp_path / "first")
    assert type(processor_again) is CustomClipProcessor
    for name, tensor in batch(processor_again).items():
        assert torch.equal(tensor, inputs[name]), name

    again.save_pretrained(tmp_path / "second")
    processor_again.save_pretrained(tmp_path / "second")
    assert_same_folders(tmp_path / "first", tmp_path / "second")


def assert_same_folders(first: Path, second: Path):
    names = {path.name for path in first.iterdir()}
    assert names == {path.name for path in second.iterdir()}
    for name in names - {"tokenizer_config.json"}:  # transformers notes there whether it was loaded locally
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.slow
def test_torchvision_vision_transformer(tmp_path):
    """88 million weights: no torchvision vision transformer is smaller."""
    model = CustomClipModel.from_vision_text_pretrained(
        "vit_b_32", tiny_text_tower("distilbert", tmp_path / "text"), vision_weights=None
    )
    assert model.config.vision_embed_dim == 768
    model.save_pretrained(tmp_path / "whole")
    again = AutoModel.from_pretrained(tmp_path / "whole")
    assert_same_weights(model, again)
    tokens = torch.tensor([[2, 5, 3]])
    inputs = {"pixel_values": torch.randn(2, 3, 224, 224), "input_ids": tokens}
    assert_same_outputs(model, again, inputs)


@pytest.mark.parametrize("vision", VISION_KINDS)
def test_starts_from_the_image_towers_weights(vision, tmp_path):
    towers = tiny_vision_tower(vision, tmp_path / "vision"), tiny_text_tower("bert", tmp_path / "text")
    model = CustomClipModel.from_vision_text_pretrained(*towers)
    original = AutoModel.from_pretrained(towers[0])
    assert_same_weights(model.vision_model, getattr(original, "vision_model", original))


@pytest.mark.parametrize("text", TEXT_KINDS)
def test_starts_from_the_text_towers_weights(text, tmp_path):
    towers = tiny_vision_tower("vit", tmp_path / "vision"), tiny_text_tower(text, tmp_path / "text")
    model = CustomClipModel.from_vision_text_pretrained(*towers, text_pooling="mean")
    auto = AutoModelForTextEncoding if text == "t5" else AutoModel
    original = auto.from_pretrained(towers[1])
    assert_same_weights(model.text_model, getattr(original, "text_model", original))


def test_torchvision_weights_are_kept(tmp_path, monkeypatch):
    """Neither `post_init` nor joining may touch them, BatchNorm statistics included."""
    weights = TorchvisionBackboneModel.from_torchvision("shufflenet_v2_x0_5", None).network.state_dict()
    published = {name: (w + torch.rand_like(w.float()) / 100).to(w.dtype) for name, w in weights.items()}
    published |= {"fc.weight": torch.zeros(1000, 1024), "fc.bias": torch.zeros(1000)}
    checkpoints = tmp_path / "torch/hub/checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(published, checkpoints / "shufflenetv2_x0.5-f707e7126e.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    text = tiny_text_tower("distilbert", tmp_path / "text")
    model = CustomClipModel.from_vision_text_pretrained("shufflenet_v2_x0_5", text)
    model.save_pretrained(tmp_path / "whole")
    for loaded in (model, CustomClipModel.from_pretrained(tmp_path / "whole")):
        for name, tensor in loaded.vision_model.network.state_dict().items():
            assert torch.equal(tensor, published[name]), name


@pytest.fixture(scope="module")
def folder(saved_model):
    return Path(saved_model)


def test_auto_classes(folder):
    assert type(AutoConfig.from_pretrained(folder)) is CustomClipConfig
    assert type(AutoModel.from_pretrained(folder)) is CustomClipModel
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(folder)) is CustomClipModel
    assert type(AutoProcessor.from_pretrained(folder)) is CustomClipProcessor


def test_pipeline_with_nothing_but_the_folder(folder):
    """And its scores are this model's own."""
    image = tiny_dataset(1)["image"][0]
    labels = ["red square", "blue circle", "green cross"]
    scores = {row["label"]: row["score"] for row in pipeline(
        "zero-shot-image-classification", model=str(folder))(image, candidate_labels=labels)}  # fmt: skip
    inputs = tiny_processor()(
        images=image, text=[f"This is a photo of {x}." for x in labels], return_tensors="pt"
    )
    with torch.no_grad():
        expected = tiny_model()(**inputs).logits_per_image.softmax(-1)[0]
    assert [scores[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-6)
    assert max(scores.values()) - min(scores.values()) > 1e-3


def test_only_safetensors_and_all_the_code(folder):
    """Every sibling that a code file imports lies beside it, and nothing needs this package."""
    names = {path.name for path in folder.iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    sources = {path.name: path.read_text() for path in folder.glob("*.py")}
    assert sources
    for source in sources.values():
        for line in source.splitlines():
            if line.startswith("from ."):
                assert line.split()[1].removeprefix(".") + ".py" in names, line
            assert not line.strip().startswith(("import hf_customclip", "from hf_customclip")), line


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_round_trip(dtype, tmp_path):
    model = tiny_model().to(dtype)
    model.save_pretrained(tmp_path)
    again = CustomClipModel.from_pretrained(tmp_path, dtype="auto")
    assert again.dtype == dtype
    assert_same_weights(model, again)


def test_missing_temperature_is_made_anew(folder, tmp_path):
    """Loading leaves missing parameters uninitialised unless the model says how to make them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    assert CustomClipModel.from_pretrained(tmp_path / "copy").logit_scale.item() == pytest.approx(2.6592)


def test_own_changes_to_the_configuration_survive(tmp_path):
    options = {
        "projection_type": "linear", "text_pooling": "mean", "vision_pooling": "mean", "loss_type": "sigmoid",
        "learn_logit_scale": False, "freeze_vision": False, "text_unfrozen_groups": 1, "max_text_length": 16,
        "vision_name": "somebody/vit", "projection_dropout": 0.1,
    }  # fmt: skip
    model = tiny_model(**options)
    model.save_pretrained(tmp_path)
    again = CustomClipModel.from_pretrained(tmp_path)
    assert {name: getattr(again.config, name) for name in options} == options
    assert_same_weights(model, again)
