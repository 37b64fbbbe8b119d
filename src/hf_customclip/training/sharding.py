"""Fully sharded training (FSDP2): it cuts parameters into rows, and puts its own class over the model's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def give_scalars_a_row(model: nn.Module) -> list[str]:
    """Make each scalar parameter one of shape (1,), before there is an optimizer; their names."""
    changed = []
    for prefix, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 0:
                row = nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
                setattr(module, name, row)
                changed.append(f"{prefix}.{name}" if prefix else name)
    return changed


def with_scalars(state_dict: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """The weights as a model that was not sharded has them."""
    return {name: rows.reshape(()) if name in names else rows for name, rows in state_dict.items()}


@contextmanager
def under_its_own_class(model: nn.Module) -> Iterator[None]:
    """For saving a sharded model: the code files that go along are its class's, and must not be torch's."""
    from torch.distributed.fsdp import FSDPModule

    sharded = type(model)
    if issubclass(sharded, FSDPModule):
        model.__class__ = next(base for base in sharded.__bases__ if base is not FSDPModule)
    try:
        yield
    finally:
        model.__class__ = sharded
