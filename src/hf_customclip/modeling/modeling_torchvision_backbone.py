# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""A torchvision classification net, without its classifier, as a transformers model."""

from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_custom_clip import TorchvisionBackboneConfig
from .names_custom_clip import did_you_mean


class TorchvisionBackboneModel(PreTrainedModel):
    """`architecture` up to the input of its last linear layer: (batch, 3, size, size) to (batch, width)."""

    config_class = TorchvisionBackboneConfig
    base_model_prefix = "torchvision_backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    # torchvision's attention calls scaled_dot_product_attention by itself.
    _supports_sdpa = True

    def __init__(self, config: TorchvisionBackboneConfig) -> None:
        super().__init__(config)
        self.network = build_network(config.architecture, config.image_size)
        config.hidden_size = remove_classifier(self.network)
        self.post_init()

    @classmethod
    def from_torchvision(
        cls, architecture: str, weights: str | None = "DEFAULT"
    ) -> "TorchvisionBackboneModel":
        """The net with torchvision's weights ("DEFAULT", "IMAGENET1K_V1", …), or random ones for None."""
        published = published_weights(architecture, weights or "DEFAULT")
        size = published.transforms().crop_size[0]
        model = cls(TorchvisionBackboneConfig(architecture=architecture, image_size=size))
        if weights is not None:
            # After post_init, which would overwrite them, BatchNorm statistics included.
            try:
                pretrained = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
            except URLError as error:
                raise OSError(
                    f"torchvision's weights of {architecture} are not on this machine and cannot be fetched from "
                    f"{published.url} ({error.reason})."
                ) from error
            own = model.network.state_dict()
            model.network.load_state_dict({name: pretrained[name] for name in own})
        return model

    def forward(
        self, pixel_values: torch.Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple[torch.Tensor, ...]:
        """`pixel_values` (batch, channels, height, width) to a `pooler_output` of (batch, hidden_size)."""
        pooled = self.network(pixel_values).flatten(1)
        if return_dict is False:
            return (pooled[:, None], pooled)
        return BaseModelOutputWithPooling(last_hidden_state=pooled[:, None], pooler_output=pooled)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He et al. 2015 for convolutions: the library's 0.02 makes a deep random net's features vanish."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif isinstance(module, (nn.Linear, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)):
            super()._init_weights(module)
        else:
            # Bare parameters: class tokens, position embeddings and tables, layer scales.
            for name, parameter in module.named_parameters(recurse=False):
                if "layer_scale" in name:
                    init.constant_(parameter, 1e-6)
                else:
                    init.trunc_normal_(parameter, std=0.02)


def check_architecture(name: str) -> str:
    """`name` itself, or a ValueError that lists the nearest torchvision names."""
    known = models.list_models(module=models)
    if name in known:
        return name
    raise ValueError(f"torchvision has no model named {name!r}.{did_you_mean(name, known, most=5)}")


def published_weights(architecture: str, name: str = "DEFAULT") -> Any:
    """The named one of the weight sets that torchvision publishes, with its `transforms()`."""
    published = models.get_model_weights(check_architecture(architecture))
    if name not in published.__members__:
        known = ", ".join(published.__members__)
        raise ValueError(f"torchvision has no weights {name!r} for {architecture}; it has {known}")
    return published[name]


def build_network(architecture: str, image_size: int) -> nn.Module:
    """The torchvision net with random weights, auxiliary classifiers off."""
    options: dict[str, Any] = {}
    if check_architecture(architecture) in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    elif architecture.startswith("vit_"):
        options = {"image_size": image_size}  # its position embeddings are of one size
    network: nn.Module
    try:
        network = models.get_model(architecture, weights=None, **options)
    except NotImplementedError:
        # from_pretrained builds on the meta device, where RegNet cannot work out its widths.
        with torch.device("cpu"), init.no_init_weights():
            network = models.get_model(architecture, weights=None, **options)
        network = network.to("meta")
    return network


def remove_classifier(network: nn.Module) -> int:
    """Replace the last linear layer (SqueezeNet: the last convolution) by identity; its input width."""
    kind = nn.Linear if any(isinstance(m, nn.Linear) for m in network.modules()) else nn.Conv2d
    name, layer = [(name, m) for name, m in network.named_modules() if isinstance(m, kind)][-1]
    network.set_submodule(name, nn.Identity())
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


AutoModel.register(TorchvisionBackboneConfig, TorchvisionBackboneModel, exist_ok=True)

__all__ = ["TorchvisionBackboneModel"]
