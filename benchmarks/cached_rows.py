"""Rows gathered from the mapped files of a feature cache, against one tensor and against an index for each file.

python benchmarks/cached_rows.py

As many images and distinct captions as Flickr30k has, ResNet-34's and DistilBERT's widths, bfloat16; the parts are
those of the cache. Random batches, one thread, files in memory; the best of five rounds in turns counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from hf_customclip.features.cached_rows import MappedFeatures
from hf_customclip.features.store import StoreSpec

ROWS, ROUNDS = 60_000, 5
Gather = Callable[[np.ndarray], torch.Tensor]


def by_part(features: MappedFeatures) -> Gather:
    """The rows of each file by a tensor's index, then put in their order."""

    def gather(rows: np.ndarray) -> torch.Tensor:
        part, place = rows // features.part_rows, rows % features.part_rows
        order = np.argsort(part, kind="stable")
        used, begins = np.unique(part[order], return_index=True)
        places = np.split(place[order], begins[1:])
        found = [features.parts[p][torch.from_numpy(of)] for p, of in zip(used.tolist(), places, strict=True)]
        out = torch.empty(len(rows), *found[0].shape[1:], dtype=found[0].dtype)
        out[torch.from_numpy(order)] = torch.cat(found)
        return out

    return gather


def rates(ways: list[Gather], batches: list[np.ndarray]) -> list[float]:
    """Rows a second of each way, which all give the same."""
    seconds = [float("inf")] * len(ways)
    assert all(torch.equal(way(batches[0]), ways[0](batches[0])) for way in ways)
    for _ in range(ROUNDS):
        for place, way in enumerate(ways):
            begun = time.perf_counter()
            for batch in batches:
                way(batch)
            seconds[place] = min(seconds[place], time.perf_counter() - begun)
    return [len(batches) * len(batches[0]) / taken for taken in seconds]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(
        "| features | parts | batch | one tensor, rows/s | mapped files, rows/s | an index for each file, rows/s |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, count, width in (("images", 31_014, 512), ("captions", 154_000, 768)):
        with tempfile.TemporaryDirectory() as folder:
            spec, whole = (
                StoreSpec("text", {}, {}, count, width, torch.bfloat16),
                torch.randn(count, width).bfloat16(),
            )
            files = [Path(folder) / f"{part}.safetensors" for part in range(spec.parts)]
            for part, file in enumerate(files):
                save_file({"features": whole[spec.rows(part)]}, file)
            save_file({"features": whole}, Path(folder) / "whole.safetensors")
            (one,) = MappedFeatures([Path(folder) / "whole.safetensors"], "features").parts
            mapped = MappedFeatures(files, "features")
            ways: list[Gather] = [
                lambda rows, one=one: one[torch.from_numpy(rows)],  # type: ignore[misc]
                lambda rows, mapped=mapped: mapped[torch.from_numpy(rows)],  # type: ignore[misc]
                by_part(mapped),
            ]
            for size in (32, 128, 1024):
                batches = list(np.random.default_rng(0).integers(0, count, (ROWS // size, size)))
                cells = [f"{rate:,.0f}" for rate in rates(ways, batches)]
                print(f"| {name} | {spec.parts} | {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
