"""Checking that images can be read, before training rather than in the middle of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from datasets import Dataset, Image
from tqdm.auto import tqdm

from .images import ImageValue, UnreadableImageError, decode_image
from .part import Part, captions_per_row
from .report import DataReport

ROWS_AT_ONCE = 256


def drop_unreadable(part: Part, report: DataReport) -> Part:
    """The part without the images that cannot be decoded, which the report then names.

    Every image is decoded once, a few at a time (Pillow decodes outside Python's lock, so threads help).
    """
    bad = dict(_unreadable(part.dataset))
    if not bad:
        return part
    captions = captions_per_row(part.dataset)
    for row, name in bad.items():
        report.add("unreadable_image", name, images=1, captions=captions[row])
    rows = [row for row in range(len(part.names)) if row not in bad]
    return Part(
        part.dataset.select(rows), [part.names[row] for row in rows], [part.splits[row] for row in rows]
    )


def _unreadable(dataset: Dataset) -> Iterator[tuple[int, str]]:
    images = dataset.select_columns(["image"]).cast_column("image", Image(decode=False))
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(dataset), desc="Checking images", unit="image", disable=None) as bar,
    ):
        for first in range(0, len(dataset), ROWS_AT_ONCE):
            values = images[first : first + ROWS_AT_ONCE]["image"]
            for row, why in enumerate(pool.map(_why_unreadable, values), first):
                if why is not None:
                    yield row, why
            bar.update(len(values))


def _why_unreadable(value: ImageValue) -> str | None:
    try:
        decode_image(value)
    except UnreadableImageError as error:
        return f"{error.name} ({error.reason})"
    return None
