"""A frozen tower made ready for one fast pass: in the pass's precision, pooled as in the model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of a pass: "float32", "bfloat16", or "auto": bfloat16 where the device multiplies in it.

    Measured (benchmarks/training_cost.md): recalls are the same within seed noise; where a device only
    imitates it, bfloat16 is many times slower than float32.
    """
    if name != "auto":
        return PRECISIONS[name]
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 matrix products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    tests = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    return any(test() for test in tests if test is not None)


class TowerPass:
    """From a batch of inputs to pooled features; it leaves the model itself as it is.

    Args:
        model: a `CustomClipModel`.
        tower: "vision" or "text".
        dtype, device: what it computes in and on.
    """

    def __init__(self, model: Any, tower: str, dtype: torch.dtype, device: torch.device) -> None:
        self.tower, self.dtype, self.device = tower, dtype, device
        # The model with this tower alone: pooling and checks stay the model's.
        self.model = copy.copy(model)
        self.model.__dict__["_modules"] = {f"{tower}_model": self._ready(getattr(model, f"{tower}_model"))}

    def _ready(self, module: nn.Module) -> nn.Module:
        if self.tower == "text" and not module.training and self._is_placed(module):
            return module
        with torch.no_grad():
            ready = copy.deepcopy(module).to(self.device, self.dtype)
        if self.tower == "vision":
            ready = ready.to(memory_format=torch.channels_last)
        return ready.eval()

    def _is_placed(self, module: nn.Module) -> bool:
        return all(p.dtype == self.dtype and p.device == self.device for p in module.parameters())

    @torch.inference_mode()
    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(batch, width), of type `dtype`, on `device`."""
        inputs = {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
        if self.tower == "text":
            return self.model.pool_text(**inputs).to(self.dtype)
        pixels = inputs["pixel_values"].to(self.dtype, memory_format=torch.channels_last)
        return self.model.pool_image(pixels).to(self.dtype)


def feature_width(model: Any, tower: str) -> int:
    """Width of the tower's pooled output."""
    return model.config.vision_embed_dim if tower == "vision" else model.text_embed_dim
