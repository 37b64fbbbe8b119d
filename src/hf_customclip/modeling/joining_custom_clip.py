# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""What is asked before two towers are joined: the settings' names, one pass of each, how they are pooled."""

from dataclasses import fields
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .configuration_custom_clip import CustomClipConfig
from .names_custom_clip import did_you_mean
from .towers_custom_clip import image_input_shape

logger = logging.get_logger(__name__)


def check_fields(given: dict[str, Any]) -> None:
    """Refuse what is no field of `CustomClipConfig`, with near matches."""
    known = [
        field.name for field in fields(CustomClipConfig) if field.name not in ("vision_config", "text_config")
    ]
    for name in given:
        if name not in known:
            raise ValueError(f"CustomClipConfig has no field {name!r}.{did_you_mean(name, known)}")


def choose_poolings(vision_model: Any, text_model: Any, config: dict[str, Any]) -> None:
    """Never pool silently by a pooler that is not in the checkpoint or a position that sees nothing."""
    missing = {
        tower: any(key.startswith("pooler.") for key in getattr(model, "missing_keys", ()))
        for tower, model in (("vision", vision_model), ("text", text_model))
    }
    if missing["vision"] and "vision_pooling" not in config:
        logger.warning("The image tower's checkpoint holds no pooler: taking vision_pooling='cls'.")
        config["vision_pooling"] = "cls"
    if missing["text"] and config.get("text_pooling") == "pooler":
        raise ValueError("the text tower's checkpoint holds no pooler: choose text_pooling='cls' or 'mean'")
    if config.get("text_pooling", "cls") == "cls" and (better := causal_pooling(text_model)):
        seen = f"the first position of a {type(text_model).__name__} sees no other token"
        if "text_pooling" in config:
            raise ValueError(f"text_pooling='cls' is of no use, {seen}: choose {better!r}")
        logger.warning(f"Taking text_pooling={better!r}: {seen}.")
        config["text_pooling"] = better


@torch.no_grad()
def causal_pooling(tower: PreTrainedModel) -> str | None:
    """How to pool a text tower whose first position sees no other token, such as CLIP's; else None."""
    training = tower.training
    tokens = torch.tensor([[1, 2], [1, 3]], device=tower.device)
    outputs = tower.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    tower.train(training)
    first = outputs.last_hidden_state[:, 0]
    if not torch.allclose(first[0], first[1], rtol=1e-4, atol=1e-6):
        return None
    return "mean" if getattr(outputs, "pooler_output", None) is None else "pooler"


@torch.no_grad()
def check_it_runs(tower: PreTrainedModel, kind: str) -> None:
    """One pass of a "vision" or "text" tower by itself, before anything is built on it.

    Raises:
        ValueError: it does not take RGB images or tokens alone, or gives nothing to pool.
    """
    name, inputs = type(tower).__name__, {}
    if kind == "vision":
        channels = image_input_shape(tower.config)[0]
        if channels != 3:
            raise ValueError(
                f"the vision tower, a {name}, takes images of {channels} channels, and images are given in three, "
                "as RGB: choose a tower for RGB images"
            )
        inputs["pixel_values"] = torch.zeros(1, *image_input_shape(tower.config), dtype=tower.dtype)
    else:
        inputs["input_ids"] = torch.ones(1, 2, dtype=torch.long)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    training = tower.training
    try:
        outputs = tower.eval()(
            **{key: value.to(tower.device) for key, value in inputs.items()}, return_dict=True
        )
    except Exception as error:  # a tower may raise anything
        raise ValueError(
            f"the {kind} tower, a {name}, cannot embed {kind if kind == 'text' else 'image'}s from "
            f"{' and '.join(inputs)} alone ({first_line(error)}): choose an encoder that needs nothing else"
        ) from error
    tower.train(training)
    if getattr(outputs, "last_hidden_state", None) is None:
        raise ValueError(
            f"the {kind} tower, a {name}, gives no last_hidden_state: choose an encoder that does"
        )


def first_line(error: Exception) -> str:
    """Of its message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
