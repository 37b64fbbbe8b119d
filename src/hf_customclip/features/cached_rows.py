"""Cached features as the data sets index them: each may stand for several rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open


def map_features(file: Path) -> torch.Tensor:
    """The features of a finished store, memory-mapped: pages are read when they are used."""
    with safe_open(file, "pt") as stored:
        return stored.get_tensor("features")


@dataclass(frozen=True)
class CachedRows:
    """Row i is `features[index[i]]`.

    Attributes:
        features: (stored, width), memory-mapped or in the accelerator's memory.
        index: (rows,) which stored feature each row has; out of range for rows that are never asked for.
        file: where the features are stored.
    """

    features: torch.Tensor
    index: np.ndarray
    file: Path

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: int | slice | np.ndarray) -> torch.Tensor:
        """(width,) for one row, (count, width) for several."""
        chosen = self.index[rows]
        return self.features[int(chosen) if np.ndim(chosen) == 0 else torch.from_numpy(chosen)]

    def on(self, device: torch.device) -> CachedRows:
        """The same rows with the features in a device's memory."""
        return CachedRows(self.features.to(device), self.index, self.file)

    def __reduce__(self) -> tuple[object, ...]:
        # A spawned data-loading worker maps the file itself; pickled, the tensor would be copied for each.
        return _reopen, (self.index, self.file)


def _reopen(index: np.ndarray, file: Path) -> CachedRows:
    return CachedRows(map_features(file), index, file)
