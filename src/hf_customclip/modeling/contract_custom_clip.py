# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""The contract that two joined towers keep, tried once on a few small inputs.

A tower that breaks it would train to the end and then fail, or be wrong without a word. What is tried: that
the towers embed at all, the same twice, alone and in a padded batch, by every route; that different inputs get
different embeddings; and that the configuration alone builds the same network again.
"""

import json
from typing import Any

import torch
from torch import nn

from .joining_custom_clip import first_line
from .layers_custom_clip import run_with_layers
from .pooling_custom_clip import spatial_axes
from .remote_code_custom_clip import is_remote
from .towers_custom_clip import build_tower, image_input_shape

SEED = 0
TOLERANCE = 0.05  # of an embedding's length; a frozen tower may be in bfloat16
SPECIAL_TOKENS = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
)


def check_contract(model: Any) -> None:
    """Try both towers of a `CustomClipModel`.

    Raises:
        ValueError: a tower breaks the contract; the sentence says what to do.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            _check_text_length(model)
            for tower in ("vision", "text"):
                _check_embeddings(model, tower)
                _check_is_rebuilt(model, tower)
                _check_missing_weights(model, tower)
            _check_map_layout(model)
    finally:
        model.train(was_training)


def probe_inputs(model: Any, tower: str) -> dict[str, torch.Tensor]:
    """Two different inputs of the tower's size: noise for "vision"; for "text" tokens, the second half as long
    as the first and padded on the right."""
    generator = torch.Generator().manual_seed(SEED)
    module = model.get_submodule(f"{tower}_model")
    if tower == "vision":
        noise = torch.randn(2, *image_input_shape(module.config), generator=generator)
        return {"pixel_values": noise.to(module.device)}
    length, config = model.config.max_text_length, module.config.get_text_config()
    size = _vocabulary_size(module)
    given = {name: getattr(config, name, None) for name in SPECIAL_TOKENS}
    special = {name: token for name, token in given.items() if isinstance(token, int) and 0 <= token < size}
    ordinary = [token for token in range(size) if token not in special.values()]
    drawn = torch.randint(0, len(ordinary), (2, length), generator=generator)
    tokens = torch.tensor(ordinary)[drawn]
    mask = torch.ones_like(tokens)
    mask[1, (length + 1) // 2 :] = 0
    # CLIP and its kin pool where the text ends.
    if "eos_token_id" in special:
        tokens[[0, 1], mask.sum(1) - 1] = special["eos_token_id"]
    tokens = torch.where(mask.bool(), tokens, special.get("pad_token_id", 0))
    return {"input_ids": tokens.to(module.device), "attention_mask": mask.to(module.device)}


def unused_parameters(model: Any, tower: str) -> list[str]:
    """Names of the tower's trained parameters that no embedding depends on, so that they get no gradient.

    DistributedDataParallel would wait for it. Poolers beside the chosen pooling are such parameters, mask
    tokens, or the heads of other tasks.
    """
    module: nn.Module = model.get_submodule(f"{tower}_model")
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained or any(p.is_meta or p.numel() == 0 for p in module.parameters()):
        return []  # nothing to find, or not loaded yet
    modes = {part: part.training for part in module.modules()}
    module.eval()
    with torch.enable_grad():
        feature = _pool(model, tower, probe_inputs(model, tower))
        gradients = torch.autograd.grad(feature.float().sum(), list(trained.values()), allow_unused=True)
    for part, mode in modes.items():
        part.training = mode
    return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]


def _pool(model: Any, tower: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    pool = model.pool_image if tower == "vision" else model.pool_text
    feature: torch.Tensor = pool(**inputs)
    return feature


def _vocabulary_size(module: Any) -> int:
    try:
        return int(module.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):  # Canine hashes characters
        return int(getattr(module.config, "vocab_size", 0) or 256)


def _check_text_length(model: Any) -> None:
    length, positions = model.config.max_text_length, model.max_text_positions
    if positions is not None and length > positions:
        raise ValueError(
            f"max_text_length={length} is more than the {positions} tokens that the text tower takes: choose "
            f"max_text_length={positions} or less, in the model and in the processor"
        )


def _check_embeddings(model: Any, tower: str) -> None:
    inputs, name = probe_inputs(model, tower), type(model.get_submodule(f"{tower}_model")).__name__
    item = "image" if tower == "vision" else "text"
    try:
        features = _pool(model, tower, inputs)
        again = _pool(model, tower, inputs)
        embeds = getattr(model(**inputs), f"{item}_embeds")
    except Exception as error:  # a tower may raise anything
        if isinstance(error, ValueError) and "choose" in str(error):
            raise  # a sentence already, of the pooling
        raise ValueError(
            f"the {tower} tower, a {name}, cannot embed {item}s ({first_line(error)}): choose another tower or "
            f"another {tower}_pooling"
        ) from error
    count = len(next(iter(inputs.values())))
    if len(features) != count:  # Pixtral's lays images one after the other
        raise ValueError(
            f"the {tower} tower, a {name}, gives {len(features)} feature(s) for {count} {item}s: choose a tower "
            f"that gives one for each"
        )
    if not features.isfinite().all():
        raise ValueError(
            f"the {tower} tower, a {name}, gives features that are not finite: choose its checkpoint in another "
            f"dtype, or another tower"
        )
    if not _same(features, again):
        raise ValueError(
            f"the {tower} tower, a {name}, is random: two passes over one {item} differ. Choose another tower, or "
            "switch its masking off in its configuration"
        )
    cached = getattr(model(**{f"{item}_features": features}), f"{item}_embeds")
    get_features = getattr(model, f"get_{item}_features")

    def normalised(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.normalize(get_features(**given).pooler_output.float(), dim=-1)

    alone = {key: value[1:, : int(inputs["attention_mask"][1].sum())] if tower == "text" else value[1:]
             for key, value in inputs.items()}  # fmt: skip
    routes = {
        "by cached features": (cached, embeds),
        f"by get_{item}_features": (normalised(inputs), embeds),
        f"alone and beside a longer {item}": (normalised(alone), embeds[1:]),
    }
    for route, (found, expected) in routes.items():
        if not _same(found, expected):
            raise ValueError(
                f"the {tower} tower, a {name}, embeds the same {item} differently {route}: choose another tower or "
                f"another {tower}_pooling"
            )
    if torch.equal(features[0], features[1]):
        raise ValueError(
            f"the {tower} tower, a {name}, gives every {item} the same feature under "
            f"{tower}_pooling={getattr(model.config, f'{tower}_pooling')!r}: choose another {tower}_pooling"
        )


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (found.double() - expected.double()).norm(dim=-1)
    return bool((difference <= TOLERANCE * expected.double().norm(dim=-1)).all())


def _check_map_layout(model: Any) -> None:
    """Channels are the axis of a feature map whose length does not change with the size of the image."""
    tower, config = model.vision_model, model.config
    layers, poolings = config.vision_feature_layers, config.vision_feature_poolings
    if config.vision_pooling != "mean" and not layers and not poolings:
        return
    channels, height, width = image_input_shape(tower.config)
    maps = {}
    for size in ((height, width), (2 * height, 2 * width)):
        pixels = torch.zeros(1, channels, *size, dtype=tower.dtype, device=tower.device)
        try:
            outputs, states = run_with_layers(tower, layers, poolings, pixel_values=pixels)
        except Exception:  # made for one size alone
            return
        maps[size] = [outputs.last_hidden_state, *states]
    for number, (small, large) in enumerate(zip(*maps.values(), strict=True)):
        if small.dim() != 4:
            continue
        axes = spatial_axes(small, tower if number == 0 else None)
        grown = tuple(axis for axis in (1, 2, 3) if small.shape[axis] != large.shape[axis])
        if grown != axes:
            raise ValueError(
                f"the vision tower, a {type(tower).__name__}, gives feature maps of shape {tuple(small.shape)} that do "
                "not tell which axis is the channels: choose vision_pooling='pooler' and no feature layers"
            )


def _check_is_rebuilt(model: Any, tower: str) -> None:
    """A checkpoint is loaded into what its configuration builds."""
    module = model.get_submodule(f"{tower}_model")
    if is_remote(module):
        return  # found only beside its code
    try:
        saved = json.loads(model.config.to_json_string())
        config = getattr(type(model.config).from_dict(saved), f"{tower}_config")
        with torch.device("meta"):
            rebuilt = build_tower(config)
        shapes = {name: value.shape for name, value in rebuilt.state_dict().items()}
        reason = f"a {type(rebuilt).__name__} with other weights"
    except Exception as error:  # a tower may raise anything
        shapes, reason = {}, first_line(error)
    if shapes != {name: value.shape for name, value in module.state_dict().items()}:
        raise ValueError(
            f"the {tower} tower, a {type(module).__name__}, is not built again from its own configuration "
            f"({reason}), so a checkpoint of it would not load: choose another tower"
        )


def _check_missing_weights(model: Any, tower: str) -> None:
    module = model.get_submodule(f"{tower}_model")
    missing = set(getattr(module, "missing_keys", ()))
    if not missing:
        return
    trained = {name: p.requires_grad for name, p in module.named_parameters()}
    module.requires_grad_(True)
    missing -= set(unused_parameters(model, tower))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trained[name])
    if missing:
        raise ValueError(
            f"the checkpoint of the {tower} tower lacks {len(missing)} of the weights of a {type(module).__name__}, "
            f"such as {sorted(missing)[0]}, which would be random: load the part that you mean by its own class, "
            "save it, and give its folder"
        )
