"""What features depend on: change any of it, and kept ones are not used."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any, cast

import PIL
import torch
import torchvision
import transformers

from .._digests import digest, digest_of_json
from ..data.data_collator import ContrastiveCollator
from ..inference.fingerprints import weights_digest
from ..modeling.heads_only_custom_clip import tower_digest

# Differ between copies of one tower that compute the same.
NOT_CONTENT = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype")
# Beside the model's own code: what decodes, prepares and runs.
CODE = [
    Path(__file__).parents[1] / name
    for name in ("data/images.py", "data/preparation.py", "features/tower_pass.py")
]


def tower_ingredients(tower: str, model: Any, collator: ContrastiveCollator) -> dict[str, str]:
    """What a tower's features depend on besides the precision and the data."""
    made = (vision_ingredients if tower == "vision" else text_ingredients)(model, collator)
    return {**made, "weights": tower_weights_digest(tower, model)}


def tower_weights_digest(tower: str, model: Any) -> str:
    """Of the tower's weights, as far as its features depend on them."""
    return tower_digest(getattr(model, f"{tower}_model"), getattr(model.config, f"{tower}_pooling"))


def vision_ingredients(model: Any, collator: ContrastiveCollator) -> dict[str, str]:
    """Of the vision tower's features, without its weights, the precision and the data."""
    processor = cast(Any, collator.processor).image_processor
    return {
        "config": digest_of_json(_content(model.config.vision_config.to_dict())),
        "pooling": _feature_parts(model.config, "vision"),
        "mirrored": str(model.config.average_mirrored),
        "processing": digest_of_json([type(processor).__name__, _content(processor.to_dict())]),
        "code": code_digest(Path(inspect.getfile(type(model).pool_image)).parent),
        "versions": _versions(torch, torchvision, transformers, PIL),
    }


def text_ingredients(model: Any, collator: ContrastiveCollator) -> dict[str, str]:
    """Of the text tower's features, without its weights, the precision and the data."""
    return {
        "config": digest_of_json(_content(model.config.text_config.to_dict())),
        "pooling": _feature_parts(model.config, "text"),
        "tokenizer": digest_of_json(_tokenizer(cast(Any, collator.processor).tokenizer)),
        "max_text_length": str(collator.max_text_length),
        "code": code_digest(Path(inspect.getfile(type(model).pool_text)).parent),
        "versions": _versions(torch, transformers),
    }


def teacher_ingredients(model: Any, processor: Any, max_text_length: int) -> dict[str, str]:
    """Of the embeddings of a ready dual encoder, without the data."""
    images = processor.image_processor
    return {
        "config": digest_of_json(_content(model.config.to_dict())),
        "weights": weights_digest(model),
        "processing": digest_of_json([type(images).__name__, _content(images.to_dict())]),
        "tokenizer": digest_of_json(_tokenizer(processor.tokenizer)),
        "max_text_length": str(max_text_length),
        "code": code_digest(Path(inspect.getfile(type(model))).parent),
        "versions": _versions(torch, torchvision, transformers, PIL),
    }


def _feature_parts(config: Any, tower: str) -> str:
    kinds = ("pooling", "feature_layers", "feature_poolings")
    return str([getattr(config, f"{tower}_{kind}") for kind in kinds])


@cache
def code_digest(modeling: Path) -> str:
    """Of the code that makes features, with the model's in the folder `modeling`: any edit makes other features.

    A new version of this package may pool in another way under the same settings.
    """
    files = [*sorted(modeling.glob("*_*.py")), *CODE]
    return digest_of_json([[file.name, digest(file.read_bytes())] for file in files])


def has_random_tokens(tokenizer: Any) -> bool:
    """Whether it cuts words differently each time (BPE dropout)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return bool(getattr(getattr(backend, "model", None), "dropout", None))


def _tokenizer(tokenizer: Any) -> list[Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = digest_of_json(tokenizer.get_vocab()) if backend is None else digest(_rules(backend).encode())
    sides = [tokenizer.padding_side, tokenizer.truncation_side]
    return [type(tokenizer).__name__, rules, sides, tokenizer.special_tokens_map]


def _rules(backend: Any) -> str:
    """Vocabulary and all, without the state that the last call has left."""
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation(), backend.no_padding()
    rules = backend.to_str()
    if truncation is not None:
        backend.enable_truncation(**truncation)
    if padding is not None:
        backend.enable_padding(**padding)
    return rules


def _content(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _content(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in NOT_CONTENT
    }


def _versions(*modules: Any) -> str:
    return ", ".join(f"{m.__name__} {'.'.join(m.__version__.split('.')[:2])}" for m in modules)
