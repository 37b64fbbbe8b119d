"""The handler for Inference Endpoints, called as their toolkit calls it: loaded from the published folder by its file,
in a process that cannot import this package, with JSON bodies.

Pinned: scores are those of transformers' pipeline, embeddings those of the model; images as base64, data URL, open
image, one or many; a template; wrong requests, damaged and oversized images are errors of one line, as JSON; it comes
with every push, with what to install, and a handler of one's own stays.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi
from interpreters import run_python
from PIL import Image
from tiny import tiny_dataset, tiny_processor
from transformers import pipeline

from hf_customclip import CustomClipModel
from hf_customclip.hub import push_folder
from hf_customclip.hub.push import add_serving_files
from hf_customclip.inference.encode import encode_images, encode_texts

from .folders import held, save_ready
from .server import LocalHub

LABELS = ["a large red square on white", "a small blue circle"]
IMAGES = tiny_dataset(3)["image"][:]


def encoded(image: Image.Image, format: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, format)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def folder(saved: Path) -> Path:
    add_serving_files(saved)
    return saved


@pytest.fixture(scope="module")
def ask(folder: Path) -> Callable[..., Any]:
    """As the toolkit: load the file, call it with the parsed body, answer errors as JSON."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    handler = module.EndpointHandler(str(folder))

    def answer(**body: Any) -> Any:
        try:
            return json.loads(json.dumps(handler(body)))
        except Exception as error:
            return {"error": str(error)}

    return answer


def test_scores_are_the_pipelines(ask: Callable[..., Any], folder: Path) -> None:
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    expected = classify(IMAGES, candidate_labels=LABELS, hypothesis_template="this is {}")
    parameters = {"candidate_labels": LABELS, "hypothesis_template": "this is {}"}
    many = ask(inputs=[encoded(image) for image in IMAGES], parameters=parameters)
    for ours, theirs in zip(many, expected, strict=True):
        assert [guess["label"] for guess in ours] == [guess["label"] for guess in theirs]
        scores = [guess["score"] for guess in theirs]
        assert [guess["score"] for guess in ours] == pytest.approx(scores, abs=1e-5)
    one = ask(inputs={"image": encoded(IMAGES[0])}, parameters=parameters)
    assert one == [{**guess, "score": pytest.approx(guess["score"], abs=1e-5)} for guess in many[0]]
    assert ask(inputs="data:image/png;base64," + encoded(IMAGES[0]), parameters=parameters) == one


def test_an_image_as_the_body(ask: Callable[..., Any]) -> None:
    """The toolkit opens it; parameters come from the query, as texts. It is not JSON, so it is asked for here."""
    labels = {"candidate_labels": ", ".join(LABELS)}
    from_query = ask(inputs=IMAGES[0], parameters=labels)
    assert from_query == ask(inputs=encoded(IMAGES[0]), parameters={"candidate_labels": LABELS})
    assert ask(inputs=IMAGES[0]) == ask(inputs={"images": [encoded(IMAGES[0])]})


def test_embeddings_are_the_models(ask: Callable[..., Any], folder: Path) -> None:
    model, processor = CustomClipModel.from_pretrained(folder), tiny_processor()
    answer = ask(inputs={"images": [encoded(image) for image in IMAGES], "texts": LABELS})
    images = encode_images(model, processor, IMAGES).numpy()
    np.testing.assert_allclose(answer["image_embeds"], images, atol=1e-5)
    np.testing.assert_allclose(
        answer["text_embeds"], encode_texts(model, processor, LABELS).numpy(), atol=1e-5
    )
    assert ask(inputs=LABELS)["text_embeds"] == answer["text_embeds"]
    many = ask(inputs=LABELS * 40)["text_embeds"]
    np.testing.assert_allclose(many, answer["text_embeds"] * 40, atol=1e-5)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "needs 'inputs'"),
    "another key": ({"inputs": {"pictures": []}}, "it holds pictures"),
    "no text": ({"inputs": []}, "none of them empty"),
    "a number": ({"inputs": 3}, "must be a text"),
    "no base64": ({"inputs": {"images": ["???"]}}, "Image 0 cannot be read"),
    "no image": (
        {"inputs": {"images": ["aGVsbG8="]}},
        "Image 0 cannot be read: it is not base64 of an image",
    ),
    "a path": ({"inputs": {"images": ["/etc/passwd"]}}, "cannot be read"),
    "truncated": ({"inputs": {"images": [encoded(IMAGES[0])[:120]]}}, "Image 0 cannot be read"),
    "no labels": ({"inputs": encoded(IMAGES[0]), "parameters": {"candidate_labels": []}}, "candidate_labels"),
    "too many": ({"inputs": ["x"] * 257}, "at most 256"),
    "no image to classify": ({"inputs": {}, "parameters": {"candidate_labels": ["x"]}}, "There is no image"),
    "a template without place": (
        {"inputs": encoded(IMAGES[0]), "parameters": {"candidate_labels": ["x"], "hypothesis_template": "y"}},
        "hypothesis_template",
    ),
    "too large a file": ({"inputs": {"images": ["A" * 28_000_000]}}, "larger than 20 MB"),
    "too many pixels": (
        {"inputs": {"images": [encoded(Image.new("1", (10_000, 6_000)))]}},
        "10000 x 6000 pixels",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_answered(ask: Callable[..., Any], name: str) -> None:
    body, message = WRONG[name]
    error = ask(**body)["error"]
    assert message in error and "\n" not in error


@pytest.mark.slow
def test_published_and_run_without_this_package(
    hub: LocalHub, api: HfApi, folder: Path, tmp_path: Path, ask: Callable[..., Any]
) -> None:
    push_folder(save_ready(tmp_path / "model"), "alice/m", api=api)
    assert {"handler.py", "requirements.txt"} <= held(hub).keys()
    there = api.snapshot_download("alice/m", local_dir=tmp_path / "endpoint")
    code = f"""
import sys
sys.modules["hf_customclip"] = None
sys.path.insert(0, {there!r})
import json
from handler import EndpointHandler
print(json.dumps(EndpointHandler({there!r})({{"inputs": {LABELS!r}}})))
"""
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(answer["text_embeds"], ask(inputs=LABELS)["text_embeds"], atol=1e-5)


def test_a_handler_of_ones_own_stays(tmp_path: Path) -> None:
    folder = save_ready(tmp_path)
    (folder / "handler.py").write_text("class EndpointHandler: ...\n")
    add_serving_files(folder)
    assert (folder / "handler.py").read_text() == "class EndpointHandler: ...\n"
    assert not (folder / "requirements.txt").exists()
