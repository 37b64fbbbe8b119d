"""Pins: every parameter of `Trainer` and every field of `TrainingArguments` is either honoured or refused in a
sentence, and this file says which; `compute_metrics` adds to the metrics; a rank is better when it is lower."""

import dataclasses
import inspect

import numpy as np
import pytest
from tiny_training import make_trainer
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from hf_customclip import CustomClipTrainer
from hf_customclip.training.refused import REFUSED_ARGUMENTS, REFUSED_OF_ACCELERATOR, REFUSED_PARAMETERS

# Trainer's loop, its callbacks, accelerate or this trainer act on them.
HONOURED = set(
    [
        "output_dir",
        "per_device_train_batch_size",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "optim_target_modules",
        "gradient_accumulation_steps",
        "max_grad_norm",
        "bf16",
        "fp16",
        "tf32",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "torch_empty_cache_steps",
        "auto_find_batch_size",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "log_on_each_node",
        "logging_nan_inf_filter",
        "log_level",
        "log_level_replica",
        "disable_tqdm",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "per_device_eval_batch_size",
        "eval_on_start",
        "save_only_model",
        "save_strategy",
        "save_steps",
        "save_on_each_node",
        "save_total_limit",
        "enable_jit_checkpoint",
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "ignore_data_skip",
        "restore_callback_states_from_checkpoint",
        "full_determinism",
        "seed",
        "data_seed",
        "use_cpu",
        "accelerator_config",
        "dataloader_drop_last",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "fsdp",
        "fsdp_config",
        "deepspeed",
        "debug",
        "skip_memory_metrics",
        "resume_from_checkpoint",
        "local_rank",
    ]
)
# For scripts to read: no Trainer acts on them, as their documentation says.
FOR_SCRIPTS = {"do_train", "do_eval", "do_predict"}
HONOURED_OF_ACCELERATOR = {"non_blocking", "gradient_accumulation_kwargs", "use_configured_state"}
HONOURED_PARAMETERS = {"model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class"}
HONOURED_PARAMETERS |= {"compute_metrics", "callbacks", "optimizers", "optimizer_cls_and_kwargs"}


def other(value):
    """A value that differs and is of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return ["other"] if isinstance(value, list) else "other"


def test_every_field_is_honoured_or_refused(tmp_path):
    fields = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    unknown = fields.keys() - HONOURED - FOR_SCRIPTS - REFUSED_ARGUMENTS.keys()
    assert not unknown, "a field of this transformers that nobody has looked at"
    assert not (HONOURED | FOR_SCRIPTS) & REFUSED_ARGUMENTS.keys()
    default = make_trainer(tmp_path).args
    for name in REFUSED_ARGUMENTS.keys() & fields.keys() - {
        "include_num_input_tokens_seen",
        "parallelism_config",
    }:
        with pytest.raises(ValueError, match=f"^{name} has no effect here"):
            make_trainer(tmp_path, **{name: other(getattr(default, name))})


def test_every_field_of_accelerator_config_is_honoured_or_refused(tmp_path, monkeypatch):
    defaults = AcceleratorConfig()
    assert {field.name for field in dataclasses.fields(AcceleratorConfig)} == HONOURED_OF_ACCELERATOR | {
        *REFUSED_OF_ACCELERATOR
    }
    for name in REFUSED_OF_ACCELERATOR:
        given = {name: not getattr(defaults, name)}
        with pytest.raises(ValueError, match=rf"^accelerator_config\.{name} has no effect here"):
            make_trainer(tmp_path, accelerator_config=given)
    moved = []
    monkeypatch.setattr(
        "accelerate.data_loader.send_to_device",
        lambda batch, device, non_blocking, **_: moved.append(non_blocking) or batch,
    )
    list(make_trainer(tmp_path, accelerator_config={"non_blocking": True}).get_train_dataloader())
    assert moved and all(moved)


def test_every_parameter_is_honoured_or_refused(tmp_path):
    names = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert names - HONOURED_PARAMETERS == REFUSED_PARAMETERS.keys() & names
    trainer = make_trainer(tmp_path)
    for name in REFUSED_PARAMETERS.keys() & names:
        with pytest.raises(ValueError, match=f"^{name} has no effect here"):
            CustomClipTrainer(trainer.model, trainer.args, **{name: lambda *_: None})


def test_compute_metrics_adds_to_the_metrics(tmp_path):
    def hits(prediction):
        (images, texts), (image_ids, text_image_ids) = prediction.predictions, prediction.label_ids
        best = (images @ texts.T).argmax(0)  # the image that ranks first for each text
        return {"hits": float(np.mean(image_ids[best] == text_image_ids))}

    trainer = make_trainer(tmp_path)
    trainer.compute_metrics = hits
    metrics = trainer.evaluate()
    assert metrics["eval_hits"] == pytest.approx(metrics["eval_t2i_recall@1"])


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("t2i_mean_rank", False),
        ("eval_i2t_median_rank", False),
        ("t2i_median_rank_de", False),
        ("eval_loss", False),
        ("t2i_recall@5", True),
        ("eval_rsum", True),
    ],
)
def test_a_rank_is_better_when_it_is_lower(tmp_path, metric, greater):
    assert make_trainer(tmp_path, metric_for_best_model=metric).args.greater_is_better is greater
    assert make_trainer(tmp_path, metric_for_best_model=metric, greater_is_better=True).args.greater_is_better
