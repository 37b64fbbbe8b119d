# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""CustomClipModel: any image tower and any text tower, joined by projection heads in one space."""

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging
from transformers.utils.generic import ModelOutput, can_return_tuple

from .configuration_custom_clip import CustomClipConfig
from .contract_custom_clip import check_contract
from .encoding_custom_clip import EncodingMixin
from .freezing_custom_clip import FreezingMixin, is_trained
from .heads_custom_clip import FeatureInput, build_projection
from .heads_only_custom_clip import HeadsOnlyMixin
from .joining_custom_clip import check_fields, check_it_runs, choose_poolings
from .losses_custom_clip import (
    multi_positive_sigmoid_loss,
    multi_positive_softmax_loss,
    nested_loss,
    sigmoid_contrastive_loss,
    softmax_contrastive_loss,
)
from .pooling_custom_clip import resolve_feature_parts, run_and_pool
from .remote_code_custom_clip import check_code_files, save_tower_code, with_remote_towers
from .sentence_transformers_custom_clip import write_sentence_transformers_files
from .towers_custom_clip import (
    build_tower,
    image_input_shape,
    load_text_tower,
    load_vision_tower,
    max_text_positions,
)

logger = logging.get_logger(__name__)

MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5
# For device_map="auto": what adds an input to its own output.
ON_ONE_DEVICE = ("MlpProjection", "TorchvisionBackboneModel", "TimmWrapperModel")


@dataclass
class CustomClipOutput(ModelOutput):
    """What a forward pass gives.

    Args:
        loss: scalar, when `return_loss=True`.
        logits_per_image: (images, texts), cosine times the inverse temperature (plus the sigmoid loss's
            bias).
        logits_per_text: its transpose.
        text_embeds, image_embeds: (count, projection_dim, or truncate_dim where set), float32, L2-normalised.
        logit_scale: scalar, the inverse temperature.
        text_model_output, vision_model_output: the towers' own outputs, where the towers ran.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are there; the towers' outputs as tuples too."""
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


class CustomClipModel(EncodingMixin, HeadsOnlyMixin, FreezingMixin, PreTrainedModel):
    """A dual encoder on two towers of the user's choice; frozen towers cost no graph and never move."""

    config_class = CustomClipConfig
    base_model_prefix = "custom_clip"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    # The loss is a mean over the batch: Trainer must scale it for accumulation itself.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self,
        config: CustomClipConfig,
        vision_model: PreTrainedModel | None = None,
        text_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.vision_model = vision_model if vision_model is not None else build_tower(config.vision_config)
        self.text_model = text_model if text_model is not None else build_tower(config.text_config)
        # One configuration object each, so that a change reaches the tower and the checkpoint.
        config.vision_config._attn_implementation = self.vision_model.config._attn_implementation
        config.text_config._attn_implementation = self.text_model.config._attn_implementation
        self.vision_model.config = config.vision_config
        self.text_model.config = config.text_config

        resolve_feature_parts(config, self.vision_model, self.text_model)
        self.visual_projection = self._new_head(config.vision_embed_dim)
        self.text_projection = self._new_head(config.text_embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        if config.loss_type == "sigmoid":
            self.logit_bias = nn.Parameter(torch.tensor(float(config.logit_bias_init_value)))

        self.max_text_positions = max_text_positions(self.text_model)
        self._text_inputs = frozenset(inspect.signature(self.text_model.forward).parameters)
        self.post_init()
        # Those that are there, beside the towers' own: FSDP stops at a name that it does not find.
        there = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = sorted(there & {*(self._no_split_modules or ()), *ON_ONE_DEVICE})
        self.apply_freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Heads as torch initialises linear layers, the tutorial's way; the temperature by its value."""
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, FeatureInput):
            if module.standardize:
                init.zeros_(module.mean)
                init.ones_(module.scale)
        elif module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)
            if self.config.loss_type == "sigmoid":
                init.constant_(self.logit_bias, self.config.logit_bias_init_value)
        else:
            super()._init_weights(module)

    @property
    def text_embed_dim(self) -> int:
        """Width of the text tower's feature."""
        return int(self.config.text_embed_dim)

    def get_input_embeddings(self) -> nn.Module:
        """The text tower's token embeddings; resizing them and gradient checkpointing ask for them."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the text tower's token embeddings."""
        self.text_model.set_input_embeddings(value)

    # ---- Embeddings ----

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Pixels (batch, channels, height, width) to the tower's output, whose `pooler_output` is the
        projected embedding (batch, projection_dim), not normalised."""
        outputs, feature = self._run_vision_tower(pixel_values, **kwargs)
        return _with_pooled(outputs, self._project(feature, self.visual_projection))

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Tokens (batch, length) to the tower's output, whose `pooler_output` is the projected embedding
        (batch, projection_dim), not normalised."""
        outputs, feature = self._run_text_tower(input_ids, attention_mask, **kwargs)
        return _with_pooled(outputs, self._project(feature, self.text_projection))

    def pool_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The image tower's feature (batch, vision_embed_dim): what `image_features` expects."""
        return self._run_vision_tower(pixel_values)[1]

    def pool_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """The text tower's feature (batch, text_embed_dim): what `text_features` expects."""
        return self._run_text_tower(input_ids, attention_mask, **kwargs)[1]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        text_image_ids: torch.Tensor | None = None,
        group_ids: torch.Tensor | None = None,
        caption_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CustomClipOutput:
        """Embed images and texts and compare each with each.

        Args:
            input_ids, attention_mask: (texts, length); or instead
            text_features: (texts, text_embed_dim), the text tower's feature (`pool_text`).
            pixel_values: (images, channels, height, width); or instead
            image_features: (images, vision_embed_dim), the image tower's feature (`pool_image`).
            image_ids: (images,) integers; pairs with equal ids are never each other's negatives (`config.same_image`).
            text_image_ids: (texts,) the image of each text, where images have several texts; see `contrastive_loss`.
            group_ids: (images,) integers; images of one group are never each other's negatives either.
            caption_ids: (texts,) integers, the same for equal captions, which are right for each other's images.
            return_loss: also compute the loss; without `text_image_ids` image i and text i are then a pair.

        Raises:
            ValueError: nothing to embed, a wrong shape, too long a text, or a loss of unequal counts.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        vision_outputs = text_outputs = None
        if pixel_values is not None and image_features is None:
            vision_outputs, image_features = self._run_vision_tower(pixel_values, **options, **kwargs)
        if input_ids is not None and text_features is None:
            text_outputs, text_features = self._run_text_tower(
                input_ids,
                attention_mask,
                position_ids=position_ids,
                token_type_ids=token_type_ids,
                **options,
                **kwargs,
            )
        if image_features is None and text_features is None:
            raise ValueError(
                "nothing to embed: give pixel_values or image_features, input_ids or text_features"
            )

        image_embeds = self._embed(image_features, "image", self.visual_projection)
        text_embeds = self._embed(text_features, "text", self.text_projection)
        scale = self.inverse_temperature()
        logits = None
        if image_embeds is not None and text_embeds is not None:
            logits = image_embeds @ text_embeds.T * scale + (
                self.logit_bias if self.config.loss_type == "sigmoid" else 0
            )
        ids = {"group_ids": group_ids, "caption_ids": caption_ids}
        return CustomClipOutput(
            loss=self.contrastive_loss(image_embeds, text_embeds, scale, image_ids, text_image_ids, **ids)
            if return_loss
            else None,
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            logit_scale=scale,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )

    def inverse_temperature(self) -> torch.Tensor:
        """exp(logit_scale), at most 100; in training the parameter is held there, or it would be stuck."""
        if self.training and self.logit_scale.requires_grad:
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            # Not clamped again: in float32 the limit is above ln 100, where clamp passes no gradient.
            return self.logit_scale.float().exp()
        return self.logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp()

    def contrastive_loss(
        self,
        image_embeds: torch.Tensor | None,
        text_embeds: torch.Tensor | None,
        scale: torch.Tensor,
        image_ids: torch.Tensor | None = None,
        text_image_ids: torch.Tensor | None = None,
        **gathered: Any,
    ) -> torch.Tensor:
        """The loss that `config.loss_type` names; `gathered` holds other processes' rows (see the losses).

        Pairs, or with `text_image_ids` images with several texts each, every one of which is right.
        """
        if image_embeds is None or text_embeds is None:
            raise ValueError("return_loss=True needs both images and texts")
        if image_ids is not None and len(image_ids) != len(image_embeds):
            raise ValueError(f"got {len(image_ids)} image_ids for {len(image_embeds)} images")
        sigmoid = self.config.loss_type == "sigmoid"
        terms = [scale, self.logit_bias] if sigmoid else [scale]
        widths = self.config.loss_widths
        if sigmoid:
            gathered.pop("all_image_embeds", None)
        if text_image_ids is not None:
            if image_ids is None or len(text_image_ids) != len(text_embeds):
                raise ValueError("text_image_ids needs image_ids beside it, and an id for every text")
            multi: Callable[..., torch.Tensor] = (
                multi_positive_sigmoid_loss if sigmoid else multi_positive_softmax_loss
            )
            return nested_loss(
                multi, widths, image_embeds, text_embeds, *terms, image_ids, text_image_ids, **gathered
            )
        if len(image_embeds) != len(text_embeds):
            raise ValueError(
                f"return_loss=True needs image i and text i to be a pair, got {len(image_embeds)} images "
                f"and {len(text_embeds)} texts; for several texts an image give text_image_ids"
            )
        pairs: Callable[..., torch.Tensor] = sigmoid_contrastive_loss if sigmoid else softmax_contrastive_loss
        gathered["same_image"] = self.config.same_image
        return nested_loss(pairs, widths, image_embeds, text_embeds, *terms, image_ids, **gathered)

    # ---- Parts ----

    def _run_vision_tower(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[Any, torch.Tensor]:
        channels = image_input_shape(self.config.vision_config)[0]
        if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values must have the shape (batch, {channels}, height, width), "
                f"got {tuple(pixel_values.shape)}"
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be floating-point, as the processor makes them, got {pixel_values.dtype}"
            )
        pixels = pixel_values.to(self.vision_model.dtype)
        outputs, feature = self._run("vision", pixel_values=pixels, **kwargs)
        if self.config.average_mirrored:
            feature = (feature + self._run("vision", pixel_values=pixels.flip(-1), **kwargs)[1]) / 2
        return outputs, feature

    def _run_text_tower(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[Any, torch.Tensor]:
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must have the shape (batch, length), got {tuple(input_ids.shape)}")
        length = input_ids.shape[1]
        if length == 0:
            raise ValueError("a text has no tokens: give at least one word, or leave it out")
        if self.max_text_positions is not None and length > self.max_text_positions:
            raise ValueError(
                f"a text has {length} tokens, and the text tower takes at most {self.max_text_positions}: "
                f"shorten it, or tokenize with truncation=True, max_length={self.config.max_text_length}"
            )
        # A BERT tokenizer sends token_type_ids, which DistilBERT does not take.
        kwargs = {k: v for k, v in kwargs.items() if k in self._text_inputs or k.startswith("output_")}
        # A decoder would keep what it needs to write on.
        kwargs |= {name: False for name in ("use_cache", "use_mems") if name in self._text_inputs}
        return self._run("text", input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    def _run(self, name: str, **inputs: Any) -> tuple[Any, torch.Tensor]:
        tower = self._tower(name)
        trained = is_trained(tower)
        if trained and self.training:
            self._wake(name)
        inputs = {name: value for name, value in inputs.items() if value is not None}
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            return run_and_pool(tower, self.config, name, **inputs)

    def _new_head(self, width: Any) -> nn.Module:
        config = self.config
        return build_projection(
            config.projection_type,
            width,
            config.projection_dim,
            config.projection_dropout,
            config.feature_dropout,
            config.standardize_features,
        )

    def _embed(self, features: torch.Tensor | None, kind: str, projection: nn.Module) -> torch.Tensor | None:
        if features is None:
            return None
        width = self.config.vision_embed_dim if kind == "image" else self.text_embed_dim
        if features.dim() != 2 or features.shape[1] != width:
            raise ValueError(
                f"{kind}_features must have the shape (batch, {width}), got {tuple(features.shape)}"
            )
        # In float32: in half precision F.normalize's eps rounds to 0, and a zero vector gives NaN.
        return F.normalize(self._project(features, projection).float(), dim=-1)

    def _project(self, features: torch.Tensor, projection: nn.Module) -> torch.Tensor:
        # A frozen tower may be kept in half precision below a head in float32.
        projected: torch.Tensor = projection(features.to(next(projection.parameters()).dtype))
        return projected[:, : self.config.truncate_dim]

    # ---- Making, loading, saving ----

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike[str],
        text: str | os.PathLike[str],
        *,
        vision_weights: str | None = "DEFAULT",
        text_weights: str | None = "DEFAULT",
        vision_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> "CustomClipModel":
        """Two pretrained towers and new heads.

        Args:
            vision: a torchvision name ("resnet34"), a folder or a Hub id that AutoModel can load.
            text: a folder or a Hub id of a text encoder that AutoModel can load.
            vision_weights, text_weights: None for random weights of the same shape; for torchvision also
                the name of a weight set.
            vision_kwargs, text_kwargs: for the towers' `from_pretrained` (revision, token, dtype, …).
            config: fields of `CustomClipConfig`.

        Raises:
            ValueError: an unknown tower or field, with near matches.
        """
        check_fields(config)
        if "quantization_config" in {**(vision_kwargs or {}), **(text_kwargs or {})}:
            raise ValueError(
                "towers quantised by quantization_config can be neither cached nor saved with new heads: join them as "
                "they are (dtype='bfloat16' halves them), and give quantization_config where the finished model loads"
            )
        vision_model = load_vision_tower(vision, vision_weights, **(vision_kwargs or {}))
        text_model = load_text_tower(text, text_weights, **(text_kwargs or {}))
        check_it_runs(vision_model, "vision")
        check_it_runs(text_model, "text")
        choose_poolings(vision_model, text_model, config)
        # Random weights come from nowhere: a checkpoint must not say that they could be fetched again.
        names = {
            "vision_name": None if vision_weights is None else str(vision),
            "text_name": None if text_weights is None else str(text),
        }
        joined = CustomClipConfig.from_vision_text_configs(
            vision_model.config, text_model.config, **{**names, **config}
        )
        model = cls(joined, vision_model=vision_model, text_model=text_model)
        check_code_files(model)
        check_contract(model)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`; what was frozen is frozen again."""
        name = pretrained_model_name_or_path
        loaded = super().from_pretrained(name, *args, **with_remote_towers(cls.config_class, name, kwargs))
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.apply_freeze()
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.save_pretrained`; the code files, every Auto class's entry and what
        sentence-transformers reads come along."""
        own, configuration = (cls.__module__.split(".")[-1] for cls in (type(self), type(self.config)))
        self.config.auto_map = {
            "AutoConfig": f"{configuration}.{type(self.config).__name__}",
            "AutoModel": f"{own}.{type(self).__name__}",
            "AutoModelForZeroShotImageClassification": f"{own}.{type(self).__name__}",
        }
        if kwargs.get("is_main_process", True):
            save_tower_code(self, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        if Path(save_directory, "config.json").is_file():  # else another process saves
            write_sentence_transformers_files(save_directory, self.config.max_text_length)


def _with_pooled(outputs: Any, pooled: torch.Tensor) -> BaseModelOutputWithPooling:
    """Towers have outputs of many classes; a decoder's keeps its cache, DistilBERT's has no `pooler_output`."""
    return BaseModelOutputWithPooling(
        last_hidden_state=outputs.last_hidden_state,
        pooler_output=pooled,
        hidden_states=getattr(outputs, "hidden_states", None),
        attentions=getattr(outputs, "attentions", None),
    )


CustomClipConfig.register_for_auto_class("AutoConfig")
CustomClipModel.register_for_auto_class("AutoModel")

__all__ = ["CustomClipModel", "CustomClipOutput"]
