"""A whole run: data, towers, training, honest numbers, a folder that loads."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import set_seed

from .._files import write_json
from ..data import DataReport, load_with_report
from ..data.augmentation import build_augmentation
from ..evaluation.overlap import DataOrigin
from ..features.shard_dataset import FeatureShards
from ..hub.known_data import describe_data
from ..hub.model_card import DATA_FILE
from ..modeling.processing_custom_clip import CustomClipProcessor
from .callbacks import ChanceLossCallback, OverfittingCallback
from .checks import check_processor_options, check_sections, check_splits, prepare_output_folder
from .config import TrainConfig
from .final_results import report_saved_model
from .progress_table import show_progress_table
from .recipe import create_model
from .trainer import CustomClipTrainer
from .training_args import CustomClipTrainingArguments


def run_training(config: TrainConfig) -> dict[str, float]:
    """Train as the configuration says, save, and report on the test split (else the validation split).

    Returns:
        The metrics that also land in `all_results.json`; other processes than the first have only the training's.
    """
    config = check_sections(config)
    args = CustomClipTrainingArguments(**{"disable_tqdm": not sys.stderr.isatty(), **config.training})
    prepare_output_folder(args)
    set_seed(args.seed)  # Trainer does it too, but after the heads have got their random weights
    data = dict(config.data)
    augmentation = build_augmentation(data.pop("augmentation", None))
    splits, found = _load_splits(data)
    shards = FeatureShards(args.feature_shards) if args.feature_shards else None
    if shards is not None:
        splits = {**splits, "train": shards}
    check_splits(splits, args)
    processor = build_processor(config)
    check_processor_options(processor.image_processor, config.processor)
    trainer = CustomClipTrainer(
        model=create_model(**config.model),
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=processor,
        image_transform=augmentation,
        callbacks=[ChanceLossCallback(), OverfittingCallback()],
    )
    if not args.show_step_logs:
        show_progress_table(trainer)
    sizes = {name: len(split) for name, split in splits.items()}
    if shards is not None:
        sizes["train"] = shards.manifest["rows"]
    description = describe_data(str(config.data["source"]), sizes)
    if found.languages:
        description = dataclasses.replace(description, languages=tuple(found.languages))
    trainer.publisher.data_description = description
    options = {key: value for key, value in data.items() if key != "source"}
    trainer.checkpoints.data_origin = DataOrigin.of(str(data["source"]), options, found.split_rule)
    metrics: dict[str, float] = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).metrics
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        folder = Path(str(args.output_dir))
        # For the model card, whenever it is written.
        write_json(folder / DATA_FILE, dataclasses.asdict(description))
        metrics |= report_saved_model(folder, splits, list(found.languages), trainer.state.log_history)
        trainer.save_metrics("all", metrics)
    if args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def _load_splits(data: dict[str, Any]) -> tuple[dict[str, Any], DataReport]:
    """The splits, and what was found; `eval_languages` are those of all splits but train."""
    data = dict(data)
    eval_languages = data.pop("eval_languages", None)
    loaded, report = load_with_report(**data)
    splits: Any = {"train": loaded} if isinstance(loaded, (Dataset, IterableDataset)) else loaded
    if eval_languages is not None and "train" in splits:
        measured, _ = load_with_report(**{**data, "languages": eval_languages})
        splits = {**measured, "train": splits["train"]}
    return splits, report


def build_processor(config: TrainConfig) -> CustomClipProcessor:
    """The processor of the model that the configuration names, down to the set of its weights."""
    shared = ("vision_weights", "vision_kwargs", "text_kwargs", "max_text_length")
    options = {name: config.model[name] for name in shared if name in config.model}
    return CustomClipProcessor.from_vision_text_pretrained(
        config.model["vision"], config.model["text"], **options, **config.processor
    )
