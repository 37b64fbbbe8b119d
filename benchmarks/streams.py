"""Training heads from feature shards against the in-memory path: pairs a second, and memory.

    python benchmarks/streams.py [--pairs 1000000] [--shards 100]

Features are random, one caption an image, bfloat16; the model is the default recipe's heads. Both ways read the same
numbers: `FeatureShards` a few shards at a time, `TrainingDataset` all at once. Each runs in its own process, so that
its largest memory is its own; the in-memory way is measured on `--in-memory` of the pairs, since all need not fit.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_customclip.data.pairs import CaptionTable, TrainingDataset
from hf_customclip.features.shard_dataset import FeatureShards
from hf_customclip.features.shard_folder import FORMAT, MANIFEST, Shard, ShardFolder
from hf_customclip.modeling.heads_custom_clip import MlpProjection
from hf_customclip.modeling.losses_custom_clip import softmax_contrastive_loss

WIDTHS = {"vision": 512, "text": 768}
BATCH = 1024


def write_shards(address: str, pairs: int, shards: int) -> None:
    """Random features as `extract_features` lays them out."""
    folder, rows = ShardFolder(address), pairs // shards
    generator = torch.Generator().manual_seed(0)
    listed: list[dict[str, Any]] = []
    for number in range(shards):
        image, text = (torch.randn(rows, width, generator=generator).bfloat16() for width in WIDTHS.values())
        ids = torch.arange(number * rows, (number + 1) * rows)
        name = f"{number:05d}-0000.safetensors"
        folder.write_shard(name, Shard(image, text, torch.arange(rows + 1), ids))
        listed.append({"name": name, "rows": rows, "captions": rows, "rows_by_captions": {"1": rows}})
    total = rows * shards
    folder.write_json(MANIFEST, {"format": FORMAT, "rows": total, "captions": total, "shards": listed})


def in_memory(shards: FeatureShards, count: int) -> TrainingDataset:
    """The first `count` pairs as the feature cache gives them."""
    parts: list[list[torch.Tensor]] = [[], []]
    for batch in shards.feature_batches(None):
        parts[0].append(batch.images)
        parts[1].append(batch.texts)
        if sum(map(len, parts[0])) >= count:
            break
    image, text = (torch.cat(part) for part in parts)
    rows = Dataset.from_dict({"image": [""] * len(image), "captions": [["a"]] * len(image)})
    rows = rows.add_column("image_id", np.arange(len(image)))
    return TrainingDataset(rows, CaptionTable(rows), image, text, batch_of="pairs")


def train_epoch(pairs: Any) -> tuple[int, float]:
    """Pairs shown in an epoch of head training, and seconds."""
    heads = [MlpProjection(width, 512, 0.5) for width in WIDTHS.values()]
    optimizer = torch.optim.Adam([p for head in heads for p in head.parameters()], 1e-3)
    begun, shown = time.perf_counter(), 0
    for numbers in pairs.batch_sampler(BATCH):
        batch = pairs.__getitems__(numbers)
        embeds = [
            torch.nn.functional.normalize(head(batch[f"{kind}_features"].float()), dim=-1)
            for head, kind in zip(heads, ("image", "text"), strict=True)
        ]
        loss = softmax_contrastive_loss(*embeds, torch.tensor(14.0), batch["image_ids"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shown += len(numbers)
    return shown, time.perf_counter() - begun


def read_epoch(pairs: Any) -> tuple[int, float]:
    """Pairs read in an epoch without training, and seconds."""
    begun, shown = time.perf_counter(), 0
    for numbers in pairs.batch_sampler(BATCH):
        shown += len(pairs.__getitems__(numbers)["image_ids"])
    return shown, time.perf_counter() - begun


def measure(way: str, address: str, count: int) -> None:
    """One line of the table."""
    shards = FeatureShards(address)
    pairs: Any = in_memory(shards, count) if way == "in memory" else shards
    read, reading = read_epoch(pairs)
    shown, training = train_epoch(pairs)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {way} | {shown:,} | {read / reading:,.0f} | {shown / training:,.0f} | {megabytes:,.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--in-memory", type=int, default=100_000)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        measure(args.way, args.address, args.in_memory)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, args.pairs, args.shards)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e9
        print(f"{args.pairs:,} pairs in {args.shards} shards, {size:.2f} GB, on {os.cpu_count()} cores\n")
        print(
            "| path | pairs | read, pairs/s | trained, pairs/s | largest memory, MB |\n|---|---:|---:|---:|---:|",
            flush=True,
        )
        for way in ("in memory", "shards"):
            command = [sys.executable, __file__, "--way", way, "--address", folder]
            subprocess.run([*command, "--in-memory", str(args.in_memory)], check=True)


if __name__ == "__main__":
    main()
