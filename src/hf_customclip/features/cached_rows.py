"""Cached features as the data sets index them: each may stand for several rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open


class MappedFeatures:
    """(stored, width), in files of equally many rows (the last may have fewer) that are mapped: pages are read when
    they are used, and processes share them.

    A batch's rows are joined as bytes, one by one: faster than taking those of each file by a tensor's index, and
    not slower than from one tensor (`benchmarks/cached_rows.py`).

    Args:
        files: in their order.
        name: of the tensor in each.
    """

    def __init__(self, files: Sequence[Path], name: str) -> None:
        self.files, self.name = files, name
        self.parts = [_map(file, name) for file in files]
        self.part_rows = max(map(len, self.parts), default=1)
        self._bytes = [part.view(torch.uint8).numpy().reshape(-1).data for part in self.parts]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def nbytes(self) -> int:
        """Of all features."""
        return sum(part.nbytes for part in self.parts)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """(count, width), a copy."""
        if len(rows) == 0:
            return self.parts[0][:0]
        width = self.parts[0][0].nbytes
        parts, begins = (rows // self.part_rows).tolist(), (rows % self.part_rows * width).tolist()
        chosen = (self._bytes[part][begin : begin + width] for part, begin in zip(parts, begins, strict=True))
        return torch.frombuffer(bytearray().join(chosen), dtype=self.parts[0].dtype).view(len(rows), -1)

    def to(self, device: torch.device | str) -> torch.Tensor:
        """All in one tensor in a device's memory."""
        return torch.cat([part.to(device) for part in self.parts])

    def __reduce__(self) -> tuple[object, ...]:
        # A spawned data-loading worker maps the files itself; pickled, the features would be copied for each.
        return MappedFeatures, (self.files, self.name)


def _map(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as stored:
        return stored.get_tensor(name)


@dataclass(frozen=True)
class CachedRows:
    """Row i is `features[index[i]]`.

    Attributes:
        features: (stored, width), mapped files or a tensor in the accelerator's memory.
        index: (rows,) which stored feature each row has; out of range for rows that are never asked for.
    """

    features: MappedFeatures | torch.Tensor
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: int | slice | np.ndarray) -> torch.Tensor:
        """(width,) for one row, (count, width) for several."""
        chosen = self.index[rows]
        found = self.features[torch.from_numpy(np.atleast_1d(chosen))]
        return found[0] if np.ndim(chosen) == 0 else found

    def on(self, device: torch.device) -> CachedRows:
        """The same rows with the features in a device's memory."""
        return CachedRows(self.features.to(device), self.index)
