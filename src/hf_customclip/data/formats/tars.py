"""WebDataset tars, with the forms that `datasets` refuses: texts that stand apart from their images, several captions
to a text file, names with dots in them.

A sample is what has one name up to the first dot, wherever in its tar. Where a name has several images with a text
each (`a.1.jpg`, `a.1.txt`, `a.2.jpg`, …), each is a sample, up to the last dot. Its columns are `image`, `__key__`,
and of each text file the lines: `txt`, or `caption` of `key.caption.txt`; of a JSON file its captions: `json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any, BinaryIO

from datasets import Features, Image, List, SplitGenerator, Value
from datasets.builder import Key
from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext

from ..columns import CAPTION_NAMES, captions_of
from ..languages import UNKNOWN, language_code
from ..report import DataError

TEXTS, JSONS = ("txt", "text", "caption", "captions", "transcript"), ("json", "jsn")
ROWS_THAT_TELL_COLUMNS = 20
Files = dict[str, bytes]


class Tars(WebDataset):
    """Tars as a builder of `datasets`: local or remote, listed or streamed, a tar a shard."""

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        splits = {name: list(paths) for name, paths in dl_manager.download(self.config.data_files).items()}
        if not self.info.features:
            tar = next(iter(splits.values()))[0]
            self.info.features = _columns(
                list(islice(read_samples(dl_manager.iter_archive(tar)), ROWS_THAT_TELL_COLUMNS)), tar
            )
        return [
            SplitGenerator(name, {"tar_paths": tars, "tar_iterators": [*map(dl_manager.iter_archive, tars)]})
            for name, tars in splits.items()
        ]

    def _generate_examples(
        self, tar_paths: list[str], tar_iterators: list[Any]
    ) -> Iterator[tuple[Key, dict[str, Any]]]:
        for tar, members in enumerate(tar_iterators):
            for number, row in enumerate(read_samples(members)):
                yield Key(tar, number), {name: row.get(name) for name in self.info.features}


def read_samples(members: Iterable[tuple[str, BinaryIO]]) -> Iterator[dict[str, Any]]:
    """The samples of a tar, read once from its beginning; what lacks its image or its text waits for it."""
    waiting: dict[str, Files] = {}
    named = ((base_plus_ext(name), file) for name, file in members)
    parts = ((key, field, file) for (key, field), file in named if key and _is_wanted(field))
    for key, group in groupby(parts, key=lambda part: part[0]):
        files = waiting.pop(key, {}) | {field: file.read() for _, field, file in group}
        if _is_whole(files):
            yield from _samples(key, files)
        else:
            waiting[key] = files
    for key, files in waiting.items():
        yield from _samples(key, files)


def _suffix(field: str) -> str:
    return field.rpartition(".")[2].lower()


def _is_image(field: str) -> bool:
    return _suffix(field) in WebDataset.IMAGE_EXTENSIONS


def _is_wanted(field: str) -> bool:
    return _is_image(field) or _suffix(field) in (*TEXTS, *JSONS)


def _is_whole(files: Iterable[str]) -> bool:
    """Whether both an image and a text are there."""
    return len(set(map(_is_image, files))) == 2


def _samples(key: str, files: Files) -> Iterator[dict[str, Any]]:
    by_name: dict[str, Files] = {}
    for field, content in files.items():
        name, _, suffix = field.rpartition(".")
        by_name.setdefault(name, {})[suffix] = content
    if all(map(_is_whole, by_name.values())):
        for name, of_name in by_name.items():
            yield _row(f"{key}.{name}" if name else key, of_name)
    else:
        yield _row(key, files)


def _row(key: str, files: Files) -> dict[str, Any]:
    images = sorted(filter(_is_image, files), key=lambda field: field.count("."))
    image = {"path": f"{key}.{images[0]}", "bytes": files[images[0]]} if images else None
    row: dict[str, Any] = {"__key__": key, "image": image}
    for field, content in files.items():
        name, _, suffix = field.rpartition(".")
        if suffix.lower() in TEXTS:
            row[name or suffix.lower()] = content.decode("utf-8-sig", "replace").splitlines()
        elif suffix.lower() in JSONS:
            captions = captions_of(_read_json(content))
            row["json"] = [text for text, _ in captions]
            if any(language for _, language in captions):
                row["languages"] = [language or UNKNOWN for _, language in captions]
    return row


def _read_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return []  # an image without a caption, which is told and left out as any other


def _columns(rows: list[dict[str, Any]], tar: str) -> Features:
    """Those of the first rows; languages only where a JSON file alone holds the captions."""
    names = dict.fromkeys(name for row in rows for name in row)
    if not any(row["image"] for row in rows):
        raise DataError(
            f"{tar} holds no images with texts of the same name beside them, as WebDataset's tars do."
        )
    if any(name in CAPTION_NAMES[:-1] or language_code(name) for name in names):
        names.pop("languages", None)
    texts = {name: List(Value("string")) for name in names if name not in ("__key__", "image")}
    return Features({"image": Image(), **texts, "__key__": Value("string")})
