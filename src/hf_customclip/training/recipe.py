"""The measured recipe for two frozen towers, as far as it concerns the model (benchmarks/flickr8k.md).

The training's half of it are the defaults of `CustomClipTrainingArguments`.
"""

from __future__ import annotations

import json
import os
from typing import Any

from transformers.utils import cached_file, logging

from ..modeling.modeling_custom_clip import CustomClipModel
from ..modeling.towers_custom_clip import tower_config

logger = logging.get_logger(__name__)

# Where sentence-transformers says how a text encoder is pooled.
POOLING_FILE = "1_Pooling/config.json"
MEASURED_HEADS: dict[str, Any] = {
    "vision_feature_layers": "auto",
    "text_feature_layers": "auto",
    "vision_feature_poolings": "auto",
    "text_feature_poolings": "auto",
    "average_mirrored": True,
    "feature_dropout": 0.5,
}


def create_model(
    vision: str | os.PathLike[str], text: str | os.PathLike[str], **options: Any
) -> CustomClipModel:
    """Two pretrained towers and new heads by the measured recipe, wherever the options say nothing else.

    Towers that are trained get plain heads on their pooled outputs, as there are no cached features.

    Args:
        vision, text, options: those of `CustomClipModel.from_vision_text_pretrained`; each wins over the recipe.
    """
    chosen = dict(options)
    hub_options = chosen.get("text_kwargs") or {}
    # A text tower that was trained beside images has a pooler of its own, which the model finds.
    if (
        "text_pooling" not in chosen
        and "clip_text" not in tower_config(text, "text", **hub_options).model_type
    ):
        chosen["text_pooling"] = text_pooling(text, **hub_options)
    if chosen.get("freeze_vision", True) and chosen.get("freeze_text", True):
        chosen = {**MEASURED_HEADS, **chosen}
    return CustomClipModel.from_vision_text_pretrained(vision, text, **chosen)


def text_pooling(text: str | os.PathLike[str], **hub_options: Any) -> str:
    """What the checkpoint's own pooling file says, else the mean: better than [CLS] for an encoder that was never
    trained to put a sentence there. Said in one line."""
    file = cached_file(
        text,
        POOLING_FILE,
        **{name: value for name, value in hub_options.items() if name in ("revision", "token", "cache_dir")},
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        logger.warning(f"Taking text_pooling='mean': {text} has no pooling file of its own.")
        return "mean"
    with open(file, encoding="utf-8") as opened:
        pooling = "cls" if json.load(opened).get("pooling_mode_cls_token") else "mean"
    logger.warning(f"Taking text_pooling={pooling!r}, as {text} says in its {POOLING_FILE}.")
    return pooling
