"""What `Trainer` knows and contrastive training has no use for: refused, where it would be ignored in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from transformers import TrainingArguments

_ONE_EVALUATION = "every image and caption is embedded once, and the whole is ranked"
_OWN_BATCHES = "batches are made by this trainer, without duplicates, and shared out over the processes"
_NO_TOKENS = "nothing is generated or counted by tokens here"

# By name, and why.
REFUSED_ARGUMENTS = {
    "average_tokens_across_devices": _NO_TOKENS,
    "batch_eval_metrics": _ONE_EVALUATION,
    "bf16_full_eval": "evaluation computes as training does: give bf16=True",
    "dataloader_in_order": _OWN_BATCHES,
    "dataloader_multiprocessing_context": _OWN_BATCHES,
    "eval_accumulation_steps": _ONE_EVALUATION,
    "eval_do_concat_batches": _ONE_EVALUATION,
    "eval_use_gather_object": _ONE_EVALUATION,
    "fp16_full_eval": "evaluation computes as training does: give fp16=True",
    "include_for_metrics": "compute_metrics gets the embeddings of images and captions, and their image ids",
    "include_num_input_tokens_seen": _NO_TOKENS,
    "label_names": "there are no labels: image_ids say which image and caption belong together",
    "label_smoothing_factor": "the loss is the model's own, with no smoothing",
    "length_column_name": _OWN_BATCHES,
    "liger_kernel_config": "no kernel of Liger's fits two towers",
    "neftune_noise_alpha": "it is made for language models; config.projection_dropout is what there is",
    "parallelism_config": "the loss needs whole embeddings: use DDP or FSDP",
    "prediction_loss_only": _ONE_EVALUATION,
    "remove_unused_columns": "batches hold only what is used",
    "train_sampling_strategy": _OWN_BATCHES,
    "use_cache": _NO_TOKENS,
    "use_liger_kernel": "no kernel of Liger's fits two towers",
}
# Of accelerator_config: these steer accelerate's own data loader.
REFUSED_OF_ACCELERATOR = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler")
REFUSED_PARAMETERS = {
    "compute_loss_func": "the loss is the model's own: config.loss_type, or a subclass's contrastive_loss",
    "model_init": "heads are started on one model: give it as model",
    "preprocess_logits_for_metrics": "evaluation ranks embeddings: give compute_metrics",
}


def refuse_ignored_arguments(args: TrainingArguments) -> None:
    """Raise ValueError for an argument that is refused here with another value than its default."""
    _refuse_other_than_default(args, REFUSED_ARGUMENTS)
    of_accelerator = dict.fromkeys(REFUSED_OF_ACCELERATOR, _OWN_BATCHES)
    _refuse_other_than_default(args.accelerator_config, of_accelerator, "accelerator_config.")


def _refuse_other_than_default(given: Any, refused: Mapping[str, str], prefix: str = "") -> None:
    for field in fields(given):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name in refused and getattr(given, field.name) != default:
            raise ValueError(
                f"{prefix}{field.name} has no effect here, so leave it at {default!r}: {refused[field.name]}."
            )


def refuse_ignored_parameters(given: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter of `REFUSED_PARAMETERS` that is given to the trainer."""
    for name, value in given.items():
        if name in REFUSED_PARAMETERS and value is not None:
            raise ValueError(f"{name} has no effect here: {REFUSED_PARAMETERS[name]}.")
