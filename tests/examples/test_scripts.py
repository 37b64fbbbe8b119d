"""Pins: the scripts in examples/ do what their first lines promise."""

import importlib.util
from pathlib import Path

import pytest
from tiny import tiny_dataset, tiny_model, tiny_processor

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(name):
    """An example as a module; what stands under `if __name__` is left."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(tiny_dataset(4)["image"]):
        image.save(folder / f"{number}.png")
    return sorted(map(str, folder.iterdir()))


def test_classify(saved_model, images, capsys):
    best = script("classify").classify(saved_model, images, ["red square", "red circle"])
    assert list(best) == images and set(best.values()) <= {"red square", "red circle"}
    said = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{p} {best[p]} 0.") for p, line in zip(images, said, strict=True)] == [True] * 4


def test_moderate(saved_model, images, capsys):
    policy = EXAMPLES / "policies" / "emoji.yaml"
    actions = script("moderate").moderate(saved_model, str(policy), images, "a mug of beer")
    said = capsys.readouterr().out
    assert set(actions) <= {"flag", "review"}, "the text is a prompt word for word"
    assert said.count('alcohol: the text near "a mug of beer" (1.000 >= 0.294)') == 4


def test_export(saved_model, images, tmp_path):
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    pytest.importorskip("onnxscript", reason="the export extra is not installed")
    pytest.importorskip("torch", minversion="2.14")
    import torch

    from hf_customclip.inference.encode import encode_images, encode_texts

    found = script("export").export_and_search(saved_model, tmp_path / "onnx", images, "large red circle")
    cosines = encode_images(tiny_model(), tiny_processor(), images) @ encode_texts(
        tiny_model(), tiny_processor(), ["large red circle"]
    ).squeeze(0)
    assert found == [images[i] for i in torch.argsort(cosines, descending=True).tolist()]
