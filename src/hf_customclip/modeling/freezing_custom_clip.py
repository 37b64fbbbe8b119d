# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Frozen towers that stay inert: no gradient, no graph, and eval mode whatever `train()` says."""

from typing import Any

from torch import nn

from .contract_custom_clip import unused_parameters
from .towers_custom_clip import layer_groups

TOWERS = ("vision", "text")


class FreezingMixin:
    """`freeze`, `unfreeze`, and a `train` that leaves frozen parts alone; `config` keeps what is frozen."""

    config: Any
    training: bool
    logit_scale: nn.Parameter

    def freeze(self, *towers: str) -> None:
        """Freeze "vision", "text", or both when none is named."""
        for tower in self._named(towers):
            setattr(self.config, f"freeze_{tower}", True)
            setattr(self.config, f"{tower}_unfrozen_groups", 0)
        self.apply_freeze()

    def unfreeze(self, *towers: str, last_groups: int | None = None) -> None:
        """Train "vision", "text", or both when none is named; given `last_groups`, only so many layer groups.

        Raises:
            ValueError: the tower has fewer groups (see `layer_groups`).
        """
        for tower in self._named(towers):
            count = len(layer_groups(self._tower(tower)))
            if last_groups is not None and not 0 <= last_groups <= count:
                raise ValueError(f"last_groups={last_groups}: the {tower} tower has {count} layer groups")
            setattr(self.config, f"freeze_{tower}", last_groups is not None)
            setattr(self.config, f"{tower}_unfrozen_groups", last_groups or 0)
        self.apply_freeze()

    def apply_freeze(self) -> None:
        """Set `requires_grad` everywhere as `config` says; loading makes new parameters and forgets it."""
        for tower in TOWERS:
            self._tower(tower).requires_grad_(not getattr(self.config, f"freeze_{tower}"))
            unfrozen = getattr(self.config, f"{tower}_unfrozen_groups")
            for group in layer_groups(self._tower(tower))[-unfrozen:] if unfrozen else ():
                for module in group:
                    for parameter in module.parameters(recurse=False):
                        parameter.requires_grad_(True)
            for name in unused_parameters(self, tower):
                self._tower(tower).get_parameter(name).requires_grad_(False)
        self.logit_scale.requires_grad_(self.config.learn_logit_scale)
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        """As `nn.Module.train`, but frozen towers and layers stay in eval mode, BatchNorm and all."""
        super().train(mode)  # type: ignore[misc]
        if mode:
            for tower in TOWERS:
                _train_unfrozen_part(self._tower(tower))
        return self

    def _wake(self, name: str) -> None:
        """Let a frozen tower whose parameters were made trainable by hand since `train()` train after all."""
        tower = self._tower(name)
        if getattr(self.config, f"freeze_{name}") and not any(module.training for module in tower.modules()):
            _train_unfrozen_part(tower.train())

    def _tower(self, name: str) -> nn.Module:
        tower: nn.Module = getattr(self, f"{name}_model")
        return tower

    def _named(self, towers: tuple[str, ...]) -> tuple[str, ...]:
        for tower in towers:
            if tower not in TOWERS:
                raise ValueError(f"no tower {tower!r}; the towers are 'vision' and 'text'")
        return towers or TOWERS


def is_trained(module: nn.Module) -> bool:
    """Whether any parameter of the module asks for a gradient, an adapter's for example."""
    return any(parameter.requires_grad for parameter in module.parameters())


def _train_unfrozen_part(tower: nn.Module) -> None:
    if all(parameter.requires_grad for parameter in tower.parameters()):
        return
    if not is_trained(tower):
        tower.eval()
        return
    for group in layer_groups(tower):
        own = [parameter for module in group for parameter in module.parameters(recurse=False)]
        live = any(parameter.requires_grad for parameter in own)
        for module in group:
            frozen_norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and not is_trained(module)
            module.training = live and not frozen_norm
