"""What is trained: in float32, heads at the full learning rate, towers at their own, lower layers slower."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..modeling.freezing_custom_clip import TOWERS
from ..modeling.towers_custom_clip import layer_groups

logger = logging.get_logger(__name__)


def hold_trained_in_float32(model: Any) -> None:
    """Bring every part of which a half-precision weight is trained to float32: towers and heads each as a whole.

    A bfloat16 weight has 8 bits, so that a step below 1/256 of it, which nearly all steps are, changes nothing.
    """
    held = []
    for name, part in model.named_children():
        trained = [p for p in part.parameters() if p.requires_grad and p.is_floating_point()]
        if any(p.dtype.itemsize < torch.float32.itemsize for p in trained):
            part.float()
            held.append(name)
    if model.logit_scale.dtype != torch.float32:
        model.logit_scale.data = model.logit_scale.data.float()
    if held:
        logger.warning(
            f"{', '.join(held)}: loaded in half precision and trained, so the weights are held in float32. bf16=True "
            "still computes in bfloat16."
        )


def rate_factors(model: Any, tower_factor: float, layer_decay: float) -> dict[nn.Parameter, float]:
    """For each tower parameter, what the learning rate is multiplied with.

    Args:
        tower_factor: of a tower's last layer group (see `layer_groups`, which freezing goes by too).
        layer_decay: of each group against the one above it.
    """
    factors = {}
    for name in TOWERS:
        for depth, group in enumerate(reversed(layer_groups(getattr(model, f"{name}_model")))):
            for module in group:
                for parameter in module.parameters(recurse=False):
                    factors[parameter] = tower_factor * layer_decay**depth
    return factors


def split_by_rate(optimizer: torch.optim.Optimizer, factors: dict[nn.Parameter, float]) -> None:
    """Cut the optimizer's groups so that each has one rate; parameters without a factor keep theirs."""
    split = []
    for group in optimizer.param_groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        split += [
            {**group, "params": parameters, "lr": group["lr"] * factor}
            for factor, parameters in sorted(by_factor.items(), reverse=True)
        ]
    # The heads' first: their rate is the one that Trainer logs.
    optimizer.param_groups[:] = split
