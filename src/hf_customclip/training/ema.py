"""An exponential moving average of what is trained, which is what is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback

from .._files import replacing

# Beside a checkpoint's weights, which are the average: the weights that training goes on from.
TRAINED_FILE = "trained.safetensors"


class WeightAverage(TrainerCallback):
    """After every step `average = decay * average + (1 - decay) * weights`, over a model's trained parameters.

    Early on the decay is lower, (1 + steps) / (10 + steps), so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._aside: dict[str, torch.Tensor] | None = None  # the trained weights while the average is shown
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the new weights into the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in self.trained.items():
            self.average[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the model's weights are the average."""
        if self._aside is not None:
            yield
            return
        self._aside = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.put_into_model()
        try:
            yield
        finally:
            self._copy(self._aside)
            self._aside = None

    def put_into_model(self) -> None:
        """Make the average the model's weights."""
        self._copy(self.average)

    def save_trained(self, folder: Path) -> None:
        """Write the trained weights themselves beside a checkpoint that holds their average."""
        weights = self._aside or {name: parameter.detach() for name, parameter in self.trained.items()}
        tensors = {name: value.cpu().contiguous() for name, value in weights.items()}
        with replacing(folder / TRAINED_FILE) as name:
            save_file(tensors, name, metadata={"steps": str(self.steps)})

    def resume(self, folder: Path) -> None:
        """From a checkpoint whose average the model holds now."""
        self.average = {name: p.detach().clone() for name, p in self.trained.items()}
        if (folder / TRAINED_FILE).exists():
            with safe_open(folder / TRAINED_FILE, "pt") as file:
                self.steps = int(file.metadata()["steps"])
                self._copy({name: file.get_tensor(name) for name in self.trained})

    @torch.no_grad()
    def _copy(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])
