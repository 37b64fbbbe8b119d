"""A tiny member, with random weights, of every family of towers that transformers, torchvision and timm build."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as tr
from transformers import CONFIG_MAPPING, MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

from hf_customclip import TorchvisionBackboneConfig, TorchvisionBackboneModel

VOCABULARY = 120
MOST_PARAMETERS = 15_000_000
WIDE = ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embed_dim", "word_embed_proj_dim")
DEEP = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads",
    "encoder_attention_heads", "decoder_attention_heads", "num_experts_per_tok",
)  # fmt: skip
INNER = (
    "intermediate_size", "d_ff", "ffn_dim", "n_inner", "d_inner", "hidden_dim", "ffn_hidden_size",
    "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
POSITIONS = ("n_positions", "max_position_embeddings")
SHALLOW: dict[str, Any] = {**dict.fromkeys(DEEP, 2), "vocab_size": VOCABULARY, "pad_token_id": 0,
                           "initializer_range": 0.1}  # fmt: skip
NARROW: dict[str, Any] = {
    **SHALLOW, **dict.fromkeys(WIDE, 32), **dict.fromkeys(HEADS, 2), **dict.fromkeys(INNER, 64),
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_intermediate_size": 32,
}  # fmt: skip
SMALL: dict[str, Any] = {
    **NARROW, **dict.fromkeys(POSITIONS, 64), "head_dim": 16, "d_kv": 16, "image_size": 32, "patch_size": 8,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# From the smallest to what is nearest to the family's own defaults.
SIZES = (SMALL, NARROW, SHALLOW, {})
# What a family's own rules ask for beside that.
_SWIN = {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4}
SPECIAL: dict[str, dict[str, Any]] = {
    "swin": _SWIN, "swinv2": _SWIN, "donut-swin": _SWIN, "maskformer-swin": _SWIN, "swin2sr": _SWIN,
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "funnel": {"block_sizes": [1, 1], "d_head": 16, "n_head": 2},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2, "state_size": 16, "n_groups": 1},
    "longformer": {"attention_window": 8},
    "align_vision_model": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 64},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 64},
}  # fmt: skip
# Around other models, in transformers' name for them.
NOT_TOWERS = (
    "timm_wrapper",
    "timm_backbone",
    "torchvision_backbone",
    "custom_clip",
    "vision-text-dual-encoder",
)
# The smallest member of each torchvision family, without EfficientNetV2: with random weights its features reach 1e6,
# and rounding alone changes them.
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32",
    "wide_resnet50_2",
)  # fmt: skip
# The smallest member of each timm module that has one of less than 60 million parameters.
TIMM = (
    "halonet_h1", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convmixer_768_32", "test_convnext",
    "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s", "csatv2", "cspnext_tiny", "davit_tiny",
    "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn68", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0",
    "ese_vovnet19b_slim_dw", "fasternet_t0", "fastvit_s12", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050",
    "gmlp_ti16_224", "hardcorenas_a", "hgnetv2_b0", "hiera_tiny_224", "hieradet_small", "hrnet_w18_small",
    "iformer_s", "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small",
    "legacy_seresnet18", "legacy_xception", "levit_128s", "lowformer_b0", "mobilenetv3_small_050", "mobilevit_xxs",
    "mvitv2_tiny", "nest_tiny", "nextvit_small", "pit_xs_224", "poolformerv2_s12", "pvt_v2_b0", "rdnet_tiny",
    "regnetx_002", "repghostnet_050", "repvit_m1", "res2next50", "resnest14d", "resnetv2_18", "rexnet_100",
    "selecsls42", "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window8_256", "test_coatnet", "test_mambaout",
    "test_nfnet", "test_resnet", "test_vit", "test_vit_relpos", "tiny_vit_5m_224", "tnt_s_patch16_224", "tresnet_m",
    "twins_pcpvt_small", "visformer_tiny", "vit_tiny_patch16_dinov3_qkvb", "vit_tiny_r_s16_p8_224",
    "vitamin_small_224", "volo_d1_224", "xception41", "xcit_nano_12_p8_224",
)  # fmt: skip


def all_families() -> list[str]:
    """Every model type that AutoModel builds, "torchvision/NAME" and "timm/NAME"."""
    types = dict.fromkeys(config_class.model_type for config_class in MODEL_MAPPING)
    return [
        *(name for name in types if name not in NOT_TOWERS),
        *(f"torchvision/{name}" for name in TORCHVISION),
        *(f"timm/{name}" for name in TIMM),
    ]


def tiny_configs(family: str) -> Iterator[Any]:
    """The family's configurations that build, from a tiny one to those nearer to its defaults.

    Raises:
        ValueError: none builds, or none is small; the last one's reason.
    """
    library, _, name = family.rpartition("/")
    if library:
        config_class = {"timm": tr.TimmWrapperConfig, "torchvision": TorchvisionBackboneConfig}[library]
        yield config_class(architecture=name)
        return
    built, reason = 0, ""
    for sizes in SIZES:
        try:
            with torch.device("meta"):
                config = tiny_config(CONFIG_MAPPING[family], sizes)
                count = sum(p.numel() for p in model_class(config)(config).parameters())
        except Exception as error:  # a family may raise anything
            reason = reason or f"{type(error).__name__}: {error}"
            continue
        if count > MOST_PARAMETERS:
            reason = f"more than {MOST_PARAMETERS:,} parameters"
            break  # and so are those nearer to the defaults
        built += 1
        yield config
    if not built:
        raise ValueError(reason)


def tiny_config(config_class: Any, sizes: dict[str, Any]) -> Any:
    """The configuration with every size of `sizes` that it has a name for, and its parts' configurations too."""
    known = {name for cls in config_class.__mro__ for name in getattr(cls, "__annotations__", {})}
    aliases = getattr(config_class, "attribute_map", {})
    defaults = config_class()
    options = {
        name: value
        for name, value in sizes.items()
        if (name in known or (name in aliases and aliases[name] not in sizes))
        and not isinstance(getattr(defaults, name, None), (list, tuple))
    }
    if sizes and isinstance(depths := getattr(defaults, "depths", None), (list, tuple)):
        options["depths"] = [1] * len(depths)
    for name in getattr(config_class, "sub_configs", {}):
        part = getattr(defaults, name, None)
        if isinstance(part, tr.PreTrainedConfig):
            options[name] = tiny_config(type(part), sizes).to_dict()
    special = SPECIAL.get(config_class.model_type, {}) if sizes else {}
    return config_class(**{**options, **special})


def model_class(config: Any) -> Any:
    """The class that AutoModel would build, and of T5 and its kin the encoder."""
    found = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None) or MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, (tuple, list)) else found


def kinds(config: Any) -> list[str]:
    """Which towers it could be, by what its class takes: "vision", "text", both or none."""
    taken = inspect.signature(model_class(config).forward).parameters
    named = {"vision": "pixel_values", "text": "input_ids"}
    return [kind for kind, name in named.items() if name in taken]


def write_tower(config: Any, folder: Path) -> str:
    """Save the whole model, as published checkpoints are, with random weights; the name of its class."""
    torch.manual_seed(0)
    if isinstance(config, TorchvisionBackboneConfig):
        model: Any = TorchvisionBackboneModel.from_torchvision(config.architecture, weights=None)
    else:
        model = tr.AutoModel.from_config(config)
    model.save_pretrained(folder)
    return type(model).__name__
