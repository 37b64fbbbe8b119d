"""Training arguments: transformers' own, with this recipe's defaults and what contrastive training adds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from .refused import refuse_ignored_arguments

CAPTION_SAMPLINGS = ("first", "random", "by_language")
FEATURE_CACHES = ("auto", "always", "never")
FEATURE_PRECISIONS = ("auto", "float32", "bfloat16")
HEAD_INITS = ("auto", "cca")
BATCHES = ("images", "pairs")
METHODS = ("gradient", "closed_form")
UNREADABLE_IMAGES = ("error", "skip")


@dataclass
class CustomClipTrainingArguments(TrainingArguments):
    """`TrainingArguments` whose defaults are the measured recipe for frozen towers (benchmarks/flickr8k.md), with a
    few fields more. The tutorial's own settings are examples/configs/tutorial.yaml.

    Raises:
        ValueError: a value that is not allowed, naming the allowed ones.
    """

    per_device_train_batch_size: int = field(
        default=256,
        metadata={"help": "Images a process and step, each with its captions; or pairs (see batch_of)."},
    )
    per_device_eval_batch_size: int = field(
        default=128, metadata={"help": "Images a process and evaluation step."}
    )
    num_train_epochs: float = field(
        default=32.0, metadata={"help": "How often each chosen caption is shown."}
    )
    learning_rate: float = field(default=7e-4, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.3, metadata={"help": "AdamW's, of matrices alone."})
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine", metadata={"help": "How the learning rate goes down."}
    )
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Steps of warm-up; below 1 as a share of all steps."}
    )
    method: str = field(
        default="gradient",
        metadata={
            "help": "'gradient' steps, or 'closed_form': heads by canonical correlation analysis of the cached "
            "features, in seconds and without a step. Both towers must be frozen."
        },
    )
    batch_of: str = field(
        default="images",
        metadata={
            "help": "What a batch is made of: 'images', each with all its chosen captions, every one of which is "
            "right; or image-caption 'pairs' that hold no image twice."
        },
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two logged losses."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "The batches hold only what is used."}
    )
    captions_per_image: int | None = field(
        default=None, metadata={"help": "Captions of each image that an epoch shows; null for all."}
    )
    caption_sampling: str = field(
        default="first",
        metadata={
            "help": "'first' captions each epoch; 'random' ones anew each epoch, languages by their share of the "
            "captions; or random ones 'by_language', each of an image's languages as often as the others."
        },
    )
    gather_negatives: bool = field(
        default=True, metadata={"help": "Compare with the pairs of all processes, not only one's own."}
    )
    gradient_cache_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Gradient caching: pairs that a process runs through the towers at a time, so that a large "
            "batch needs the memory of a small one. null for none. gradient_accumulation_steps saves memory too, "
            "but adds no negatives: each of its batches is compared within itself only."
        },
    )
    head_init: str | None = field(
        default="auto",
        metadata={
            "help": "'cca': heads start at canonical correlation analysis of the cached features, a closed form, for "
            "which both towers must be frozen; 'auto': so where that is the case; null: as the model has them."
        },
    )
    ema_decay: float | None = field(
        default=0.98,
        metadata={
            "help": "Average the heads over the steps (exponential moving average) in runs on cached features; the "
            "average is evaluated and saved. null for none."
        },
    )
    image_views: int = field(
        default=1,
        metadata={
            "help": "Views of each image from which every step draws one: 1 for the image as it is, 2 for its mirror "
            "image too (unless the model averages it), more for so many random crops beside; each is one more pass "
            "that is cached."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a CLIP, a SigLIP or a model made here, whose similarities of each batch are "
            "soft targets beside the contrastive loss (distillation). In runs on cached features; null for none."
        },
    )
    distillation_weight: float = field(
        default=0.3, metadata={"help": "Weight of the teacher's loss; the contrastive loss has 1."}
    )
    unpaired_images: str | None = field(
        default=None,
        metadata={
            "help": "Folder of images without captions: every batch gets as many of them as it has images, for the "
            "teacher's loss alone. null for none."
        },
    )
    hubness_bank_size: int = field(
        default=4000,
        metadata={
            "help": "Training images and captions whose embeddings are saved with the model, to correct rankings for "
            "hubs; evaluation then shows both. In runs on cached features; 0 for none."
        },
    )
    tower_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of unfrozen towers; null for the heads' own."}
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Learning rate of each unfrozen layer group relative to the one above it."},
    )
    heads_only_checkpoints: bool = field(
        default=True,
        metadata={
            "help": "Leave frozen towers out of the checkpoints in the middle of a run: a few MB each."
        },
    )
    feature_cache: str = field(
        default="auto",
        metadata={
            "help": "Run frozen towers once and keep their outputs: 'auto' where that changes nothing, "
            "'always' (an error where it would), 'never'."
        },
    )
    feature_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the cached features; by default in the user's cache folder."},
    )
    feature_shards: str | None = field(
        default=None,
        metadata={
            "help": "Where `hf-customclip features extract` has put features (a folder or fsspec address) to train "
            "on in place of the data's train split."
        },
    )
    feature_precision: str = field(
        default="auto",
        metadata={
            "help": "Precision of the frozen towers' one pass: 'float32', 'bfloat16', or 'auto', which is "
            "bfloat16 where the device computes in it and float32 elsewhere."
        },
    )
    unreadable_images: str = field(
        default="error",
        metadata={"help": "Images of which no features can be made: 'error', or 'skip' to leave them out."},
    )
    license: str | None = field(
        default=None,
        metadata={"help": "Licence of the model for its card, as the Hub spells it, such as 'apache-2.0'."},
    )

    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a better metric_for_best_model; null for never."
        },
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "How much better counts as better for early stopping."}
    )
    resume_from_checkpoint: str | bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "A checkpoint's folder, or true for the newest in output_dir."}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "`hf-customclip train` may replace an earlier run's model in output_dir."},
    )
    show_step_logs: bool = field(
        default=False,
        metadata={
            "help": "`hf-customclip train` prints the log of every logging_steps, not a line an epoch."
        },
    )

    def __post_init__(self) -> None:
        if self.greater_is_better is None and re.search(
            r"(loss|_rank)(_|$)", self.metric_for_best_model or ""
        ):
            self.greater_is_better = False  # to Trainer, only a loss is better when it is lower
        super().__post_init__()
        refuse_ignored_arguments(self)
        _check_processes(self.world_size, str(self.output_dir))
        _check_choice("caption_sampling", self.caption_sampling, CAPTION_SAMPLINGS)
        if self.gradient_cache_chunk_size is not None and self.gradient_cache_chunk_size < 1:
            raise ValueError(
                f"gradient_cache_chunk_size must be at least 1 or null, got {self.gradient_cache_chunk_size}"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        _check_choice("method", self.method, METHODS)
        _check_choice("batch_of", self.batch_of, BATCHES)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1 or null, got {self.ema_decay}")
        if self.image_views < 1 or self.hubness_bank_size < 0:
            raise ValueError(
                f"image_views={self.image_views}, hubness_bank_size={self.hubness_bank_size}: at least 1 view and "
                "a bank of 0 or more are needed"
            )
        if self.distillation_weight <= 0:
            raise ValueError(f"distillation_weight must be above 0, got {self.distillation_weight}")
        if self.teacher is not None and self.method == "closed_form":
            raise ValueError(
                "teacher has no effect with method='closed_form', which takes no steps of training."
            )
        if self.unpaired_images is not None and (self.teacher is None or self.gradient_cache_chunk_size):
            raise ValueError(
                "unpaired_images are for a teacher's loss: name a teacher, and leave gradient_cache_chunk_size unset."
            )
        if self.head_init is not None:
            _check_choice("head_init", self.head_init, HEAD_INITS)
        self._check_early_stopping()
        _check_choice("feature_cache", self.feature_cache, FEATURE_CACHES)
        _check_choice("feature_precision", self.feature_precision, FEATURE_PRECISIONS)
        _check_choice("unreadable_images", self.unreadable_images, UNREADABLE_IMAGES)

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience is None:
            return
        if self.early_stopping_patience < 1:
            raise ValueError(
                f"early_stopping_patience must be at least 1 or null, got {self.early_stopping_patience}"
            )
        if self.eval_strategy == IntervalStrategy.NO or self.metric_for_best_model is None:
            raise ValueError(
                "early_stopping_patience needs evaluations and a metric to compare them by: set eval_strategy "
                "(such as epoch) and metric_for_best_model (such as rsum)."
            )


def _check_processes(connected: int, output_dir: str) -> None:
    """Refuse processes that a launcher started and nothing connects: each would train a model of its own."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    if "LOCAL_RANK" in os.environ and started > connected:
        raise ValueError(
            f"{started} processes were started and are not connected: each would train a model of its own and "
            f"write it to {output_dir}. Without an accelerator, processes are connected only where the arguments say "
            "use_cpu=True (training.use_cpu: true in a configuration file). Add that, or start one process."
        )


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
