"""The same columns from a stream: one image at a time, nothing gathered, nothing kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Features, Image, IterableDataset, IterableDatasetDict, List, concatenate_datasets

from .columns import Columns, NamedColumns, find_columns
from .from_datasets import DIGEST_SIZE, image_columns
from .images import UnreadableImageError, decode_image
from .languages import UNKNOWN, Caption, Wanted, languages_of_keys, sort_captions
from .part import FEATURES, GROUPS, LANGUAGES
from .report import DataError
from .splits import (
    ORDER,
    Division,
    SeededSplit,
    SplitList,
    SplitWish,
    in_order,
    notes_of_no_train,
    split_name,
    split_rule,
)

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Chooser:
    """Whether a streamed row belongs to the split `wanted`."""

    wanted: str
    rule: SplitList | SeededSplit | None = None  # None: by the split column, if there is one
    column: str | None = None

    def takes(self, row: Mapping[str, Any], image_id: str, name: str, group: str) -> bool:
        if isinstance(self.rule, SplitList):
            return self.rule.find(name, image_id) == self.wanted
        if isinstance(self.rule, SeededSplit):
            return self.rule.assign_one(group if self.rule.by == "group" else image_id) == self.wanted
        return self.column is None or split_name(str(row[self.column])) == self.wanted


@dataclass(frozen=True)
class StreamRows:
    """Maps batches of source rows to this package's columns; problems are logged or raised as they are met.

    Rows are not gathered by image: those of one image share their `image_id` instead.
    """

    columns: Columns
    chooser: Chooser
    features: Features  # with languages and groups, or without
    languages: Wanted
    on_error: str
    verify: bool

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in self.features}
        for cells in zip(*batch.values(), strict=True):
            row = dict(zip(batch, cells, strict=True))
            image = row[self.columns.image]
            image = {"bytes": image, "path": None} if isinstance(image, bytes) else image
            image_id, name = self._names(row, image)
            told = row[self.columns.group] if self.columns.group else None
            group = f"image {image_id}" if told in (None, "") else str(told)
            if not self.chooser.takes(row, image_id, name, group):
                continue
            captions, cases = sort_captions(self.columns.captions_of(row), name or image_id, self.languages)
            problem = self._problem(image, captions)
            if problem or any(case.kind == "empty_caption" for case in cases):
                self._tell(f"{name or image_id}: {problem or 'an empty caption'}")
            if problem:
                continue
            values = {"image": image, "captions": [text for text, _ in captions], "image_id": image_id}
            values["group_id"] = group
            values["languages"] = [language or UNKNOWN for _, language in captions]
            for column in found:
                found[column].append(values[column])
        return found

    def _names(self, row: Mapping[str, Any], image: Mapping[str, Any] | None) -> tuple[str, str]:
        path = str((image or {}).get("path") or "")
        image_id = next((str(row[name]) for name in self.columns.ids if row[name] not in (None, "")), path)
        if not image_id:
            content = (image or {}).get("bytes") or b""
            image_id = hashlib.blake2b(content, digest_size=DIGEST_SIZE).hexdigest()
        return image_id, str(row[self.columns.file_name]) if self.columns.file_name else path

    def _problem(self, image: dict[str, Any] | None, captions: list[Caption]) -> str | None:
        if not image or not (image.get("bytes") or image.get("path")):
            return "no image"
        if not captions:
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
    source: str,
    *,
    on_error: str,
    verify: bool,
) -> Division[IterableDatasetDict]:
    """The splits of streamed data: their own, those of a list or a column, or drawn by a hash of the id."""
    # Of some streams the columns are only known once a row has been read.
    sources = [(name, stream if stream.features else stream._resolve_features()) for name, stream in sources]
    columns = [_columns(stream, named) for _, stream in sources]
    features = _features(sources, columns)
    split_column = columns[0].split if len(sources) == 1 else None
    found = set(ORDER) if split_column else {name for name, _ in sources}
    draw = wish.draw_for(found, source)
    notes = [] if draw or wish.listed else notes_of_no_train(source, found, wish)
    if wish.listed or split_column:
        notes.append(f"rows of no split, or of others than {', '.join(ORDER)}, are not in the streams")
    streams: dict[str, list[IterableDataset]] = {}
    for (name, stream), found_columns in zip(sources, columns, strict=True):
        for chooser in _choosers(name, found, wish.listed or draw, split_column):
            rows = StreamRows(found_columns, chooser, features, named.languages, on_error, verify)
            streams.setdefault(chooser.wanted, []).append(_mapped(stream, rows))
    splits = IterableDatasetDict({name: _joined(streams[name]) for name in in_order(streams)})
    return Division(splits, wish.listed.rule if wish.listed else split_rule(found, draw), notes)


def _features(sources: Sequence[tuple[str, IterableDataset]], columns: Sequence[Columns]) -> Features:
    """This package's columns, with `languages` where a column's name, type or another column tells them, and
    `group_id` where a column of groups is named."""
    told = any(
        found.languages or found.language or any(_keeps_languages(stream.features[c]) for c in found.captions)
        for (_, stream), found in zip(sources, columns, strict=True)
    )
    grouped = GROUPS if any(found.group for found in columns) else {}
    return Features({**FEATURES, **(LANGUAGES if told else {}), **grouped})


def _keeps_languages(feature: Any) -> bool:
    feature = feature.feature if isinstance(feature, List) else feature
    return isinstance(feature, dict) and bool(languages_of_keys(feature))


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
    ).cast(rows.features)


def _joined(streams: list[IterableDataset]) -> IterableDataset:
    return streams[0] if len(streams) == 1 else concatenate_datasets(streams)
