"""`hf-customclip init`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from .data_options import DataOptions
from .options import takes_options
from .output import say_next

if TYPE_CHECKING:
    from ..data import DataReport

HELP = """Look at images with captions and write a configuration to train with, commented.

\b
    hf-customclip init my-images/
    hf-customclip init products.csv --group-column sku --output shop.yaml
    hf-customclip train --config shop.yaml

The recipe is the measured one; towers are proposed for the captions' language and for this machine.
"""
# Settings worth a look, with what they do; their values are the defaults, which are the measured recipe.
SHOWN = {
    "num_train_epochs": "how often each image is shown",
    "per_device_train_batch_size": "fewer where memory is short; at least 64",
    "learning_rate": "of the heads",
    "seed": "another one draws other batches and heads",
}
EVALUATION = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "eval_on_start": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "rsum",
}
ENGLISH = re.compile(r"\b(a|an|the|of|with|in|on|and|for)\b", re.IGNORECASE)
CAPTIONS_READ = 1000


@takes_options
def init(
    source: Annotated[str, typer.Argument(help="Images with captions: a folder, a file or a Hub id.")],
    data_options: DataOptions,
    output: Annotated[Path, typer.Option(help="The configuration to write.")] = Path("train.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Load, propose, write, and say what comes next."""
    if output.exists() and not overwrite:
        raise ValueError(f"{output} is there already: name another --output, or give --overwrite.")
    from .._files import write_text
    from ..data import inspect_captions

    splits, report = data_options.load(source, None)
    inspect_captions(splits, report)
    captions = [caption for row in next(iter(splits.values()))[:CAPTIONS_READ]["captions"] for caption in row]
    write_text(output, configuration(source, data_options.given(), report, propose_towers(captions)))
    typer.echo(f"wrote {output}")
    say_next("hf-customclip", "train", "--config", output)


def propose_towers(captions: Iterable[str]) -> dict[str, str]:
    """Towers for captions in their language, and for a machine with or without an accelerator."""
    import torch

    texts = list(captions)
    plain = sum(text.isascii() and bool(ENGLISH.search(text)) for text in texts)
    english = plain >= 0.3 * len(texts) and sum(not text.isascii() for text in texts) < 0.05 * len(texts)
    return {
        "vision": "facebook/dinov2-small" if torch.accelerator.is_available() else "resnet34",
        "text": "sentence-transformers/all-MiniLM-L6-v2" if english else "intfloat/multilingual-e5-small",
        "text_pooling": "mean",
    }


def configuration(source: str, options: dict[str, Any], report: DataReport, towers: dict[str, str]) -> str:
    """The YAML file: what was found as comments, what is chosen as values."""
    from ..training.training_args import CustomClipTrainingArguments

    defaults = {field.name: field.default for field in fields(CustomClipTrainingArguments)}
    name = Path(source.rstrip("/")).stem
    language = "English" if "MiniLM" in towers["text"] else "many languages"
    machine = "a machine without an accelerator" if towers["vision"] == "resnet34" else "this accelerator"
    lines = [
        f"# {report.form}: {report.images_out:,} images, {report.captions_out:,} captions.",
        *(f"# {note}" for note in report.notes),
        *_warnings(report, options),
        "model:",
        f"  # Frozen; for {machine} and captions in {language}. Others: `hf-customclip towers`.",
        *_lines(towers),
        "data:",
        *_lines({"source": source, **options}),
        f"  # Splits {report.split_rule}.",
        "training:",
        *_lines({"output_dir": f"outputs/{name}"}),
        *(f"  {key}: {_value(defaults[key])}  # {why}" for key, why in SHOWN.items()),
        "  # The checkpoint with the best recalls on the validation split is kept; those before the first step are of",
        "  # the closed form that heads on frozen towers start at.",
        *_lines(EVALUATION),
    ]
    return "\n".join(lines) + "\n"


def _warnings(report: DataReport, options: dict[str, Any]) -> list[str]:
    shared = report.shared.get("captions in several splits", 0)
    lines = [f"# Problem: {problem}" for problem in report.problems.values()]
    if shared and "group_column" not in options:
        lines.append(
            f"# {shared:,} captions stand in several splits: if images of one thing share them, name the column that"
        )
        lines.append(
            "# tells the things apart below, as group_column, so that none is trained on and tested."
        )
    return lines


def _lines(values: dict[str, Any]) -> list[str]:
    return [f"  {key}: {_value(value)}" for key, value in values.items()]


def _value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).splitlines()[0]
