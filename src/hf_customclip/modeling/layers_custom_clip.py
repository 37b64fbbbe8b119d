# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Layer features of any tower: its own hidden states by number, or the outputs of its modules by name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from .names_custom_clip import did_you_mean
from .towers_custom_clip import outermost_lists


def run_with_layers(
    tower: nn.Module, layers: Sequence[int | str], poolings: Sequence[str], **inputs: Any
) -> tuple[Any, list[torch.Tensor]]:
    """A tower's outputs, and the states to make features of: the named modules' outputs in the order of `layers`,
    else the tower's hidden states, of which `layers` are numbers; none where nothing further is asked for.

    Raises:
        ValueError: the tower has no module of a name, or has not run it.
    """
    names = [layer for layer in layers if isinstance(layer, str)]
    if not names:
        if layers or poolings:
            inputs["output_hidden_states"] = True
        outputs = tower(**inputs, return_dict=True)
        return outputs, list(getattr(outputs, "hidden_states", None) or ())
    with recorded_outputs(tower, names) as found:
        outputs = tower(**inputs, return_dict=True)
    for name in names:
        if name not in found:
            raise ValueError(f"{type(tower).__name__} gave no output of its feature layer {name!r}")
    return outputs, [found[name] for name in names]


@contextmanager
def recorded_outputs(tower: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, what the tower's modules of these names give lands in the dictionary, in the order of the pass."""
    modules = dict(tower.named_modules())
    unknown = next((name for name in names if name not in modules), None)
    if unknown is not None:
        known = listed_layers(tower)
        raise ValueError(
            f"{type(tower).__name__} has no layer {unknown!r}.{did_you_mean(unknown, known, most=5)}"
        )
    found: dict[str, torch.Tensor] = {}
    hooks = [
        modules[name].register_forward_hook(partial(_record, found, name)) for name in dict.fromkeys(names)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _record(found: dict[str, torch.Tensor], name: str, module: nn.Module, args: Any, output: Any) -> None:
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if isinstance(first, torch.Tensor):
        found[name] = first


def listed_layers(tower: nn.Module) -> list[str]:
    """Names of the members of a network's outermost lists: its blocks or stages, and what stands beside them."""
    return [
        f"{name}.{child}" for name, module in outermost_lists(tower) for child, _ in module.named_children()
    ]


@torch.no_grad()
def vision_layers(tower: nn.Module, pixels: torch.Tensor) -> dict[int | str, tuple[int, ...]]:
    """What feature layers the tower offers, first to last, with the shapes of their states.

    Its own hidden states, by number, unless `listed_layers` has more: of feature maps the last of each shape, which
    is a stage's result. timm's EfficientNet has seven and tells five, torchvision's nets tell none.
    """
    with recorded_outputs(tower, listed_layers(tower)) as found:
        outputs = _try_hidden_states(tower, pixels)
    own: dict[int | str, tuple[int, ...]] = {
        number: tuple(state.shape)
        for number, state in enumerate(getattr(outputs, "hidden_states", None) or ())
    }
    named: dict[int | str, tuple[int, ...]] = {
        name: tuple(state.shape) for name, state in found.items() if _has_positions(state)
    }
    if any(len(shape) == 4 for shape in named.values()):
        last_of_shape = {shape: name for name, shape in named.items() if len(shape) == 4}
        named = {name: shape for shape, name in last_of_shape.items()}
    return own if len(own) >= len(named) else named


def _has_positions(state: torch.Tensor) -> bool:
    return state.dim() in (3, 4) and state[0].numel() > max(state.shape[1:])


def _try_hidden_states(tower: nn.Module, pixels: torch.Tensor) -> Any:
    try:
        return tower(pixel_values=pixels, output_hidden_states=True, return_dict=True)
    except (TypeError, ValueError):  # of some of timm's, which have none to give
        return tower(pixel_values=pixels, return_dict=True)
