"""Captions that several images have, and images of one group: never wrong for each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from .part import arrow_batches, captions_per_row, texts

GROUP = "group_id"


def normalised(caption: str) -> str:
    """A caption without what does not make it another one: case, and where blanks stand."""
    return " ".join(caption.split()).casefold()


def number_equal(values: Iterable[str]) -> np.ndarray:
    """`[n]`: a small integer for each value, the same for equal ones."""
    return np.unique(np.array(list(values), dtype=np.str_), return_inverse=True)[1].reshape(-1)


def caption_numbers(dataset: Dataset) -> np.ndarray:
    """`[num_captions]`, row after row: a small integer for each caption, the same for equal ones."""
    return number_equal(map(normalised, _captions(dataset)))


def text_groups(dataset: Dataset) -> np.ndarray:
    """`[num_captions, 1 or 2]` for `ranks_both_ways`: equal captions and, where there are groups, their images."""
    kinds = [caption_numbers(dataset)]
    if GROUP in dataset.column_names:
        kinds.append(np.repeat(number_equal(texts(dataset, GROUP)), captions_per_row(dataset)))
    return np.stack(kinds, 1)


def count_shared(splits: Mapping[str, Dataset]) -> dict[str, int]:
    """How many different captions stand at several images, how many of these in several splits, and so for groups."""
    found = _count("captions", [_captions_by_image(dataset) for dataset in splits.values()])
    if any(GROUP in dataset.column_names for dataset in splits.values()):
        groups = [
            set(zip(texts(dataset, GROUP), texts(dataset, "image_id"), strict=True))
            for dataset in splits.values()
        ]
        found |= _count("groups", groups)
    return found


def _count(what: str, pairs: Sequence[set[tuple[str, str]]]) -> dict[str, int]:
    """Of captions or groups, each with its image, split by split."""
    images = Counter(value for of_split in pairs for value, _ in of_split)
    in_splits = Counter(value for of_split in pairs for value in {value for value, _ in of_split})
    return {
        what: len(images),
        f"{what} of several images": sum(count > 1 for count in images.values()),
        f"{what} in several splits": sum(count > 1 for count in in_splits.values()),
    }


def _captions(dataset: Dataset) -> Iterable[str]:
    for table in arrow_batches(dataset, ["captions"], 10_000):
        yield from pc.list_flatten(table["captions"]).to_pylist()


def _captions_by_image(dataset: Dataset) -> set[tuple[str, str]]:
    owners = np.repeat(np.array(texts(dataset, "image_id"), dtype=np.str_), captions_per_row(dataset))
    return set(zip(map(normalised, _captions(dataset)), owners.tolist(), strict=True))
