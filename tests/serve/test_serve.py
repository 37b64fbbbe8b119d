"""Pins: OpenAI's own client gets the model's embeddings of texts and images over HTTP, as floats, as base64, and cut to
`dimensions`; the requests of Inference Endpoints are answered at `/`; wrong, malformed, oversized and slow requests
are answered as JSON of one line, and the server answers rightly afterwards; too many that wait are refused."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip.inference.encode import encode_images, encode_texts

uvicorn = pytest.importorskip("uvicorn")
serve = pytest.importorskip("hf_customclip.serve")

TEXTS = ["a large red square on white", "small blue circle"]
IMAGES = tiny_dataset(2)["image"][:]


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from hf_customclip.hub.handler import EndpointHandler

    folder = tmp_path_factory.mktemp("served")
    for part in (tiny_model(), tiny_processor()):
        part.save_pretrained(folder)
    app = serve.build_app(EndpointHandler(str(folder)), "tiny")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def expected() -> np.ndarray:
    model, processor = tiny_model(), tiny_processor()
    texts, images = encode_texts(model, processor, TEXTS), encode_images(model, processor, IMAGES)
    return np.concatenate([texts.numpy(), images.numpy()])


def test_openais_client(address: str) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    given = [*TEXTS, *("data:image/png;base64," + encoded(image) for image in IMAGES)]
    for options in ({}, {"encoding_format": "float"}):  # by default it asks for base64
        answer = client.embeddings.create(model="tiny", input=given, **options)
        found = np.array([row.embedding for row in answer.data])
        np.testing.assert_allclose(found, expected(), atol=1e-5)
    tokens = tiny_processor()(text=TEXTS, return_tensors="pt")["attention_mask"].sum()
    assert answer.usage.total_tokens == tokens
    cut = client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=4).data[0].embedding
    np.testing.assert_allclose(cut, expected()[0, :4] / np.linalg.norm(expected()[0, :4]), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="from 1 to 16"):
        client.embeddings.create(model="tiny", input="x", dimensions=17)


def test_texts_and_images_as_objects_and_the_endpoints_requests(address: str) -> None:
    items = [{"image": encoded(IMAGES[0])}, {"text": TEXTS[1]}]
    found = httpx.post(f"{address}/v1/embeddings", json={"input": items}).json()["data"]
    np.testing.assert_allclose([row["embedding"] for row in found], expected()[[2, 1]], atol=1e-5)
    body = {"inputs": encoded(IMAGES[0]), "parameters": {"candidate_labels": TEXTS}}
    guesses = httpx.post(address, json=body).json()
    assert {guess["label"] for guess in guesses} == set(TEXTS)
    assert sum(guess["score"] for guess in guesses) == pytest.approx(1)


WRONG: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "not JSON"),
    "nested without end": (b"[" * 100_000, 400, "not JSON"),
    "no object": (b"[1]", 400, "JSON object"),
    "no input": ({}, 400, "Item 0"),
    "empty": ({"input": []}, 400, "0 items"),
    "too many": ({"input": ["x"] * 257}, 400, "257 items"),
    "tokens": ({"input": [1, 2]}, 400, "Item 0"),
    "no image": ({"input": [{"image": "aGVsbG8="}]}, 400, "Image 0 cannot be read"),
    "a path": ({"input": [{"image": "/etc/passwd"}]}, 400, "cannot be read"),
    "an encoding": ({"input": "x", "encoding_format": "hex"}, 400, "float, base64"),
    "too large": (b" " * (serve.MAX_BODY_BYTES + 1), 413, "32 MB"),
    "too many pixels": ({"input": [{"image": encoded(Image.new("1", (9000, 9000)))}]}, 400, "pixels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_answered(address: str, name: str) -> None:
    body, status, message = WRONG[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{address}/v1/embeddings", content=content, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == status and message in error["message"] and "\n" not in error["message"]
    right = httpx.post(f"{address}/v1/embeddings", json={"input": TEXTS[0]}).json()["data"][0]["embedding"]
    np.testing.assert_allclose(right, expected()[0], atol=1e-5)


def test_many_large_images_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_customclip.hub.handler.MAX_PIXELS_IN_ALL", 3 * 1000)
    large = encoded(Image.new("L", (50, 40)))
    for count, status in ((1, 200), (2, 400)):
        answer = httpx.post(f"{address}/v1/embeddings", json={"input": [{"image": large}] * count})
        assert answer.status_code == status, answer.text
    assert "3,000 pixels in all" in answer.json()["error"]["message"]


def test_slow_and_waiting_requests_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "BODY_SECONDS", 0.2)

    async def ask_slowly() -> httpx.Response:
        async def drops() -> Any:
            yield b"{"
            await asyncio.sleep(5)

        async with httpx.AsyncClient() as client:
            return await client.post(f"{address}/v1/embeddings", content=drops())

    answer = asyncio.run(ask_slowly())
    assert answer.status_code == 408 and "did not arrive" in answer.json()["error"]["message"]
    monkeypatch.setattr(serve, "WAITING", 0)
    answer = httpx.post(f"{address}/v1/embeddings", json={"input": "x"})
    assert answer.status_code == 503 and answer.json()["error"]["type"] == "server_error"


def test_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    import sys

    from hf_customclip.cli import main

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path)])
    assert "hf-customclip[serve]" in capsys.readouterr().err
