"""A model behind HTTP: OpenAI's embeddings endpoint, for texts and images, and the requests of Inference Endpoints.

    POST /v1/embeddings   {"input": ["a cat", {"image": "<base64>"}], "dimensions": 128, "encoding_format": "float"}
    POST /                what `hub.handler` answers: zero-shot classification, image and text embeddings
    GET  /v1/models, /health

Errors are `{"error": {"message": ..., "type": ...}}`. Limits: a request's size, its items and pixels
(`hub.handler`), how long it may take to arrive, how many wait. One request at a time is computed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from .hub.handler import MAX_INPUTS, EndpointHandler

MAX_BODY_BYTES = 32 * 2**20
BODY_SECONDS = 30.0
WAITING = 32
ENCODINGS = ("float", "base64")


class Refusal(Exception):
    """A request that is answered with an error: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def build_app(handler: EndpointHandler, name: str) -> FastAPI:
    """The application; `name` is what the model is called in answers."""
    app = FastAPI(title=f"hf-customclip: {name}")
    computing, waiting = asyncio.Lock(), [0]

    async def answer(request: Request, compute: Callable[[dict[str, Any]], Any]) -> JSONResponse:
        try:
            if waiting[0] >= WAITING:
                raise Refusal(503, f"{WAITING} requests are waiting already; ask again later.")
            waiting[0] += 1
            try:
                body = await _json(request)
                async with computing:
                    return JSONResponse(await run_in_threadpool(compute, body))
            finally:
                waiting[0] -= 1
        except (ValueError, Refusal) as error:
            status = error.status if isinstance(error, Refusal) else 400
            kind = "invalid_request_error" if status < 500 else "server_error"
            return JSONResponse({"error": {"message": str(error), "type": kind}}, status)

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> JSONResponse:
        return await answer(request, lambda body: embed(handler, name, body))

    @app.post("/")
    async def endpoint(request: Request) -> JSONResponse:
        return await answer(request, handler)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "hf-customclip"}]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def embed(handler: EndpointHandler, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request of OpenAI's embeddings endpoint.

    Items of `input` are texts, `{"text": ...}`, `{"image": base64 or a data URL}`, or data URLs of images.
    `dimensions` cuts embeddings to so many first numbers, of length 1 again.

    Raises:
        ValueError: the request is wrong; the message says how.
    """
    given = body.get("input")
    items = [_item(item, number) for number, item in enumerate(given if isinstance(given, list) else [given])]
    if not 0 < len(items) <= MAX_INPUTS:
        raise ValueError(f"'input' holds {len(items)} items; 1 to {MAX_INPUTS} may come in one request.")
    encoding = body.get("encoding_format", "float")
    if encoding not in ENCODINGS:
        raise ValueError(f"'encoding_format' is one of {', '.join(ENCODINGS)}, not {encoding!r}.")
    rows: dict[int, torch.Tensor] = {}
    for kind, compute in (("text", handler.embed_texts), ("image", handler.embed_images)):
        places = [place for place, item in enumerate(items) if item[0] == kind]
        if places:
            rows |= zip(places, compute([items[place][1] for place in places]), strict=True)
    embeds = _cut(torch.stack([rows[place] for place in range(len(items))]), body.get("dimensions"))
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(row, encoding)}
        for index, row in enumerate(embeds)
    ]
    texts = [value for kind, value in items if kind == "text"]
    tokens = int(handler.processor(text=texts, return_tensors="pt")["attention_mask"].sum()) if texts else 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": name, "data": data, "usage": usage}


async def _json(request: Request) -> dict[str, Any]:
    try:
        raw = await asyncio.wait_for(_body(request), BODY_SECONDS)
        value = json.loads(raw)
    except asyncio.TimeoutError:
        raise Refusal(408, f"The request did not arrive within {BODY_SECONDS:.0f} s.") from None
    except (ValueError, RecursionError):
        raise ValueError("The request's body is not JSON.") from None
    if not isinstance(value, dict):
        raise ValueError("The request's body must be a JSON object.")
    return value


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Refusal(413, f"A request may have {MAX_BODY_BYTES >> 20} MB at most.")
        parts.append(part)
    return b"".join(parts)


def _item(item: Any, number: int) -> tuple[str, str]:
    if isinstance(item, dict) and len(item) == 1:
        ((kind, value),) = item.items()
    else:
        kind, value = "image" if isinstance(item, str) and item.startswith("data:image/") else "text", item
    if kind not in ("text", "image") or not isinstance(value, str) or not value.strip():
        raise ValueError(f"Item {number} of 'input' is neither a text nor {{'image': base64 of its file}}.")
    return kind, value


def _cut(embeds: torch.Tensor, dimensions: Any) -> torch.Tensor:
    if dimensions is None:
        return embeds
    if not isinstance(dimensions, int) or not 1 <= dimensions <= embeds.shape[1]:
        raise ValueError(f"'dimensions' is a whole number from 1 to {embeds.shape[1]}, not {dimensions!r}.")
    return torch.nn.functional.normalize(embeds[:, :dimensions], dim=-1)


def _encoded(row: torch.Tensor, encoding: str) -> list[float] | str:
    # OpenAI's base64 is of float32, little endian; its own client asks for it.
    return (
        row.tolist()
        if encoding == "float"
        else base64.b64encode(row.numpy().astype("<f4").tobytes()).decode()
    )
