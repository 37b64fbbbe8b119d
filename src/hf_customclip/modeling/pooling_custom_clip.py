# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Features: what of a tower's outputs a projection head sees."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from .configuration_custom_clip import AUTO, CustomClipConfig
from .layers_custom_clip import listed_layers, run_with_layers, vision_layers
from .towers_custom_clip import image_input_shape


def run_and_pool(
    tower: nn.Module, config: CustomClipConfig, name: str, **inputs: Any
) -> tuple[Any, torch.Tensor]:
    """The "vision" or "text" tower's outputs, and its feature (batch, width): the pooled output, and beside it the
    parts that the configuration names, each of which is then scaled to unit length."""
    layers, poolings = getattr(config, f"{name}_feature_layers"), getattr(config, f"{name}_feature_poolings")
    outputs, states = run_with_layers(tower, layers, poolings, **inputs)
    mask = inputs.get("attention_mask")
    pooled = pooled_output(outputs, getattr(config, f"{name}_pooling"), mask, tower)
    if not layers and not poolings:
        return outputs, pooled
    last = states[-1] if states else outputs.last_hidden_state
    parts = [
        pooled,
        *(_mean_over_positions(state, mask) for state in chosen_states(states, layers, tower)),
        *extra_poolings(last, poolings, mask, tower),
    ]
    return outputs, torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)


def resolve_feature_parts(config: CustomClipConfig, vision: PreTrainedModel, text: PreTrainedModel) -> None:
    """Replace every "auto" by what the rules choose for the towers, and measure the features' widths on them,
    as configurations disagree on the names of their widths."""
    if _is_auto(config, "text"):
        depth = config.text_config.num_hidden_layers
        _resolve(config, "text", dict.fromkeys(range(depth + 1), (1, 2, config.text_config.hidden_size)))
    if config.vision_embed_dim is None or _is_auto(config, "vision"):
        pixels = torch.zeros(
            1, *image_input_shape(config.vision_config), dtype=vision.dtype, device=vision.device
        )
        with evaluating(vision):
            if _is_auto(config, "vision"):
                _resolve(config, "vision", vision_layers(vision, pixels))
            config.vision_embed_dim = run_and_pool(vision, config, "vision", pixel_values=pixels)[1].shape[-1]
    if config.text_embed_dim is None and text.device.type == "meta":  # of no data: many ask for values there
        parts = 1 + len(config.text_feature_layers or ()) + len(config.text_feature_poolings or ())
        config.text_embed_dim = config.text_config.hidden_size * parts
    elif config.text_embed_dim is None:
        tokens = torch.ones(1, 2, dtype=torch.long, device=text.device)
        with evaluating(text):
            feature = run_and_pool(text, config, "text", input_ids=tokens, attention_mask=tokens)[1]
        config.text_embed_dim = feature.shape[-1]


@contextmanager
def evaluating(tower: nn.Module) -> Iterator[None]:
    """Inside, the tower is in eval mode and builds no graph."""
    training = tower.training
    tower.eval()
    with torch.no_grad():
        yield
    tower.train(training)


def _is_auto(config: CustomClipConfig, name: str) -> bool:
    return AUTO in (getattr(config, f"{name}_feature_layers"), getattr(config, f"{name}_feature_poolings"))


def _resolve(config: CustomClipConfig, name: str, layers: Mapping[int | str, Sequence[int]]) -> None:
    pooling, shapes, keys = getattr(config, f"{name}_pooling"), list(layers.values()), list(layers)
    if getattr(config, f"{name}_feature_layers") == AUTO:
        chosen = [keys[number] for number in auto_feature_layers(shapes, pooling)]
        setattr(config, f"{name}_feature_layers", chosen)
    if getattr(config, f"{name}_feature_poolings") == AUTO:
        setattr(config, f"{name}_feature_poolings", auto_feature_poolings(shapes, pooling))


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


def chosen_states(
    states: Sequence[torch.Tensor], layers: Sequence[int | str], tower: nn.Module
) -> Sequence[torch.Tensor]:
    """Those of the feature layers: all where they are named, else the hidden states of these numbers.

    Raises:
        ValueError: the tower gives no hidden states, or not so many.
    """
    numbers = [layer for layer in layers if isinstance(layer, int)]
    if numbers and not states:
        raise ValueError(
            f"{type(tower).__name__} gives no hidden states to be numbered: name its layers, such as "
            f"{', '.join(map(repr, listed_layers(tower)[-2:])) or 'none'}"
        )
    for number in numbers:
        if not -len(states) <= number < len(states):
            raise ValueError(
                f"{type(tower).__name__} gives {len(states)} hidden states, so a feature layer is from 0 to "
                f"{len(states) - 1}, got {number}"
            )
    return [states[number] for number in numbers] if numbers else (states if layers else ())


def extra_poolings(
    hidden: torch.Tensor, poolings: Sequence[str], attention_mask: torch.Tensor | None, tower: nn.Module
) -> list[torch.Tensor]:
    """A tower's last state pooled in further ways: "max" over its positions, or its first position ("cls").

    Raises:
        ValueError: "cls" of a feature map, which has no first position.
    """
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
