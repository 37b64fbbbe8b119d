"""What the headers of a saved model's safetensors files say, read without torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# BatchNorm's statistics are saved beside the parameters and are none.
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")
LONGEST_HEADER = 100_000_000  # safetensors' own limit, in bytes
Header = dict[str, dict[str, Any]]


def weight_files(folder: Path) -> list[Path]:
    """Those of a whole model, in one file or several, or of heads alone."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("heads.safetensors"))


def read_headers(files: Sequence[Path]) -> Header:
    """Name to `dtype`, `shape` and `data_offsets` of every tensor in some safetensors files.

    Raises:
        ValueError: one is no safetensors file, or shorter than its header says.
    """
    tensors: Header = {}
    for file in files:
        tensors |= _read_header(file)
    return tensors


def _read_header(file: Path) -> Header:
    with file.open("rb") as data:
        start = data.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LONGEST_HEADER + 1
        try:
            if length > LONGEST_HEADER:
                raise ValueError
            header = json.loads(data.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"'{file}' is no safetensors file.") from None
    if file.stat().st_size < end:
        raise ValueError(f"'{file}' is cut short: {file.stat().st_size:,} of {end:,} bytes are there.")
    return tensors


def read_scalar(files: Sequence[Path], name: str) -> float | None:
    """The one number of a tensor, read from its place in the file."""
    for file in files:
        entry = _read_header(file).get(name)
        if entry is None:
            continue
        with file.open("rb") as data:
            length = struct.unpack("<Q", data.read(8))[0]
            data.seek(8 + length + entry["data_offsets"][0])
            value = data.read(entry["data_offsets"][1] - entry["data_offsets"][0])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            return struct.unpack("<f", b"\0\0" + value)[0]
        return struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[entry["dtype"]], value)[0]
    return None


def count(tensors: Header, prefix: str | tuple[str, ...] = "") -> int:
    """Parameters of the tensors whose names begin so."""
    return sum(
        math.prod(entry["shape"])
        for name, entry in tensors.items()
        if name.startswith(prefix) and not name.endswith(NO_PARAMETERS)
    )


def count_parameters(tensors: Header, config: Mapping[str, Any]) -> tuple[int | None, int]:
    """Parameters trained (None where part of a tower was) and in all."""
    fixed = [f"{tower}_model." for tower in ("vision", "text") if config.get(f"freeze_{tower}", True)]
    if not config.get("learn_logit_scale", True):
        fixed.append("logit_scale")
    partly = any(config.get(f"{tower}_unfrozen_groups", 0) for tower in ("vision", "text"))
    total = count(tensors)
    return None if partly else total - count(tensors, tuple(fixed)), total
