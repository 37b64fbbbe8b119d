"""Where the bytes of a store lie: a safetensors file whose features begin on a page and fall into parts."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from .._digests import digest

PAGE = 4096
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
# A part is what a killed run loses, and what processes share out.
PARTS, FEWEST_ROWS, MOST_ROWS = 64, 64, 2048


@dataclass(frozen=True)
class Layout:
    """Header, features (count, width), order (count,) int64; see https://github.com/huggingface/safetensors."""

    count: int
    width: int
    dtype: torch.dtype

    @property
    def part_rows(self) -> int:
        return min(max(math.ceil(self.count / PARTS), FEWEST_ROWS), MOST_ROWS)

    @property
    def parts(self) -> int:
        return math.ceil(self.count / self.part_rows)

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    @property
    def feature_bytes(self) -> int:
        return self.count * self.row_bytes

    @property
    def total_bytes(self) -> int:
        return len(self.header()) + self.feature_bytes + 8 * self.count

    @property
    def disk_bytes(self) -> int:
        """The file, and while it is being filled a record and a lock for each part."""
        return self.total_bytes + PAGE * (2 * self.parts + 8)

    def span(self, part: int) -> tuple[int, int]:
        """First row of a part, and the row after its last."""
        return part * self.part_rows, min((part + 1) * self.part_rows, self.count)

    def header(self) -> bytes:
        """Length and JSON, filled up with blanks, as the format allows, to whole pages."""
        tensors = {
            "features": {
                "dtype": DTYPES[self.dtype],
                "shape": [self.count, self.width],
                "data_offsets": [0, self.feature_bytes],
            },
            "order": {
                "dtype": "I64",
                "shape": [self.count],
                "data_offsets": [self.feature_bytes, self.feature_bytes + 8 * self.count],
            },
        }
        text = json.dumps(tensors).encode()
        text += b" " * (-(8 + len(text)) % PAGE)
        return len(text).to_bytes(8, "little") + text

    def fits(self, file: Path) -> bool:
        """Whether the file has this layout's size and header."""
        if not file.exists() or file.stat().st_size != self.total_bytes:
            return False
        with file.open("rb") as opened:
            return opened.read(len(self.header())) == self.header()

    def write_frame(self, file: BinaryIO, order: np.ndarray) -> None:
        """Reserve the whole file on the disk, and write all of it but the features."""
        _reserve(file, self.total_bytes)
        file.write(self.header())
        file.seek(len(self.header()) + self.feature_bytes)
        file.write(np.ascontiguousarray(order, dtype="<i8").tobytes())

    def write_part(self, file: Path, part: int, features: torch.Tensor) -> str:
        """Write the rows of a part in their place; their checksum."""
        first, end = self.span(part)
        if tuple(features.shape) != (end - first, self.width):
            raise ValueError(
                f"part {part} has the shape {(end - first, self.width)}, got {tuple(features.shape)}"
            )
        data = features.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data
        with file.open("r+b") as opened:
            opened.seek(len(self.header()) + first * self.row_bytes)
            opened.write(data)
        return digest(data)

    def part_checksum(self, file: Path, part: int) -> str:
        """Of the part's bytes as they stand in the file."""
        first, end = self.span(part)
        return digest(self._mapped(file)[first * self.row_bytes : end * self.row_bytes])

    def order_checksum(self, file: Path) -> str:
        """Of the order's bytes as they stand in the file."""
        return digest(self._mapped(file)[self.feature_bytes :])

    def read_order(self, file: Path) -> np.ndarray:
        """(count,) the row of each item."""
        return np.frombuffer(self._mapped(file)[self.feature_bytes :].tobytes(), dtype="<i8")

    def _mapped(self, file: Path) -> np.ndarray:
        return np.memmap(file, dtype=np.uint8, mode="r", offset=len(self.header()))


def _reserve(file: BinaryIO, size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:  # not on this system, or not on this disk
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        file.truncate(size)
