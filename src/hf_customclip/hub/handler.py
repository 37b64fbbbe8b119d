"""A custom handler for Hugging Face Inference Endpoints: zero-shot classification, image and text embeddings.

It is published with a model, and a server calls it as `EndpointHandler(folder)(request)`. Requests are JSON, images
in them base64 of a file; errors are exceptions, which the endpoint answers as `{"error": "..."}`.

    {"inputs": "<image>", "parameters": {"candidate_labels": ["a cat", "a dog"]}}   the labels, best first
    {"inputs": {"images": ["<image>"], "texts": ["a cat"]}}                         embeddings, L2-normalised
    {"inputs": "a cat"}                                                             the same of one text or a list

A body that is an image itself (Content-Type: image/png) takes its labels from the query, separated by commas, or is
embedded. Needs torch, transformers and what the towers need; not the package hf-customclip.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers import AutoModel, AutoProcessor

MAX_INPUTS = 256  # of images, texts or labels in one request
MAX_IMAGE_BYTES = 20 * 2**20
MAX_PIXELS, MAX_PIXELS_IN_ALL = 50_000_000, 500_000_000
BATCH_SIZE = 32


class EndpointHandler:
    """The model in `path`, ready to answer."""

    def __init__(self, path: str = "") -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).to(self.device).eval()
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answer one request: `inputs`, and for classification `parameters` (see above).

        Raises:
            ValueError: the request is wrong; the message says how.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError(
                "The request needs 'inputs': an image, texts, or {'images': [...], 'texts': [...]}."
            )
        inputs, parameters = data["inputs"], data.get("parameters") or {}
        labels = parameters.get("candidate_labels")
        if labels is not None:
            images = inputs.get("images", inputs.get("image")) if isinstance(inputs, dict) else inputs
            answers = self.classify(_images(images), labels, parameters.get("hypothesis_template", "{}"))
            return answers if isinstance(images, list) else answers[0]
        if isinstance(inputs, Image.Image):
            inputs = {"images": [inputs]}
        elif not isinstance(inputs, dict):
            inputs = {"texts": inputs}
        if not inputs or set(inputs) - {"images", "texts"}:
            raise ValueError(
                f"'inputs' may hold 'images' and 'texts', but it holds {', '.join(inputs) or 'nothing'}."
            )
        answer = {}
        if "images" in inputs:
            answer["image_embeds"] = self.embed_images(_images(inputs["images"])).tolist()
        if "texts" in inputs:
            answer["text_embeds"] = self.embed_texts(_texts(inputs["texts"], "texts")).tolist()
        return answer

    def classify(
        self, images: list[Any], labels: str | list[str], template: str
    ) -> list[list[dict[str, Any]]]:
        """For each image the labels with their scores from 0 to 1, best first."""
        names = _texts(labels.split(",") if isinstance(labels, str) else labels, "candidate_labels")
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(
                f"'hypothesis_template' must hold {{}} where the label goes, but it is {template!r}."
            )
        texts = self.embed_texts([template.replace("{}", name.strip()) for name in names])
        logits = self.embed_images(images) @ texts.T * self.model.logit_scale.detach().exp().cpu()
        if self.model.config.loss_type == "sigmoid":
            scores = (logits + self.model.logit_bias.detach().cpu()).sigmoid()
        else:
            scores = logits.softmax(dim=-1)
        return [
            [{"label": names[i].strip(), "score": float(row[i])} for i in row.argsort(descending=True)]
            for row in scores
        ]

    def embed_images(self, images: list[Any]) -> torch.Tensor:
        """`[images, d]`, L2-normalised."""
        # Opened and prepared one by one: as many large ones as a request may hold would not fit in memory.
        pixels = (self.processor(images=[o], return_tensors="pt")["pixel_values"] for o in _opened(images))
        batches = iter(lambda: list(islice(pixels, BATCH_SIZE)), [])
        return torch.cat([self._embed("image", {"pixel_values": torch.cat(batch)}) for batch in batches])

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """`[texts, d]`, L2-normalised."""
        batches = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]
        return torch.cat([self._embed("text", self.processor(text=b, return_tensors="pt")) for b in batches])

    @torch.inference_mode()
    def _embed(self, kind: str, inputs: Any) -> torch.Tensor:
        if kind == "image":
            pixels = inputs["pixel_values"].to(self.device, self.model.dtype)
            features = self.model.get_image_features(pixel_values=pixels)
        else:
            tokens = {name: inputs[name].to(self.device) for name in ("input_ids", "attention_mask")}
            features = self.model.get_text_features(**tokens)
        return torch.nn.functional.normalize(features.pooler_output.float(), dim=-1).cpu()


def _texts(value: Any, name: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(f"'{name}' must be a text or a list of texts, none of them empty.")
    return _limited(texts, name)


def _images(value: Any) -> list[Any]:
    images = value if isinstance(value, list) else [value]
    if not images or value is None:
        raise ValueError(
            "There is no image in the request: give base64 of its file as 'inputs' or in 'images'."
        )
    return _limited(images, "images")


def _limited(values: list[Any], name: str) -> list[Any]:
    if len(values) > MAX_INPUTS:
        raise ValueError(f"'{name}' holds {len(values)} items; at most {MAX_INPUTS} may come in one request.")
    return values


def _opened(images: list[Any]) -> Iterator[Image.Image]:
    total = 0
    for number, value in enumerate(images):
        image = _image(value, number)
        total += image.width * image.height
        if total > MAX_PIXELS_IN_ALL:
            raise ValueError(f"The images have over {MAX_PIXELS_IN_ALL:,} pixels in all.")
        yield image


def _image(value: Any, number: int) -> Image.Image:
    """An upright RGB image of what was sent: base64 of a file, also as a data URL, or an image already open."""
    try:
        if isinstance(value, str):
            if len(value) > MAX_IMAGE_BYTES * 4 / 3 + 100:
                raise ValueError(f"its file is larger than {MAX_IMAGE_BYTES >> 20} MB")
            encoded = value.partition(",")[2] if value.startswith("data:") else value
            value = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
        if not isinstance(value, Image.Image):
            raise ValueError("it is not base64 of an image file")
        if value.width * value.height > MAX_PIXELS:
            raise ValueError(f"it has {value.width} x {value.height} pixels, over {MAX_PIXELS:,} in all")
        return ImageOps.exif_transpose(value).convert("RGB")
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it is not base64 of an image file" if isinstance(error, OSError) else error
        raise ValueError(f"Image {number} cannot be read: {reason}.") from None
