"""Loading data to measure models on: divided as the models know, and free of what they were trained on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .data_options import DataOptions, as_flags

if TYPE_CHECKING:
    from datasets import Dataset

    from ..evaluation.overlap import Overlap, TrainingRecord


class OverlapPolicy(str, Enum):
    """What is done about images that a model was trained on."""

    refuse = "refuse"
    drop = "drop"
    mark = "mark"


OverlapOption = Annotated[
    OverlapPolicy,
    typer.Option("--overlap", help="Images that a model was trained on: refuse, drop them, or only mark."),
]


@dataclass
class HeldOut:
    """Data to measure on.

    Attributes:
        dataset: the split.
        notes: what a reader of the numbers must know.
        trained: how many of its images a model was trained on, after what was dropped.
        alike: how many look nearly like one trained on.
        languages: those that the first model was trained on, where it knows them.
    """

    dataset: Dataset
    notes: list[str] = field(default_factory=list)
    trained: int = 0
    alike: int = 0
    languages: list[str] | None = None


def load_held_out(
    models: Sequence[str], source: str, split: str, options: DataOptions, policy: OverlapPolicy
) -> HeldOut:
    """The split, by the seed, fractions and columns of the first model that was trained on this source.

    Raises:
        ValueError: the data cannot be read, or a model was trained on images of the split and the policy is to
            refuse.
    """
    from ..evaluation.overlap import read_training_record

    records = {model: read_training_record(model) for model in models}
    known = next((record for record in records.values() if record and record.is_of(source)), None)
    recorded = _usable(known, source, options) if known else {}
    dataset, report = options.load(source, split, **recorded)
    found = HeldOut(dataset, [f"splits: {report.split_rule}"])
    if known is not None:
        found.languages = known.origin.options.get("languages")
    if recorded:
        found.notes.append(f"as the model was trained: {shlex.join(as_flags(recorded))}")
    check_overlap(found, records, split, policy)
    return found


def check_overlap(
    found: HeldOut, records: Mapping[str, TrainingRecord | None], split: str, policy: OverlapPolicy
) -> None:
    """Do what the policy says about images of the split that models, by name, were trained on.

    Raises:
        ValueError: there are some, and the policy is to refuse.
    """
    for model, record in records.items():
        if record is None:
            found.notes.append(
                f"{model} does not know its training data: whether it has seen these is unknown"
            )
        else:
            _check_overlap(found, model, record, split, policy)


def _usable(record: TrainingRecord, source: str, options: DataOptions) -> dict[str, Any]:
    """What the record says and the user does not; files by their names beside or in the source."""
    from ..evaluation.overlap import PATH_OPTIONS

    names = set(DataOptions.__dataclass_fields__)
    recorded = {k: v for k, v in record.origin.options.items() if v is not None and k in names}
    recorded = {k: v for k, v in recorded.items() if k not in options.given()}
    for name in PATH_OPTIONS:
        if name not in recorded:
            continue
        file = next((path for path in _places(source, recorded[name]) if path.exists()), None)
        if file is None:
            raise ValueError(
                f"The model was trained with {shlex.join(as_flags({name: recorded[name]}))}: say where it is, that "
                "the same images are held out."
            )
        recorded[name] = str(file)
    return recorded


def _places(source: str, name: str) -> Iterator[Path]:
    yield from (Path(source) / name, Path(source).parent / name, Path(name))


def _check_overlap(
    found: HeldOut, model: str, record: TrainingRecord, split: str, policy: OverlapPolicy
) -> None:
    from ..evaluation.overlap import find_overlap

    overlap = find_overlap(found.dataset, record)
    if overlap.trained:
        _act(found, model, record, split, policy, overlap)
    if overlap.alike:
        found.alike += len(overlap.alike)
        found.notes.append(
            f"{len(overlap.alike)} images look nearly like ones that {model} was trained on: "
            f"{overlap.examples(overlap.alike)}"
        )


def _act(
    found: HeldOut, model: str, record: TrainingRecord, split: str, policy: OverlapPolicy, overlap: Overlap
) -> None:
    said = (
        f"{model} was trained on {len(overlap.trained)} of the {overlap.rows} images of this split "
        f"({overlap.examples(overlap.trained)})"
    )
    if policy is OverlapPolicy.mark:
        found.trained += len(overlap.trained)
        found.notes.append(f"WARNING: {said}; these numbers say nothing about new images")
    elif policy is OverlapPolicy.drop and len(overlap.trained) < overlap.rows:
        rest = sorted(set(range(overlap.rows)) - set(overlap.trained))
        found.dataset = found.dataset.select(rest)
        found.notes.append(f"{said}; they were left out")
    else:
        raise ValueError(f"{said}: numbers of them say nothing about new images. {_way_out(record, split)}")


def _way_out(record: TrainingRecord, split: str) -> str:
    """What to do, by what the record says of the split."""
    origin = record.origin
    chosen = {
        name: origin.options[name]
        for name in ("seed", "validation_fraction", "test_fraction", "split_column", "karpathy_file")
        if origin.options.get(name) is not None
    }
    how = f" with {shlex.join(as_flags(chosen))}" if chosen else ""
    known = f"It was trained on {os.path.basename(origin.source)}{how} ({origin.split_rule}). "
    other = "" if split != "train" else "Measure on --split test. "
    return (
        f"{known if origin.source else ''}{other}To measure all the same: --overlap drop leaves these images out, "
        "--overlap mark counts them and says so."
    )
