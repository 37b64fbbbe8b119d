"""A loss, gradient or weight that is not finite stops training, with the step, the images and a likely cause."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

IDS_SHOWN = 20
NAMES_SHOWN = 3


class NotFiniteError(ValueError):
    """Training came upon NaN or infinity; the checkpoints written before are good."""


def not_finite_loss(
    loss: torch.Tensor, step: int, model: nn.Module, inputs: dict[str, Any], image_ids: list[Any]
) -> NotFiniteError:
    """The error that a loss of NaN or infinity ends training with.

    Args:
        image_ids: the batch's images by the names that the data set gives them.
    """
    shown = ", ".join(map(str, image_ids[:IDS_SHOWN])) + (", …" if len(image_ids) > IDS_SHOWN else "")
    return NotFiniteError(
        f"The loss at step {step} is {float(loss.detach())}. Likely cause: {_cause(model, inputs, image_ids)} "
        f"The last checkpoint is good. The batch's {len(image_ids)} images on this process: {shown}."
    )


def check_gradient_norm(norm: Any, step: int, scaled: bool) -> None:
    """Raise NotFiniteError for a gradient that is not finite, unless a loss scaler will skip that step."""
    if norm is None or scaled or bool(torch.isfinite(torch.as_tensor(norm)).all()):
        return
    raise NotFiniteError(
        f"The gradient at step {step} is not finite although the loss is. Likely cause: an overflow in the "
        "backward pass; lower learning_rate, or train in bf16 or float32. The weights are as before this step, "
        "and the last checkpoint is good."
    )


def check_weights(model: nn.Module, step: int) -> None:
    """Raise NotFiniteError where a trained weight is not finite, so that no such checkpoint is written."""
    if names := _not_finite(model):
        raise NotFiniteError(
            f"After step {step} these weights are not finite: {', '.join(names)}. Likely cause: the learning "
            "rate is too high. No checkpoint of this step is written; the one before is good."
        )


def _cause(model: nn.Module, inputs: dict[str, Any], image_ids: list[Any]) -> str:
    for name, rows in inputs.items():
        if not (isinstance(rows, torch.Tensor) and rows.is_floating_point()):
            continue
        bad = (~torch.isfinite(rows.flatten(1))).any(1).nonzero().flatten().tolist()
        if bad:
            ids = ", ".join(str(image_ids[row]) for row in bad[:NAMES_SHOWN])
            return (
                f"{name} are not finite for {len(bad)} image(s) ({ids}): look at them and their preparation."
            )
    if names := _not_finite(model):
        return (
            f"weights are not finite since the step before ({', '.join(names)}): lower learning_rate, or "
            "lengthen warmup_steps."
        )
    return (
        "an overflow within the towers or heads, inputs and weights being finite: train in bf16 or float32 "
        "instead of fp16, or lower learning_rate."
    )


def _not_finite(model: nn.Module) -> list[str]:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    bad = [name for name, p in trained if not bool(torch.isfinite(p).all())]
    more = len(bad) - NAMES_SHOWN
    return bad[:NAMES_SHOWN] + ([f"and {more} more"] if more > 0 else [])
