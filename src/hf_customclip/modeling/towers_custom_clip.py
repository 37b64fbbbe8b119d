# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Towers: how any pretrained encoder is built, loaded, pooled and taken apart into layer groups."""

import importlib
import inspect
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torchvision import models
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from .configuration_custom_clip import TorchvisionBackboneConfig
from .modeling_torchvision_backbone import TorchvisionBackboneModel
from .names_custom_clip import did_you_mean

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
POSITION_EMBEDDINGS = (
    "position_embeddings",
    "position_embedding",
    "positions_embed",
    "embed_positions",
    "wpe",
)


def build_tower(config: Any) -> PreTrainedModel:
    """A tower with random weights from its configuration."""
    # By name, not by class: with remote code the registered class may be another copy of this file's.
    if config.model_type == TorchvisionBackboneConfig.model_type:
        return TorchvisionBackboneModel(config)
    tower: PreTrainedModel = tower_class(config)._from_config(config)
    return tower


def load_vision_tower(
    name: str | os.PathLike[str], weights: str | None = "DEFAULT", **kwargs: Any
) -> PreTrainedModel:
    """A torchvision net by its name, else whatever AutoModel loads from a folder or the Hub.

    Args:
        weights: "DEFAULT" or one of torchvision's weight names; None for random weights of the same shape.
        kwargs: passed to AutoModel (revision, token, trust_remote_code, …).

    Raises:
        ValueError: the name is neither; near torchvision names are listed.
    """
    if str(name) in models.list_models(module=models):
        return TorchvisionBackboneModel.from_torchvision(str(name), weights)
    return _load_tower(name, "vision", weights, **kwargs)


def load_text_tower(
    name: str | os.PathLike[str], weights: str | None = "DEFAULT", **kwargs: Any
) -> PreTrainedModel:
    """The encoder that AutoModel loads from a folder or the Hub; for None, its shape with random weights."""
    return _load_tower(name, "text", weights, **kwargs)


def _load_tower(
    name: str | os.PathLike[str], kind: str, weights: str | None, **kwargs: Any
) -> PreTrainedModel:
    if weights not in ("DEFAULT", None):
        raise ValueError(
            f"{kind}_weights={weights!r} names torchvision weights, but {str(name)!r} is no torchvision net"
        )
    config = tower_config(name, kind, **kwargs)
    chosen: Any = tower_class(config, **kwargs)
    if weights is None:
        tower = chosen._from_config(config)
    else:
        tower, info = chosen.from_pretrained(name, config=config, output_loading_info=True, **kwargs)
        missing = info["missing_keys"]
        if missing and (part := _part_of_whole(name, kind, chosen, **kwargs)):
            missing = tower.load_state_dict(part.state_dict(), strict=False).missing_keys
        tower.missing_keys = sorted(missing)
    wanted = {"vision": "pixel_values", "text": "input_ids"}[kind]
    if tower.main_input_name != wanted:
        raise ValueError(
            f"{str(name)!r} is no {kind} tower: a {type(tower).__name__} takes {tower.main_input_name}, "
            f"not {wanted}"
        )
    return cast(PreTrainedModel, tower)


def _part_of_whole(
    name: str | os.PathLike[str], kind: str, chosen: type[PreTrainedModel], **kwargs: Any
) -> nn.Module | None:
    """The half of a dual encoder whose checkpoint does not load into the half's own class, as AltCLIP's; None where
    the checkpoint is of no such model."""
    config, place = AutoConfig.from_pretrained(name, **kwargs), f"{kind}_model"
    if not hasattr(config, f"{kind}_config") or type(config) not in MODEL_MAPPING:
        return None
    with torch.device("meta"):  # before all of it is loaded for nothing
        if type(getattr(AutoModel.from_config(config), place, None)) is not chosen:
            return None
    part: nn.Module = getattr(AutoModel.from_pretrained(name, **kwargs), place)
    return part


def tower_config(name: str | os.PathLike[str], kind: str, **kwargs: Any) -> Any:
    """The configuration of the encoder at `name`; of a dual encoder such as CLIP, its `kind` half."""
    try:
        config = AutoConfig.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        known = models.list_models(module=models) if kind == "vision" else []
        torchvision = "a torchvision name, " if kind == "vision" else ""
        hint = did_you_mean(name, known, most=5, listed=0)
        raise ValueError(
            f"No {kind} tower {str(name)!r}: it must be {torchvision}a folder or a Hub id that transformers' "
            f"AutoModel can load.{hint} ({str(error).splitlines()[0]})"
        ) from error
    config = getattr(config, f"{kind}_config", None) or config
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # a masked autoencoder would hide most of every image
    return config


def tower_class(config: Any, trust_remote_code: bool = False, **kwargs: Any) -> type[PreTrainedModel]:
    """The encoder's class that belongs to a configuration.

    Args:
        trust_remote_code, kwargs: those of `from_pretrained`, for code that lies beside the tower's weights.

    Raises:
        ValueError: transformers has none.
    """
    if trust_remote_code and type(config).__module__.startswith("transformers_modules."):
        reference = config.auto_map["AutoModel"]
        hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        found: type[PreTrainedModel] = get_class_from_dynamic_module(reference, config.name_or_path, **hub)
        AutoModel.register(type(config), found, exist_ok=True)
        return found
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return _one(MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)])  # of T5 and its kin the encoder alone
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"a tower must be an encoder, and transformers offers none of {config.model_type!r} alone: choose an "
            "encoder, or a decoder without one"
        )
    if type(config) in MODEL_MAPPING:
        return _one(MODEL_MAPPING[type(config)])
    return _half_class(config)


def _one(classes: Any) -> type[PreTrainedModel]:
    chosen: type[PreTrainedModel] = classes[0] if isinstance(classes, (tuple, list)) else classes
    return chosen


def _half_class(config: Any) -> type[PreTrainedModel]:
    """The half of a dual encoder that AutoModel does not offer, such as BLIP's `BlipTextModel`."""
    halves: list[type[PreTrainedModel]] = []
    for path in Path(inspect.getfile(type(config))).parent.glob("modeling_*.py"):
        module = importlib.import_module(f"{type(config).__module__.rpartition('.')[0]}.{path.stem}")
        halves += [
            value
            for name, value in vars(module).items()
            if name.endswith(("TextModel", "VisionModel"))
            and getattr(value, "config_class", None) is type(config)
            and value.__module__ == module.__name__
        ]
    if not halves:
        raise ValueError(
            f"transformers has no encoder for a {type(config).__name__}: save the part that you mean by its own "
            "class, and give its folder"
        )
    return min(halves, key=lambda half: len(half.__name__))


def image_input_shape(config: Any) -> tuple[int, int, int]:
    """(channels, height, width) that the image tower was made for."""
    pretrained = getattr(config, "pretrained_cfg", None)  # timm's
    if isinstance(pretrained, dict) and "input_size" in pretrained:
        return tuple(pretrained["input_size"])
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return getattr(config, "num_channels", 3), height, width


def max_text_positions(tower: nn.Module) -> int | None:
    """How many tokens the text tower takes; None where its positions are relative."""
    for name, module in tower.named_modules():
        if name.split(".")[-1] in POSITION_EMBEDDINGS and isinstance(module, nn.Embedding):
            # RoBERTa and its kin begin to count after the padding index, OPT at an offset.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - getattr(module, "offset", unused)
    return None


def layer_groups(tower: nn.Module) -> list[list[nn.Module]]:
    """The tower's modules in order, cut into groups: what comes before the first layer, then each layer.

    A layer is a child of the tower's one outermost list of layers (a transformer's blocks, a ConvNeXt's
    stages), or such a list where there are several (a ResNet's four stages). What follows a layer, such as
    a last norm or a pooler, belongs to it. Each module stands for its own parameters, not its children's.
    """
    lists = outermost_lists(tower)
    if len(lists) == 1:
        ((name, only),) = lists
        starts = [f"{name}.{child}" for child, module in only.named_children() if _has_parameters(module)]
    else:
        starts = [name for name, _ in lists]
    groups: list[list[nn.Module]] = [[]]
    for name, module in tower.named_modules():
        if name in starts:
            groups.append([])
        groups[-1].append(module)
    if len(groups) > 1 and not any(_has_parameters(module, recurse=False) for module in groups[0]):
        groups[:2] = [groups[0] + groups[1]]  # SqueezeNet has nothing before its first layer
    return groups


def outermost_lists(tower: nn.Module) -> list[tuple[str, nn.Module]]:
    """The lists of layers (ModuleList, Sequential) with parameters that lie in no other, with their names."""
    lists: list[tuple[str, nn.Module]] = []
    for name, module in tower.named_modules():
        nested = any(name.startswith(outer + ".") for outer, _ in lists)
        if (
            isinstance(module, (nn.ModuleList, nn.Sequential))
            and name
            and not nested
            and _has_parameters(module)
        ):
            lists.append((name, module))
    return lists


def _has_parameters(module: nn.Module, recurse: bool = True) -> bool:
    return next(module.parameters(recurse), None) is not None
