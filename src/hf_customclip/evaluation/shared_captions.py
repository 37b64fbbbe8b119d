"""Captions that are the same for several images, and images of one group: right for each other in a lax protocol."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from datasets import Dataset

GROUP = "group"


def normalised(caption: str) -> str:
    """A caption without what does not make it another one: case, and where blanks stand."""
    return " ".join(caption.split()).casefold()


def number_equal(values: Iterable[str]) -> np.ndarray:
    """`[n]`: a small integer for each value, the same for equal ones."""
    return np.unique(np.array(list(values), dtype=np.str_), return_inverse=True)[1].reshape(-1)


def text_groups(dataset: Dataset) -> np.ndarray:
    """`[num_texts, 1 or 2]` for `ranks_both_ways`: equal captions and, with a column `group`, images of one group."""
    rows = dataset.with_format(None)
    captions = rows["captions"][:]
    kinds = [number_equal(normalised(caption) for each in captions for caption in each)]
    if GROUP in dataset.column_names:
        counts = [len(each) for each in captions]
        kinds.append(np.repeat(number_equal(map(str, rows[GROUP][:])), counts))
    return np.stack(kinds, 1)
