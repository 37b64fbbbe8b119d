"""One training step: the loss over all processes' pairs, in one pass or with gradient caching."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.pairs import TEACHER, UNPAIRED
from ..features.reasons import check_still_frozen
from ..modeling.losses_custom_clip import nested_loss
from .distillation import distillation_loss
from .distributed import gather_rows, row_counts
from .finite import not_finite_loss
from .gradient_cache import cached_backward, split_batch

if TYPE_CHECKING:
    from .trainer import CustomClipTrainer

Ids = dict[str, torch.Tensor]
_TEMPERATURE = ("logit_scale", "logit_bias")


class ContrastiveStep:
    """What a `CustomClipTrainer` does with a batch.

    Attributes:
        image_names: the data set's `image_id`s, which the batches' integers index; for error messages.
    """

    def __init__(self, trainer: CustomClipTrainer) -> None:
        self.trainer = trainer
        self.image_names: np.ndarray | None = None

    def loss(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """The contrastive loss over the pairs of all processes if `gather_negatives`, and the model's outputs."""
        check_still_frozen(self.trainer.model, inputs)
        inputs, teacher = _without_teacher(inputs)
        pairs = len(_first_rows(inputs))
        inputs, teacher = _with_unpaired(inputs, teacher)
        if self._is_alone() and len(_first_rows(inputs)) == pairs:
            outputs = model(**inputs, return_loss=True)
            loss = outputs.loss
        else:
            outputs = model(**inputs)
            loss = self._loss_over_processes(
                outputs.image_embeds[:pairs], outputs.text_embeds, outputs.logit_scale, _ids(inputs)
            )
        if teacher:
            loss = loss + self._distillation(
                outputs.image_embeds, outputs.text_embeds, outputs.logit_scale, teacher
            )
        if model.training:
            self._check_loss(loss, inputs)
        return loss, outputs

    def run_in_chunks(self, model: Any, inputs: dict[str, Any], chunk_size: int) -> torch.Tensor:
        """A training step in which the towers see `chunk_size` pairs at a time; the loss as Trainer logs it."""
        trainer = self.trainer
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                "gradient_cache_chunk_size does not work with FSDP or DeepSpeed: use DDP, or leave it unset."
            )
        model.train()
        inputs, teacher = _without_teacher(trainer._prepare_inputs(inputs))
        check_still_frozen(trainer.model, inputs)
        # As many chunks on every process: each forward pass of theirs is one for all.
        counts = row_counts(_first_rows(inputs))
        chunks = min(math.ceil(max(counts) / chunk_size), min(counts))
        unwrapped = trainer.accelerator.unwrap_model(model)

        def batch_loss(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
            scale = unwrapped.inverse_temperature()
            loss = self._loss_over_processes(images, texts, scale, _ids(inputs))
            if teacher:
                loss = loss + self._distillation(images, texts, scale, teacher)
            self._check_loss(loss, inputs)
            return loss

        steps = trainer.current_gradient_accumulation_steps
        loss = cached_backward(
            model,
            split_batch(inputs, chunks),
            batch_loss,
            temperature=[
                parameter
                for name, parameter in unwrapped.named_parameters()
                if name.split(".")[-1] in _TEMPERATURE and parameter.requires_grad
            ],
            backward=trainer.accelerator.backward,
            forward_context=trainer.compute_loss_context_manager,
            no_sync=partial(trainer.accelerator.no_sync, model),
            factor=1 / steps,
        )
        return loss / steps

    def _loss_over_processes(
        self, images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, ids: Ids
    ) -> torch.Tensor:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if self._is_alone():
            alone: torch.Tensor = model.contrastive_loss(images, texts, scale, **ids)
            return alone
        counts, text_counts = row_counts(images), row_counts(texts)
        gathered: dict[str, Any] = {
            "all_image_embeds": gather_rows(images, counts),
            "all_text_embeds": gather_rows(texts, text_counts),
        }
        for name, rows in ids.items():
            of_texts = name in ("text_image_ids", "caption_ids")
            gathered[f"all_{name}"] = gather_rows(rows, text_counts if of_texts else counts)
        loss: torch.Tensor
        if "text_image_ids" in ids:
            loss = model.contrastive_loss(images, texts, scale, **ids, **gathered)
            # A process's share of the loss, against DistributedDataParallel's mean over processes.
            return loss * len(counts)
        offset = sum(counts[: self.trainer.args.process_index])
        loss = model.contrastive_loss(images, texts, scale, **ids, **gathered, offset=offset)
        # A process with more pairs counts for more: the mean over processes is then the mean over pairs.
        return loss * (len(images) * len(counts) / sum(counts))

    def _distillation(
        self, images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, teacher: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        rows = {"image_embeds": images, "text_embeds": texts, **teacher}
        everyone, processes = rows, 1
        if not self._is_alone():
            everyone = {name: gather_rows(own, row_counts(own)) for name, own in rows.items()}
            processes = self.trainer.args.world_size
        gathered = {f"all_{name}": all_rows for name, all_rows in everyone.items()}
        widths = self.trainer.model.config.loss_widths
        loss = nested_loss(
            distillation_loss, widths, images, texts, scale, *map(teacher.get, TEACHER), **gathered
        )
        # A process's share of the loss, against DistributedDataParallel's mean over processes.
        return self.trainer.args.distillation_weight * processes * loss

    def _is_alone(self) -> bool:
        return self.trainer.args.world_size == 1 or not self.trainer.args.gather_negatives

    def _check_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        if bool(torch.isfinite(loss)):
            return
        ids = inputs.get("image_ids")
        numbers = [] if ids is None else ids.tolist()
        names = numbers if self.image_names is None else [self.image_names[number] for number in numbers]
        raise not_finite_loss(loss, self.trainer.state.global_step + 1, self.trainer.model, inputs, names)


def _without_teacher(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What the model takes, and a teacher's embeddings of the same images and texts, if there is one."""
    teacher = {name: rows for name, rows in inputs.items() if name in TEACHER + UNPAIRED}
    return {name: rows for name, rows in inputs.items() if name not in teacher}, teacher


def _with_unpaired(
    inputs: dict[str, Any], teacher: dict[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Images without captions behind the others, for the model and in the teacher's embeddings."""
    if UNPAIRED[0] not in teacher:
        return inputs, teacher
    features, embeds = (teacher[name] for name in UNPAIRED)
    images = {"image_features": torch.cat([inputs["image_features"], features])}
    taught = {TEACHER[0]: torch.cat([teacher[TEACHER[0]], embeds]), TEACHER[1]: teacher[TEACHER[1]]}
    return inputs | images, taught


def _first_rows(inputs: dict[str, Any]) -> torch.Tensor:
    """One row an image: there may be more texts than that, never fewer."""
    rows: torch.Tensor = inputs["image_features"] if "image_features" in inputs else inputs["pixel_values"]
    return rows


def _ids(inputs: dict[str, Any]) -> Ids:
    names = ("image_ids", "text_image_ids", "group_ids", "caption_ids")
    return {name: inputs[name] for name in names if name in inputs}
