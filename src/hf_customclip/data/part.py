"""Rows on their way to becoming splits, and the columns that every image-caption data set has here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, List, Value

FEATURES = Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("string")})


@dataclass
class Part:
    """A data set with `FEATURES`; for each row what split lists call its picture, and its split if given."""

    dataset: Dataset
    names: list[str]
    splits: list[str | None]


def dataset_of_files(
    paths: Sequence[str], captions: Sequence[list[str]], image_ids: Sequence[str]
) -> Dataset:
    """A data set of pictures on disk; only their paths are kept."""
    columns = {"image": list(paths), "captions": list(captions), "image_id": list(image_ids)}
    features = Features({**FEATURES, "image": Value("string")})
    return Dataset.from_dict(columns, features=features).cast_column("image", Image())


def arrow_batches(dataset: Dataset, columns: list[str], size: int = 1000) -> Iterable[pa.Table]:
    """Some columns of a data set in Arrow's own form, a batch at a time, so that no picture is decoded."""
    return dataset.select_columns(columns).with_format("arrow").iter(size)


def captions_per_row(dataset: Dataset) -> list[int]:
    """How many captions each row has."""
    tables = arrow_batches(dataset, ["captions"], 10_000)
    return [count for table in tables for count in pc.list_value_length(table["captions"]).to_pylist()]
