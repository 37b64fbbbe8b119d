# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Features: what of a tower's outputs a projection head sees."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from .configuration_custom_clip import AUTO, CustomClipConfig
from .towers_custom_clip import image_input_shape


def tower_feature(
    outputs: Any, config: CustomClipConfig, name: str, attention_mask: torch.Tensor | None, tower: nn.Module
) -> torch.Tensor:
    """(batch, width): the pooled output, and beside it the parts that the configuration names for "vision" or
    "text"; each is then scaled to unit length."""
    layers, poolings = getattr(config, f"{name}_feature_layers"), getattr(config, f"{name}_feature_poolings")
    pooled = pooled_output(outputs, getattr(config, f"{name}_pooling"), attention_mask, tower)
    if not layers and not poolings:
        return pooled
    parts = [
        pooled,
        *(layer_means(outputs, layers, attention_mask, tower) if layers else []),
        *extra_poolings(outputs, poolings, attention_mask, tower),
    ]
    return torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)


def resolve_feature_parts(config: CustomClipConfig, vision: PreTrainedModel, text: PreTrainedModel) -> None:
    """Replace every "auto" by what the rules choose for the towers, and measure the features' widths on them,
    as configurations disagree on the names of their widths."""
    if _is_auto(config, "text"):
        depth = config.text_config.num_hidden_layers
        _resolve(config, "text", [(1, 2, config.text_config.hidden_size)] * (depth + 1))
    if config.vision_embed_dim is None or _is_auto(config, "vision"):
        pixels = torch.zeros(1, *image_input_shape(config.vision_config), dtype=vision.dtype)
        outputs = _outputs(vision, config, "vision", pixel_values=pixels)
        _resolve(config, "vision", [tuple(h.shape) for h in getattr(outputs, "hidden_states", None) or ()])
        config.vision_embed_dim = tower_feature(outputs, config, "vision", None, vision).shape[-1]
    if config.text_embed_dim is None and text.device.type == "meta":  # of no data: many ask for values there
        parts = 1 + len(config.text_feature_layers or ()) + len(config.text_feature_poolings or ())
        config.text_embed_dim = config.text_config.hidden_size * parts
    elif config.text_embed_dim is None:
        tokens = torch.ones(1, 2, dtype=torch.long)
        outputs = _outputs(text, config, "text", input_ids=tokens, attention_mask=tokens)
        config.text_embed_dim = tower_feature(outputs, config, "text", tokens, text).shape[-1]


@torch.no_grad()
def _outputs(tower: PreTrainedModel, config: CustomClipConfig, name: str, **inputs: torch.Tensor) -> Any:
    training = tower.training
    further = getattr(config, f"{name}_feature_layers") or getattr(config, f"{name}_feature_poolings")
    options = {"output_hidden_states": True} if further else {}
    outputs = tower.eval()(**{key: value.to(tower.device) for key, value in inputs.items()}, **options)
    tower.train(training)
    return outputs


def _is_auto(config: CustomClipConfig, name: str) -> bool:
    return AUTO in (getattr(config, f"{name}_feature_layers"), getattr(config, f"{name}_feature_poolings"))


def _resolve(config: CustomClipConfig, name: str, shapes: Sequence[Sequence[int]]) -> None:
    pooling = getattr(config, f"{name}_pooling")
    for field, rule in (("feature_layers", auto_feature_layers), ("feature_poolings", auto_feature_poolings)):
        if getattr(config, f"{name}_{field}") == AUTO:
            setattr(config, f"{name}_{field}", rule(shapes, pooling))


def pooled_output(
    outputs: Any, pooling: str, attention_mask: torch.Tensor | None, tower: nn.Module
) -> torch.Tensor:
    """One vector for each input: (batch, width).

    Args:
        pooling: "pooler" (the tower's own `pooler_output`), "cls" (first position of the last layer) or
            "mean" (over positions, those of the attention mask where there is one).

    Raises:
        ValueError: the tower does not give what the pooling needs.
    """
    hidden = outputs.last_hidden_state
    if pooling == "pooler":
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is None:
            raise ValueError(
                f"{type(tower).__name__} gives no pooler_output; choose the pooling 'cls' or 'mean'"
            )
        return torch.flatten(pooled, 1)
    if pooling == "cls":
        return _first_position(hidden, tower)
    return _mean_over_positions(hidden, attention_mask, tower)


def spatial_axes(feature_map: torch.Tensor, tower: nn.Module | None = None) -> tuple[int, int]:
    """Where height and width are in a map of four axes: before the channels if the tower says so (timm's
    `output_fmt`) or the two are alike there, else after them. `check_contract` tries it with a second size."""
    declared = getattr(getattr(tower, "timm_model", None), "output_fmt", "")
    _, first, second, third = feature_map.shape
    return (1, 2) if str(declared) == "NHWC" or first == second != third else (2, 3)


def layer_means(
    outputs: Any, layers: Sequence[int], attention_mask: torch.Tensor | None, tower: nn.Module
) -> list[torch.Tensor]:
    """The chosen hidden states, each averaged over its positions: (batch, width of the layer).

    Raises:
        ValueError: the tower gives no hidden states, or not so many.
    """
    hidden = getattr(outputs, "hidden_states", None)
    if hidden is None:
        raise ValueError(f"{type(tower).__name__} gives no hidden states, so it has no feature layers to add")
    for layer in layers:
        if not -len(hidden) <= layer < len(hidden):
            raise ValueError(
                f"{type(tower).__name__} gives {len(hidden)} hidden states, so a feature layer is from 0 to "
                f"{len(hidden) - 1}, got {layer}"
            )
    return [_mean_over_positions(hidden[layer], attention_mask) for layer in layers]


def extra_poolings(
    outputs: Any, poolings: Sequence[str], attention_mask: torch.Tensor | None, tower: nn.Module
) -> list[torch.Tensor]:
    """The last layer pooled in further ways: "max" over its positions, or its first position ("cls").

    Raises:
        ValueError: "cls" of a feature map, which has no first position.
    """
    hidden = (getattr(outputs, "hidden_states", None) or [outputs.last_hidden_state])[-1]
    return [
        _first_position(hidden, tower) if pooling == "cls" else _max_over_positions(hidden, attention_mask)
        for pooling in poolings
    ]


def auto_feature_layers(shapes: Sequence[Sequence[int]], pooling: str) -> list[int]:
    """Which hidden states tell what the pooled output does not, by a rule for any tower.

    Of a convolutional net's feature maps the last three; of a transformer's layers the last and those at two
    thirds and one third of its depth, and what goes into the first. A last layer that is averaged already, by
    the pooling "mean", is not averaged again.

    Args:
        shapes: those of all hidden states, the input of the first layer among them; none for a tower without.
    """
    last = len(shapes) - 1
    if last < 1:
        return []
    if len(shapes[-1]) == 4:
        return list(range(max(0, last - 2), last + 1))
    layers = sorted({round(last * third / 3) for third in range(4)})
    return layers[:-1] if pooling == "mean" else layers


def auto_feature_poolings(shapes: Sequence[Sequence[int]], pooling: str) -> list[str]:
    """The further poolings of `extra_poolings` that differ from the tower's pooled output."""
    if not shapes:
        return []
    return ["max"] if len(shapes[-1]) == 4 or pooling == "cls" else ["max", "cls"]


def _first_position(hidden: torch.Tensor, tower: nn.Module) -> torch.Tensor:
    if hidden.dim() != 3:
        raise ValueError(
            f"{type(tower).__name__} gives a feature map of shape {tuple(hidden.shape)} without a first "
            "position; choose the pooling 'pooler' or 'mean'"
        )
    return hidden[:, 0]


def _max_over_positions(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    if hidden.dim() == 4:
        return hidden.amax(spatial_axes(hidden))
    if attention_mask is None:
        return hidden.amax(1)
    lowest = torch.finfo(hidden.dtype).min  # not -inf, which a text without tokens would keep
    return hidden.masked_fill(attention_mask[..., None] == 0, lowest).amax(1)


def _mean_over_positions(
    hidden: torch.Tensor, attention_mask: torch.Tensor | None, tower: nn.Module | None = None
) -> torch.Tensor:
    if hidden.dim() == 4:
        return hidden.mean(spatial_axes(hidden, tower))
    if attention_mask is None:
        return hidden.mean(1)
    mask = attention_mask[..., None].to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
