"""One training step: the loss over all processes' pairs, in one pass or with gradient caching."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch

from ..features.cache import check_still_frozen
from .distributed import gather_rows, row_counts
from .finite import not_finite_loss
from .gradient_cache import cached_backward, split_batch

_TEMPERATURE = ("logit_scale", "logit_bias")


class ContrastiveStepMixin:
    """For a `Trainer` whose model is a `CustomClipModel`: `compute_loss` and `training_step`."""

    args: Any
    model: Any
    state: Any
    accelerator: Any
    current_gradient_accumulation_steps: int
    _image_names: np.ndarray | None = None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's contrastive loss, over the pairs of all processes if `gather_negatives`."""
        check_still_frozen(self.model, inputs)
        if self.args.world_size == 1 or not self.args.gather_negatives:
            outputs = model(**inputs, return_loss=True)
            loss = outputs.loss
        else:
            outputs = model(**inputs)
            loss = self._loss_over_processes(
                outputs.image_embeds, outputs.text_embeds, outputs.logit_scale, inputs.get("image_ids")
            )
        if model.training:
            self._check_loss(loss, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As in `Trainer`; with `gradient_cache_chunk_size` the towers see the batch in chunks."""
        in_parts = getattr(self, "is_fsdp_enabled", False)
        if in_parts:
            # In its forward pass the model holds the temperature, but only the copy gathered for it.
            self.accelerator.unwrap_model(model.train()).inverse_temperature()
        if self.args.gradient_cache_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc,no-any-return]
        if in_parts or getattr(self, "is_deepspeed_enabled", False):
            raise ValueError(
                "gradient_cache_chunk_size does not work with FSDP or DeepSpeed: use DDP, or leave it unset."
            )
        model.train()
        inputs = self._prepare_inputs(inputs)  # type: ignore[attr-defined]
        check_still_frozen(self.model, inputs)
        # As many chunks on every process: each forward pass of theirs is one for all.
        counts = row_counts(next(iter(inputs.values())))
        chunks = min(math.ceil(max(counts) / self.args.gradient_cache_chunk_size), min(counts))
        unwrapped = self.accelerator.unwrap_model(model)

        def batch_loss(images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
            loss = self._loss_over_processes(images, texts, unwrapped.inverse_temperature(), ids)
            self._check_loss(loss, inputs)
            return loss

        steps = self.current_gradient_accumulation_steps
        loss = cached_backward(
            model,
            split_batch(inputs, chunks),
            batch_loss,
            temperature=[
                parameter
                for name, parameter in unwrapped.named_parameters()
                if name.split(".")[-1] in _TEMPERATURE and parameter.requires_grad
            ],
            backward=self.accelerator.backward,
            forward_context=self.compute_loss_context_manager,  # type: ignore[attr-defined]
            no_sync=partial(self.accelerator.no_sync, model),
            factor=1 / steps,
        )
        return loss / steps

    def _loss_over_processes(
        self, images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, ids: torch.Tensor | None
    ) -> torch.Tensor:
        model = self.accelerator.unwrap_model(self.model)
        if self.args.world_size == 1 or not self.args.gather_negatives:
            return model.contrastive_loss(images, texts, scale, ids)
        counts = row_counts(images)
        loss = model.contrastive_loss(
            images,
            texts,
            scale,
            ids,
            all_image_embeds=gather_rows(images, counts),
            all_text_embeds=gather_rows(texts, counts),
            all_image_ids=None if ids is None else gather_rows(ids, counts),
            offset=sum(counts[: self.args.process_index]),
        )
        # A process with more pairs counts for more: the mean over processes is then the mean over pairs.
        return loss * (len(images) * len(counts) / sum(counts))

    def _check_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        if bool(torch.isfinite(loss)):
            return
        ids = inputs.get("image_ids")
        numbers = [] if ids is None else ids.tolist()
        names = numbers if self._image_names is None else [self._image_names[number] for number in numbers]
        raise not_finite_loss(loss, self.state.global_step + 1, self.model, inputs, names)
