"""The same columns from a stream: one image at a time, nothing gathered, nothing kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Image, IterableDataset, IterableDatasetDict, concatenate_datasets

from .columns import Columns, NamedColumns, find_columns, texts_of
from .divide import SplitWish, split_rule, tell_of_no_train
from .from_datasets import DIGEST_SIZE, image_columns
from .images import UnreadableImageError, decode_image
from .part import FEATURES
from .report import DataError, DataReport
from .splits import ORDER, SeededSplit, SplitList, in_order, split_name

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Chooser:
    """Whether a streamed row belongs to the split `wanted`."""

    wanted: str
    rule: SplitList | SeededSplit | None = None  # None: by the split column, if there is one
    column: str | None = None

    def takes(self, row: Mapping[str, Any], image_id: str, name: str) -> bool:
        if isinstance(self.rule, SplitList):
            return self.rule.find(name, image_id) == self.wanted
        if isinstance(self.rule, SeededSplit):
            return self.rule.assign_one(image_id) == self.wanted
        return self.column is None or split_name(str(row[self.column])) == self.wanted


@dataclass(frozen=True)
class StreamRows:
    """Maps batches of source rows to this package's columns; problems are logged or raised as they are met.

    Rows are not gathered by image: those of one image share their `image_id` instead.
    """

    columns: Columns
    chooser: Chooser
    on_error: str
    verify: bool

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in FEATURES}
        for cells in zip(*batch.values(), strict=True):
            row = dict(zip(batch, cells, strict=True))
            image = row[self.columns.image]
            image = {"bytes": image, "path": None} if isinstance(image, bytes) else image
            image_id, name = self._names(row, image)
            if not self.chooser.takes(row, image_id, name):
                continue
            captions = [(text or "").strip() for c in self.columns.captions for text in texts_of(row[c])]
            problem = self._problem(image, captions)
            if problem or not all(captions):
                self._tell(f"{name or image_id}: {problem or 'an empty caption'}")
            if problem:
                continue
            found["image"].append(image)
            found["captions"].append([text for text in captions if text])
            found["image_id"].append(image_id)
        return found

    def _names(self, row: Mapping[str, Any], image: Mapping[str, Any] | None) -> tuple[str, str]:
        path = str((image or {}).get("path") or "")
        image_id = next((str(row[name]) for name in self.columns.ids if row[name] not in (None, "")), path)
        if not image_id:
            content = (image or {}).get("bytes") or b""
            image_id = hashlib.blake2b(content, digest_size=DIGEST_SIZE).hexdigest()
        return image_id, str(row[self.columns.file_name]) if self.columns.file_name else path

    def _problem(self, image: dict[str, Any] | None, captions: list[str]) -> str | None:
        if not image or not (image.get("bytes") or image.get("path")):
            return "no image"
        if not any(captions):
            return "no caption"
        try:
            if self.verify:
                decode_image(image)
        except UnreadableImageError as error:
            return error.reason
        return None

    def _tell(self, problem: str) -> None:
        if self.on_error == "raise":
            raise DataError(f'{problem}. on_error="skip" leaves it out.')
        logger.warning("Left out of the stream: %s", problem)


def stream_splits(
    sources: Sequence[tuple[str, IterableDataset]],
    named: NamedColumns,
    wish: SplitWish,
    report: DataReport,
    *,
    on_error: str,
    verify: bool,
) -> IterableDatasetDict:
    """The splits of streamed data: their own, those of a list or a column, or drawn by a hash of the id."""
    report.streamed = True
    # Of some streams the columns are only known once a row has been read.
    sources = [(name, source if source.features else source._resolve_features()) for name, source in sources]
    columns = [_columns(source, named) for _, source in sources]
    split_column = columns[0].split if len(sources) == 1 else None
    found = set(ORDER) if split_column else {name for name, _ in sources}
    draw = wish.draw_for(found, report.source)
    report.split_rule = wish.listed.rule if wish.listed else split_rule(found, draw)
    if draw is None and wish.listed is None and "train" not in found:
        tell_of_no_train(report, found, wish)
    if wish.listed or split_column:
        report.notes.append(f"rows of no split, or of others than {', '.join(ORDER)}, are not in the streams")
    streams: dict[str, list[IterableDataset]] = {}
    for (name, source), found_columns in zip(sources, columns, strict=True):
        for chooser in _choosers(name, found, wish.listed or draw, split_column):
            rows = StreamRows(found_columns, chooser, on_error, verify)
            streams.setdefault(chooser.wanted, []).append(_mapped(source, rows))
    return IterableDatasetDict({name: _joined(streams[name]) for name in in_order(streams)})


def _columns(source: IterableDataset, named: NamedColumns) -> Columns:
    images = image_columns(source.features)
    columns = find_columns(source.column_names, named, images)
    if columns.image not in images:
        raise DataError(f"Column {columns.image!r} holds names of images; load it with streaming=False.")
    return columns


def _choosers(
    name: str, found: set[str], rule: SplitList | SeededSplit | None, split_column: str | None
) -> list[Chooser]:
    """The splits that rows of the source split `name` can go to."""
    if isinstance(rule, SplitList):
        return [Chooser(wanted, rule) for wanted in ORDER]
    if isinstance(rule, SeededSplit) and (name == "train" or "train" not in found):
        shares = {"train": 1.0, "validation": rule.validation_fraction, "test": rule.test_fraction}
        return [Chooser(wanted, rule) for wanted, share in shares.items() if share]
    if split_column:
        return [Chooser(wanted, column=split_column) for wanted in ORDER]
    return [Chooser(name)]


def _mapped(source: IterableDataset, rows: StreamRows) -> IterableDataset:
    undecoded = source.cast_column(rows.columns.image, Image(decode=False))
    # Features given to `map` itself would leave the images undecoded for good.
    return undecoded.map(
        rows, batched=True, batch_size=ROWS_AT_ONCE, remove_columns=source.column_names
    ).cast(FEATURES)


def _joined(streams: list[IterableDataset]) -> IterableDataset:
    return streams[0] if len(streams) == 1 else concatenate_datasets(streams)
