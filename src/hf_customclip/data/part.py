"""Rows on their way to becoming splits, and the columns that every image-caption data set has here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, Image, List, Value
from datasets.table import InMemoryTable

FEATURES = Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("string")})


@dataclass
class Part:
    """A data set with `FEATURES`; for each row what split lists call its image, and its split if given."""

    dataset: Dataset
    names: list[str]
    splits: list[str | None]


def dataset_of_files(
    paths: Sequence[str], captions: Sequence[list[str]], image_ids: Sequence[str]
) -> Dataset:
    """A data set of images on disk; only their paths are kept."""
    path_column = pa.array(paths, pa.string())
    columns = {
        "image": Image().cast_storage(path_column),
        "captions": pa.array(captions, pa.list_(pa.string())),
        "image_id": pa.array(image_ids, pa.string()),
    }
    # Dataset.from_dict would look at every cell once more, in Python.
    table = InMemoryTable(pa.table(columns, schema=FEATURES.arrow_schema))
    return Dataset(table, info=DatasetInfo(features=FEATURES))


def texts(dataset: Dataset, column: str) -> list[str]:
    """A column of strings, all at once."""
    return [text for table in arrow_batches(dataset, [column], 10_000) for text in table[column].to_pylist()]


def arrow_batches(dataset: Dataset, columns: list[str], size: int = 1000) -> Iterable[pa.Table]:
    """Some columns of a data set in Arrow's own form, a batch at a time, so that no image is decoded."""
    return dataset.select_columns(columns).with_format("arrow").iter(size)


def captions_per_row(dataset: Dataset) -> list[int]:
    """How many captions each row has."""
    tables = arrow_batches(dataset, ["captions"], 10_000)
    return [count for table in tables for count in pc.list_value_length(table["captions"]).to_pylist()]
