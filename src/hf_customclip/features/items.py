"""The distinct images and captions of a data set, told apart by their content.

An image is its bytes or, where the data set holds only a path, that path with the file's size and time of
last change. A caption is its text. Reading gigabytes of images only to tell whether they are the old ones
takes seconds, so the digests of a memory-mapped data set are kept too: under the fingerprint that `datasets`
gives it and the size and time of its files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .._digests import digest, digest_of_json, image_identity
from .._files import replacing
from ..data.images import image_name
from ..data.pairs import ImageColumn

ROWS_AT_ONCE = 256
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Images:
    """The distinct images of a data set, in the order in which they first appear.

    Attributes:
        column: the undecoded images of all rows.
        first: (distinct,) the row where each first appears.
        index: (rows,) the number of each row's image.
        digest: the same for the same images in the same order.
    """

    column: ImageColumn
    first: np.ndarray
    index: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.column[int(self.first[number])]

    def name(self, number: int) -> str:
        """What a person would call the image."""
        return image_name(self[number])


@dataclass(frozen=True)
class Captions:
    """The distinct captions of a data set, sorted.

    Attributes:
        texts: (distinct,) Arrow strings.
        index: (captions,) the number of each caption's text; `len(texts)` for captions that are not used.
        digest: the same for the same set of texts.
    """

    texts: pa.Array
    index: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> str:
        return self.texts[int(number)].as_py()


def distinct_images(dataset: Dataset, folder: Path) -> Images:
    """The distinct images; `folder` is where digests are kept."""
    column = ImageColumn(dataset)
    digests = _kept_digests(dataset, column.rows, folder)
    flat = np.ascontiguousarray(digests).view(f"V{DIGEST_BYTES}").reshape(-1)
    _, first, index = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(first)  # np.unique sorts by digest; reading is fastest in the data set's own order
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first = first[order]
    return Images(column, first, rank[index.reshape(-1)], digest(np.ascontiguousarray(digests[first])))


def distinct_captions(dataset: Dataset, used: np.ndarray | None = None) -> Captions:
    """The distinct captions among those whose numbers are `used`, or among all."""
    flat = _all_captions(dataset)
    chosen = flat if used is None else flat.take(pa.array(used))
    texts = pc.unique(chosen)
    texts = texts.take(pc.sort_indices(texts))
    numbers = pc.index_in(flat, value_set=texts).fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return Captions(texts, numbers.astype(np.int64), _texts_digest(texts))


def data_name(dataset: Dataset) -> str:
    """What a person would call the data set."""
    name = dataset.info.dataset_name or dataset.builder_name or "data set without a name"
    return f"{name} ({dataset.split})" if dataset.split else name


def _texts_digest(texts: pa.Array) -> str:
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype("<i8")
    hasher = xxhash.xxh3_128(lengths.tobytes())
    for text in texts:
        hasher.update(text.as_buffer())
    return hasher.hexdigest()


def _all_captions(dataset: Dataset) -> pa.Array:
    tables = dataset.with_format("arrow").select_columns(["captions"]).iter(10_000)
    parts = [pc.list_flatten(chunk) for table in tables for chunk in table["captions"].chunks]
    return pa.concat_arrays([part.cast(pa.large_string()) for part in parts])


def _kept_digests(dataset: Dataset, rows: Dataset, folder: Path) -> np.ndarray:
    """(rows, 16) bytes."""
    state = _state(dataset)
    kept = folder / "digests" / f"{state}.safetensors"
    if state and kept.exists():
        try:
            return load_file(kept)["digests"].numpy()
        except SafetensorError:
            pass  # cut short; altered digests make another key, and the features are computed anew
    chunks = [_digests(chunk) for chunk in _image_chunks(rows)]
    digests = np.frombuffer(b"".join(digests for digests, _ in chunks), np.uint8).reshape(-1, DIGEST_BYTES)
    if state and not any(in_files for _, in_files in chunks):  # files change under an unchanged data set
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as name:
            save_file({"digests": torch.from_numpy(digests.copy())}, name)
    return digests


def _state(dataset: Dataset) -> str | None:
    """A name for a memory-mapped data set in its present state; None for one in memory."""
    try:
        files = [os.stat(file["filename"]) for file in dataset.cache_files]
    except FileNotFoundError:  # mapped and deleted since
        return None
    if not files:
        return None
    return digest_of_json([dataset._fingerprint, len(dataset), [(f.st_size, f.st_mtime_ns) for f in files]])


def _image_chunks(rows: Dataset) -> Iterator[pa.StructArray]:
    for table in rows.with_format("arrow").iter(ROWS_AT_ONCE):
        yield from table["image"].chunks


def _digests(chunk: pa.StructArray) -> tuple[bytes, bool]:
    """The images' digests one after the other, and whether any lies in a file of its own."""
    contents = chunk.field("bytes")
    digests = [
        image_identity(content.as_buffer() if content.is_valid else None, path.as_py())
        for content, path in zip(contents, chunk.field("path"), strict=True)
    ]
    return b"".join(digests), contents.null_count > 0
