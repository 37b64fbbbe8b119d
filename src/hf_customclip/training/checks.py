"""What can be wrong with a run, said before anything is loaded, or at least before training starts."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from .._safetensors import weight_files
from ..data import load_with_report
from ..evaluation.reports import RETRIEVAL_METRICS
from ..modeling.configuration_custom_clip import CustomClipConfig
from ..modeling.modeling_custom_clip import CustomClipModel
from ..modeling.names_custom_clip import did_you_mean
from .config import TrainConfig
from .field_values import checked_values, types_of_fields, types_of_parameters
from .training_args import CustomClipTrainingArguments

MODEL_FIELDS = [
    field.name
    for field in dataclasses.fields(CustomClipConfig)
    if field.name in CustomClipConfig.__annotations__ and field.name not in ("vision_config", "text_config")
]
METRICS = ("loss", *RETRIEVAL_METRICS)
MUCH_UNKNOWN = 0.02

logger = logging.get_logger(__name__)


def check_sections(config: TrainConfig) -> TrainConfig:
    """The configuration with every name known and every value of its type; nothing is loaded for it.

    Raises:
        ValueError: which name or value is wrong, with near matches.
    """
    fields = {name: CustomClipConfig.__annotations__[name] for name in MODEL_FIELDS}
    loading = types_of_parameters(CustomClipModel.from_vision_text_pretrained)
    model = checked_values("model", config.model, loading | fields)
    CustomClipConfig(
        **{name: value for name, value in model.items() if name in fields}
    )  # it knows what is allowed
    reading = types_of_parameters(load_with_report)
    reading["eval_languages"] = reading["languages"]
    data = checked_values("data", config.data, reading, ("augmentation",))
    training = checked_values("training", config.training, types_of_fields(CustomClipTrainingArguments))
    _check_metric(training.get("metric_for_best_model"))
    _check_trackers(training.get("report_to"))
    return dataclasses.replace(config, model=model, data=data, training=training)


def _check_metric(given: str | None) -> None:
    metric = (given or "rsum").removeprefix("eval_")
    if not any(
        metric == known or metric.startswith(f"{known}_") for known in METRICS
    ):  # "rsum_de": of a language
        raise ValueError(
            f"training.metric_for_best_model cannot be {given!r}: evaluation reports no such number."
            f"{did_you_mean(metric, METRICS)}"
        )


def _check_trackers(trackers: str | list[str] | None) -> None:
    known = ["all", "none", *INTEGRATION_TO_CALLBACK]
    for tracker in [trackers] if isinstance(trackers, str) else trackers or []:
        if tracker not in known:
            raise ValueError(f"training.report_to cannot be {tracker!r}.{did_you_mean(tracker, known)}")


def check_processor_options(image_processor: Any, options: Collection[str]) -> None:
    """Raise ValueError for an option that this image processor would take and not use."""
    known = [*image_processor.valid_kwargs.__annotations__]
    for name in options:
        if name not in known:
            raise ValueError(f"processor.{name} is not known.{did_you_mean(name, known)}")


def check_splits(splits: Collection[str], args: CustomClipTrainingArguments) -> None:
    """Raise ValueError where the data lack a split that training needs, or are a stream."""
    if isinstance(splits, Mapping) and any(isinstance(split, IterableDataset) for split in splits.values()):
        raise ValueError(
            "A stream cannot be trained on as it is: leave out data.streaming, or run `hf-customclip features "
            "extract` and train on the shards (training.feature_shards)."
        )
    if "train" not in splits:
        raise ValueError(f"The data have no train split, only {', '.join(splits)}.")
    if args.eval_strategy != IntervalStrategy.NO and "validation" not in splits:
        raise ValueError(
            f"training.eval_strategy={IntervalStrategy(args.eval_strategy).value} needs a validation split, and the "
            f"data have only {', '.join(splits)}: give data.validation_fraction=0.1, or training.eval_strategy=no."
        )


def check_tokenizer(tokenizer: Any, model: CustomClipModel, captions: Iterable[str]) -> None:
    """Tokenize some captions, and warn of the share of their tokens that stands for unknown words.

    Raises:
        ValueError: every word is unknown, or the text tower has no embedding for a token.
    """
    texts = tokenizer(list(captions), truncation=True, add_special_tokens=False)["input_ids"]
    tokens = [token for text in texts for token in text]
    known = getattr(model.config.text_config, "vocab_size", None)  # None: Canine hashes characters
    if known is not None and max(tokens, default=0) >= known:
        raise ValueError(
            f"The tokenizer makes token {max(tokens)} of a caption, and the text tower has embeddings for {known}: "
            "give the text tower's own tokenizer."
        )
    unknown = tokens.count(tokenizer.unk_token_id) / max(1, len(tokens))
    if tokens and unknown == 1:
        raise ValueError(
            "The tokenizer knows no word of the captions (100 % unknown): give the text tower's own tokenizer, or a "
            "text tower of the captions' language."
        )
    if unknown > MUCH_UNKNOWN:
        logger.warning(
            f"{unknown:.0%} of the captions' tokens stand for words that the tokenizer does not know: is the text "
            "tower one of the captions' language?"
        )


def prepare_output_folder(args: CustomClipTrainingArguments) -> None:
    """Refuse a folder that holds an earlier run, unless that is to be resumed or overwritten.

    With `overwrite` the earlier run's checkpoints are deleted, since the newest of them would be taken for this
    run's; its model stays until this one is saved.

    Raises:
        ValueError: there is an earlier run, and what to do about it.
    """
    folder, resumed = Path(str(args.output_dir)), args.resume_from_checkpoint
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    if args.overwrite and resumed:
        raise ValueError("training.overwrite and training.resume_from_checkpoint cannot both be given.")
    if args.overwrite:
        if args.process_index == 0:
            for path in checkpoints:
                shutil.rmtree(path)
    elif isinstance(resumed, str):
        if not Path(resumed).is_dir():
            raise ValueError(f"There is no checkpoint {resumed!r} (training.resume_from_checkpoint).")
    elif (checkpoints and not resumed) or (weight_files(folder) and not checkpoints):
        go_on = ", or training.resume_from_checkpoint=true to go on from its last checkpoint"
        raise ValueError(
            f"{folder} holds an earlier run's model. Give another training.output_dir, or training.overwrite=true to "
            f"replace it{go_on if checkpoints else ''}."
        )
