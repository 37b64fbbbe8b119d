"""A whole run: data, towers, training, honest numbers, a folder that loads."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import pipeline, set_seed

from .._files import write_json
from ..data import DataReport, load_with_report
from ..data.augmentation import build_augmentation
from ..data.images import decode_image, to_rgb
from ..evaluation.embedded_dataset import EmbeddedDataset, embed_dataset
from ..evaluation.intervals import bootstrap_intervals
from ..evaluation.languages import chance_by_language, format_language_table
from ..evaluation.overlap import write_training_record
from ..evaluation.reports import format_retrieval_table, languages_of
from ..evaluation.retrieval import ranks_both_ways
from ..features.shard_dataset import FeatureShards
from ..hub.known_data import describe_data
from ..hub.model_card import DATA_FILE, RESULTS_FILE
from ..inference.load_model import load_model
from ..modeling.modeling_custom_clip import CustomClipModel
from ..modeling.processing_custom_clip import CustomClipProcessor
from .callbacks import ChanceLossCallback, OverfittingCallback
from .checks import check_processor_options, check_sections, check_splits, prepare_output_folder
from .config import TrainConfig
from .progress_table import show_progress_table
from .trainer import CustomClipTrainer
from .training_args import CustomClipTrainingArguments


def run_training(config: TrainConfig) -> dict[str, float]:
    """Train as the configuration says, save, and report on the test split (else the validation split).

    Returns:
        The metrics that also land in `all_results.json`.
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
        model=build_model(config.model),
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
    metrics = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).metrics
    trainer.save_model()
    if "validation" in splits:
        metrics |= trainer.evaluate()
    if "test" in splits:
        metrics |= trainer.evaluate(splits["test"], metric_key_prefix="test")
    trainer.save_state()
    if trainer.is_world_process_zero():
        trainer.save_metrics("all", metrics)
        if isinstance(splits["train"], Dataset):  # a stream is not read twice
            options = {key: value for key, value in data.items() if key != "source"}
            write_training_record(
                str(args.output_dir), splits["train"], str(data["source"]), options, found.split_rule
            )
        # For the model card, whenever it is written.
        write_json(
            Path(str(args.output_dir)) / DATA_FILE, dataclasses.asdict(trainer.publisher.data_description)
        )
        held_out = next((name for name in ("test", "validation") if name in splits), None)
        if held_out:
            _report(Path(str(args.output_dir)), held_out, splits[held_out], list(found.languages))
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


def build_model(model: dict[str, Any]) -> CustomClipModel:
    """The towers and new heads that a configuration's section `model` describes."""
    return CustomClipModel.from_vision_text_pretrained(**model)


def build_processor(config: TrainConfig) -> CustomClipProcessor:
    """The processor of a configuration's towers."""
    options = {
        name: config.model[name]
        for name in ("vision_kwargs", "text_kwargs", "max_text_length")
        if name in config.model
    }
    return CustomClipProcessor.from_vision_text_pretrained(
        config.model["vision"], config.model["text"], **options, **config.processor
    )


def _report(folder: Path, split: str, dataset: Dataset, trained_languages: list[str]) -> None:
    """Load the folder as anybody would, and show what it can do."""
    model, processor = load_model(folder)
    embedded = embed_dataset(model, processor, dataset)
    ids = embedded.image_ids, embedded.text_image_ids
    ranks = ranks_both_ways(embedded.image_embeds, embedded.text_embeds, *ids)
    metrics, chance = embedded.metrics(), chance_by_language(*ids, languages=embedded.languages)
    by_language = bool(languages_of(metrics))
    intervals = None if by_language else bootstrap_intervals(ranks)
    size = {"num_images": len(ranks.images), "num_captions": len(ranks.texts)}
    measured = {"metrics": metrics, "chance": chance, "intervals": intervals}
    write_json(folder / RESULTS_FILE, [{"split": split, **size, **measured}])
    print(
        f"\n{folder} loaded back with AutoModel and AutoProcessor; {split} split, {len(dataset)} images "
        "never trained on:"
    )
    print(format_retrieval_table(metrics, chance, intervals))
    if by_language:
        table = format_language_table(metrics, trained_languages)
        print(f"\nEach language alone; above is their mean:\n{table}")
    _show_pipeline(folder, dataset)
    _draw(folder / "retrieval.png", embedded, dataset)


def _show_pipeline(folder: Path, dataset: Dataset) -> None:
    labels = list(dict.fromkeys(captions[0] for captions in dataset[: min(5, len(dataset))]["captions"]))
    image = to_rgb(decode_image(dataset[0]["image"]))
    answer = pipeline("zero-shot-image-classification", model=str(folder))(
        image, candidate_labels=labels, hypothesis_template="{}"
    )
    print(f"\npipeline('zero-shot-image-classification') on an image of {labels[0]!r}:")
    for guess in answer:
        print(f"  {guess['score']:.3f}  {guess['label']}")


def _draw(file: Path, embedded: EmbeddedDataset, dataset: Dataset) -> None:
    try:
        from ..evaluation.plots import plot_retrieval_grid
    except ImportError:
        print("\nNo image of the results: pip install 'hf-customclip[plots]' brings matplotlib.")
        return
    plot_retrieval_grid(embedded, dataset, file)
    print(f"\nA few queries with their top images: {file}")
