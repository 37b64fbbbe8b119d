"""Learning rates by part: heads at the full rate, towers at their own, lower layers slower."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..modeling.freezing_custom_clip import TOWERS
from ..modeling.towers_custom_clip import layer_groups


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
