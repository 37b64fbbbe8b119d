# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Configurations: two towers joined by projection heads, and a torchvision net as a tower.

This file travels with every checkpoint and runs on every supported transformers version, so it imports
nothing but transformers and spells sub-configurations the way that 5.17 and 5.23 both read.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar

import transformers
from transformers import AutoConfig, PretrainedConfig

if TYPE_CHECKING:
    # For transformers alone, which tells two copies of a code file apart by the files that it names, and finds the
    # model's class by the configuration's: so that two checkpoints with different code have two of each.
    from .modeling_custom_clip import CustomClipModel  # noqa: F401

PROJECTION_TYPES = ("mlp", "linear")
TEXT_POOLINGS = ("cls", "mean", "pooler")
VISION_POOLINGS = ("pooler", "cls", "mean")
LOSS_TYPES = ("softmax", "sigmoid")
SAME_IMAGE = ("ignore", "positive")
FEATURE_POOLINGS = ("max", "cls")
AUTO = "auto"


class TorchvisionBackboneConfig(PretrainedConfig):
    """A torchvision classification net without its classifier.

    Args:
        architecture: a name from `torchvision.models.list_models()`, such as "resnet34".
        image_size: side of the square input in pixels.
        hidden_size: width of the pooled output; measured when the net is built.
    """

    model_type = "torchvision_backbone"

    architecture: str = "resnet34"
    num_channels: int = 3
    image_size: int = 224
    hidden_size: int | None = None


class RemoteTowerConfig(PretrainedConfig):
    """The settings of a tower whose class is code beside the checkpoint, as they were written.

    Args:
        settings: among them `auto_map`, which names the file and the class.
    """

    model_type = "custom_clip_remote_tower"

    settings: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The settings again, with the version that a configuration around this one takes out."""
        return {**(self.settings or {}), "transformers_version": transformers.__version__}


class CustomClipConfig(PretrainedConfig):
    """Two towers, their projection heads, the temperature and the loss.

    Args:
        vision_config, text_config: the towers' configurations, or dictionaries with a `model_type`.
        projection_dim: width of the shared space.
        truncate_dim: embeddings are cut to so many first numbers, wherever the model makes them; None for all.
        matryoshka_dims: widths at which cut embeddings are to be good too: the loss is a mean over these and the
            whole width (Matryoshka representation learning: Kusupati et al. 2022).
        projection_dropout: dropout inside the "mlp" head.
        projection_type: "mlp" (two layers with a residual and a layer norm) or "linear".
        text_pooling: "cls" (first position), "mean" (over the attention mask) or "pooler".
        vision_pooling: "pooler" (the tower's own), "cls" or "mean" (over positions).
        vision_feature_layers, text_feature_layers: which layers are averaged over their positions and laid beside the
            pooled output, each part scaled to unit length: numbers of the tower's hidden states, as transformers
            counts them, or names of its modules ("network.layer3"). A tower's earlier layers hold what its last has
            thrown away. "auto": the last three feature maps of a convolutional net, or the layers at each third of a
            transformer's depth.
        vision_feature_poolings, text_feature_poolings: further poolings laid beside, of the last hidden state or of
            the last named layer: "max" (the maximum over positions) and "cls" (the first position). "auto": both,
            where they tell anything new.
        average_mirrored: the image's feature is the mean of its own and its mirror image's, at twice the cost.
        feature_dropout: which share of the features' numbers is dropped in training, before the head.
        standardize_features: the heads begin with a fixed affine layer that gives every number of a feature mean 0
            and variance 1 over the training data; `CustomClipTrainer` sets it from the cached features.
        vision_embed_dim, text_embed_dim: widths of the towers' features; measured on the towers when None.
        logit_scale_init_value: log of the inverse temperature; 2.6592 = ln(1/0.07), CLIP's, and under the
            sigmoid loss SigLIP's ln 10 instead. 0 with `learn_logit_scale=False` means no temperature at all.
        logit_bias_init_value: the sigmoid loss's bias, SigLIP's -10; unused by the softmax loss.
        learn_logit_scale: whether the temperature is trained; it is kept at or below ln 100.
        loss_type: "softmax" (CLIP's) or "sigmoid" (SigLIP's).
        same_image: what captions of one image are to each other in the loss: "ignore" (neither right nor wrong) or
            "positive" (each as right as the other).
        freeze_vision, freeze_text: towers are inert: no gradient, eval mode.
        vision_unfrozen_groups, text_unfrozen_groups: how many of a frozen tower's last layer groups train.
        max_text_length: captions are cut at so many tokens.
        vision_name, text_name: what the towers were loaded from, for the model card.

    Raises:
        ValueError: for a value that is not allowed, naming the allowed ones.
    """

    model_type = "custom_clip"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: Any = None
    text_config: Any = None
    projection_dim: int = 512
    truncate_dim: int | None = None
    matryoshka_dims: list[int] | None = None
    projection_dropout: float = 0.5
    projection_type: str = "mlp"
    text_pooling: str = "cls"
    vision_pooling: str = "pooler"
    vision_feature_layers: list[int | str] | str | None = None
    text_feature_layers: list[int | str] | str | None = None
    vision_feature_poolings: list[str] | str | None = None
    text_feature_poolings: list[str] | str | None = None
    average_mirrored: bool = False
    feature_dropout: float = 0.0
    standardize_features: bool = False
    vision_embed_dim: int | None = None
    text_embed_dim: int | None = None
    logit_scale_init_value: float = 2.6592
    logit_bias_init_value: float = -10.0
    learn_logit_scale: bool = True
    loss_type: str = "softmax"
    same_image: str = "ignore"
    freeze_vision: bool = True
    freeze_text: bool = True
    vision_unfrozen_groups: int = 0
    text_unfrozen_groups: int = 0
    max_text_length: int = 32
    vision_name: str | None = None
    text_name: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _tower_config(self.vision_config, default="torchvision_backbone")
        self.text_config = _tower_config(self.text_config, default="distilbert")
        _check_choice("projection_type", self.projection_type, PROJECTION_TYPES)
        _check_choice("text_pooling", self.text_pooling, TEXT_POOLINGS)
        _check_choice("vision_pooling", self.vision_pooling, VISION_POOLINGS)
        _check_choice("loss_type", self.loss_type, LOSS_TYPES)
        _check_choice("same_image", self.same_image, SAME_IMAGE)
        for tower in ("vision", "text"):
            self._check_feature_parts(tower)
        for name in ("projection_dim", "max_text_length"):
            _check_positive(name, getattr(self, name))
        for width in [*(self.matryoshka_dims or []), self.truncate_dim or self.projection_dim]:
            _check_positive("a width in matryoshka_dims or truncate_dim", width)
            if width > self.projection_dim:
                raise ValueError(
                    f"embeddings of projection_dim={self.projection_dim} cannot be cut to {width}"
                )
        for name in ("projection_dropout", "feature_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if (
            self.loss_type == "sigmoid"
            and self.logit_scale_init_value == CustomClipConfig.logit_scale_init_value
        ):
            self.logit_scale_init_value = math.log(10)
        towers = (self.vision_config, self.text_config)
        attention = [tower._attn_implementation for tower in towers]
        super().__post_init__(**kwargs)
        if self._attn_implementation is None:
            # The line above passed None on to the towers, which may be built and running already.
            for tower, implementation in zip(towers, attention, strict=True):
                tower._attn_implementation = implementation

    @property
    def loss_widths(self) -> list[int]:
        """At which widths of the embeddings losses are computed, whose mean is the loss; empty for the whole alone."""
        return (
            sorted({self.projection_dim, *self.matryoshka_dims}, reverse=True) if self.matryoshka_dims else []
        )

    def _check_feature_parts(self, tower: str) -> None:
        layers, poolings = f"{tower}_feature_layers", f"{tower}_feature_poolings"
        for name in (layers, poolings):
            value = getattr(self, name)
            if isinstance(value, str) and value != AUTO:
                raise ValueError(f"{name} must be a list or {AUTO!r}, got {value!r}")
            if value != AUTO:
                setattr(self, name, list(value or []))
        if len({type(layer) for layer in getattr(self, layers)}) > 1 and getattr(self, layers) != AUTO:
            raise ValueError(
                f"{layers} must be all numbers or all names of layers, got {getattr(self, layers)!r}"
            )
        if getattr(self, poolings) != AUTO:
            for pooling in getattr(self, poolings):
                _check_choice(poolings, pooling, FEATURE_POOLINGS)

    @classmethod
    def from_vision_text_configs(
        cls, vision_config: PretrainedConfig, text_config: PretrainedConfig, **kwargs: Any
    ) -> "CustomClipConfig":
        """Join two towers' configurations; `kwargs` are this class's own fields."""
        return cls(vision_config=vision_config, text_config=text_config, **kwargs)


def _tower_config(value: Any, default: str) -> Any:
    if value is None:
        value = {"model_type": default}
    if not isinstance(value, dict):
        return value
    value = dict(value)
    if "AutoConfig" in (value.get("auto_map") or {}):
        return RemoteTowerConfig(settings=value)
    model_type = value.pop("model_type", default)
    # By its name and from this very file: with remote code the registered class may be another copy.
    if model_type == TorchvisionBackboneConfig.model_type:
        return TorchvisionBackboneConfig(**value)
    return AutoConfig.for_model(model_type, **value)


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _check_positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


AutoConfig.register(TorchvisionBackboneConfig.model_type, TorchvisionBackboneConfig, exist_ok=True)

__all__ = ["CustomClipConfig", "RemoteTowerConfig", "TorchvisionBackboneConfig"]
