"""Looking at data before training: what a source holds, how long its captions are, a page of its images."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Image, IterableDataset
from tqdm.auto import tqdm

from .images import UnreadableImageError, decode_image, to_rgb
from .load import Source, load_with_report
from .near_duplicates import near_duplicates_across
from .part import arrow_batches
from .report import DataError, DataReport
from .shared_captions import count_shared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (5, 25, 50, 75, 95, 99, 100)
BATCH = 1000


def inspect_source(
    source: Source,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_text_length: int | None = None,
    **options: Any,
) -> DataReport:
    """Load a source as `load_image_text_dataset(source, **options)` does and say what is in it.

    The report has counts, splits, captions per image, problems and percentiles of the captions' lengths in
    words; with a tokenizer also in tokens (special tokens counted), and with `max_text_length` how many
    captions are cut at that many tokens.
    """
    splits, report = load_with_report(source, **{**options, "streaming": False})
    if not isinstance(splits, DatasetDict):
        raise DataError("A stream cannot be inspected as it is: give what it reads from.")
    return inspect_captions(splits, report, tokenizer=tokenizer, max_text_length=max_text_length)


def inspect_captions(
    splits: DatasetDict,
    report: DataReport,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_text_length: int | None = None,
    near_duplicates: bool = False,
) -> DataReport:
    """Add to the report of `load_with_report` the captions' lengths and what several images share; return it.

    `near_duplicates` opens every image, to find those that look like one of another split.
    """
    words, tokens = _lengths(splits, tokenizer, report.captions_out)
    report.caption_words = _percentiles(words)
    report.shared = count_shared(splits)
    if near_duplicates:
        report.near_duplicates = near_duplicates_across(splits)
    if tokenizer is not None:
        report.caption_tokens = _percentiles(tokens)
        report.max_text_length = max_text_length
        report.captions_cut = None if max_text_length is None else sum(n > max_text_length for n in tokens)
    return report


def _lengths(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerBase | None, total: int
) -> tuple[list[int], list[int]]:
    words: list[int] = []
    tokens: list[int] = []
    with tqdm(total=total, desc="Reading captions", unit="caption", disable=None) as bar:
        for dataset in splits.values():
            for table in arrow_batches(dataset, ["captions"], BATCH):
                captions = pc.list_flatten(table["captions"]).to_pylist()
                words += [len(caption.split()) for caption in captions]
                if tokenizer is not None:
                    tokens += map(len, tokenizer(captions, truncation=False, verbose=False)["input_ids"])
                bar.update(len(captions))
    return words, tokens


def _percentiles(lengths: Sequence[int]) -> dict[int, int]:
    """Lengths that occur (the lower neighbour of each percentile): no caption has 10.5 words."""
    if not lengths:
        return {}
    values = np.percentile(lengths, PERCENTILES, method="lower")
    return dict(zip(PERCENTILES, map(int, values), strict=True))


def plot_grid(
    dataset: Dataset | IterableDataset,
    file: str | os.PathLike[str],
    *,
    rows: int = 3,
    columns: int = 4,
    seed: int | None = None,
) -> Path:
    """Draw images with their captions to a file (its suffix tells the format) and return its path.

    The first rows * columns images are drawn, or with a seed that many at random. An image that cannot be
    read is drawn as the reason why. Needs matplotlib.
    """
    from ..plotting import plot_images, save_figure

    shown = dataset.shuffle(seed=seed) if seed is not None else dataset
    items = list(islice(shown.cast_column("image", Image(decode=False)), rows * columns))
    captions = [
        " / ".join(textwrap.shorten(caption, 90) for caption in item["captions"][:2]) for item in items
    ]
    return save_figure(
        plot_images([_image_or_reason(item["image"]) for item in items], captions, columns=columns), file
    )


def _image_or_reason(image: Any) -> Any:
    try:
        return to_rgb(decode_image(image))
    except UnreadableImageError as error:
        return error.reason
