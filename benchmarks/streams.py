"""Feature shards against a listing: extraction of images, and training heads; pairs a second, memory, and recall.

    python benchmarks/streams.py train [--pairs 1000000] [--shards 100]
    python benchmarks/streams.py extract FOLDER --model outputs/sample [--images 10000] [--tars 20]
    python benchmarks/streams.py sums [--seeds 3] [--tars 4]

Extraction: images of FOLDER (and, where they are too few, their mirror images), at most 256 pixels wide and high, once
in a folder with captions and once in tars. Both ways start with nothing cached and the model loaded, with one process
of all cores and with two that share them; the last one's seconds count.

Training: features are random, one caption an image, bfloat16; the model is the default recipe's heads. Both ways read
the same numbers: `FeatureShards` a few shards at a time, `TrainingDataset` all at once. Each runs in a process of its
own, so that its largest memory is its own: an epoch is read, then heads are trained for one. The
in-memory way is measured on `--in-memory` of the pairs, since all need not fit.

Sums: the sample's English training images, by the default recipe as in sample_recipe.py, from the listing and from
shards that were extracted from tars of the same files; both are measured on the listing's validation and test images.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Image, IterableDataset
from PIL import ImageOps
from sample_recipe import ROOT, cell, measure, sample_towers
from transformers.utils import logging

from hf_customclip import CustomClipProcessor, create_model, load_image_text_dataset, load_model
from hf_customclip.data.data_collator import ContrastiveCollator
from hf_customclip.data.pairs import CaptionTable, TrainingDataset
from hf_customclip.features.cache import FeatureCache
from hf_customclip.features.shard_dataset import FeatureShards
from hf_customclip.features.shard_extraction import extract_features
from hf_customclip.features.shard_folder import FORMAT, MANIFEST, Shard, ShardFolder
from hf_customclip.modeling.heads_custom_clip import MlpProjection
from hf_customclip.modeling.losses_custom_clip import softmax_contrastive_loss

WIDTHS = {"vision": 512, "text": 768}
BATCH = 1024
SUMS = ("eval_rsum", "test_rsum", "test_i2t_recall@1", "test_t2i_recall@1")


def write_shards(address: str, pairs: int, shards: int) -> None:
    """Random features as `extract_features` lays them out."""
    folder, rows = ShardFolder(address), pairs // shards
    generator = torch.Generator().manual_seed(0)
    listed: list[dict[str, Any]] = []
    for number in range(shards):
        image, text = (torch.randn(rows, width, generator=generator).bfloat16() for width in WIDTHS.values())
        ids = torch.arange(number * rows, (number + 1) * rows)
        shard = Shard(image, text, torch.arange(rows + 1), ids, ids)
        counts = {"rows": rows, "captions": rows, "rows_by_captions": {"1": rows}}
        listed.append(folder.write_shard(number, 0, vars(shard), **counts))
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


def train_heads(pairs: Any) -> int:
    """Pairs shown in an epoch of head training."""
    heads = [MlpProjection(width, 512, 0.5) for width in WIDTHS.values()]
    optimizer = torch.optim.Adam([p for head in heads for p in head.parameters()], 1e-3)
    shown = 0
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
    return shown


def read_epoch(pairs: Any) -> int:
    """Pairs read in an epoch without training."""
    shown = 0
    for numbers in pairs.batch_sampler(BATCH):
        shown += len(pairs.__getitems__(numbers)["image_ids"])
    return shown


def rates(epoch: Callable[[Any], int], pairs: Any) -> str:
    """Pairs a second on the wall, and a second of CPU, which other jobs on the machine change little."""
    wall, cpu = time.perf_counter(), time.process_time()
    shown = epoch(pairs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{shown / wall:,.0f} ({shown / cpu:,.0f})"


def measure_training(way: str, address: str, count: int) -> None:
    """One line of the table."""
    shards = FeatureShards(address)
    pairs: Any = in_memory(shards, count) if way == "in memory" else shards
    read, trained = rates(read_epoch, pairs), rates(train_heads, pairs)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {way} | {len(pairs):,} | {read} | {trained} | {megabytes:,.0f} |", flush=True)


def draw_images(source: Path, folder: Path, count: int, tars: int) -> None:
    """`count` JPEGs with two captions each, in folder/listing, and in folder/tars."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".png", ".webp"))
    (folder / "listing").mkdir()
    (folder / "tars").mkdir()
    rows = []
    for number in range(count):
        image = PIL.Image.open(files[number % len(files)]).convert("RGB")
        image.thumbnail((256, 256))
        image = ImageOps.mirror(image) if number >= len(files) else image
        image.save(folder / "listing" / f"{number:05d}.jpg", quality=90)
        captions = [
            f"image {number} of a benchmark",
            f"this is number {number}, seen at {number % 60} seconds",
        ]
        rows.append({"file_name": f"{number:05d}.jpg", "captions": captions})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "listing" / "metadata.jsonl").write_text(lines)
    files = (((folder / "listing" / row["file_name"]).read_bytes(), row["captions"]) for row in rows)
    write_tars(folder / "tars", files, count, tars)


def write_tars(folder: Path, pairs: Iterable[tuple[bytes, list[str]]], count: int, tars: int) -> None:
    """WebDataset: an image and a JSON file of its captions to a sample."""
    numbered = enumerate(pairs)
    for tar, part in enumerate(np.array_split(np.arange(count), tars)):
        with tarfile.open(folder / f"{tar:03d}.tar", "w") as opened:
            for number, (image, captions) in islice(numbered, len(part)):
                # Readers go by an image's content, whatever its suffix.
                for suffix, content in (("png", image), ("json", json.dumps(captions).encode())):
                    info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    info.size = len(content)
                    opened.addfile(info, io.BytesIO(content))


def open_tars(folder: Path) -> IterableDataset:
    """All of them as a stream."""
    options: Any = {"streaming": True, "validation_fraction": 0.0, "test_fraction": 0.0}
    return load_image_text_dataset(str(folder / "*.tar"), split="train", **options)


def extract(way: str, folder: Path, out: str, model_folder: str, rank: int, processes: int) -> float:
    """Seconds of one process."""
    model, processor = load_model(model_folder)
    if way == "tars":
        stream = open_tars(folder / "tars")
        begun = time.perf_counter()
        extract_features(
            *(model, processor, stream, out), process_index=rank, num_processes=processes, show_progress=False
        )
        return time.perf_counter() - begun
    listed: Any = load_image_text_dataset(folder / "listing", split="all")
    begun = time.perf_counter()
    cache = FeatureCache(mode="always", folder=out, show_progress=False)
    cache.training_items(model, listed, ContrastiveCollator(processor, model.config.max_text_length))
    return time.perf_counter() - begun


def compare_extraction(args: argparse.Namespace) -> None:
    """The table of extraction."""
    with tempfile.TemporaryDirectory() as folder:
        draw_images(args.folder, Path(folder), args.images, args.tars)
        print(f"{args.images:,} images, {args.tars} tars, on {os.cpu_count()} cores\n")
        print(
            "| path | processes | seconds | images/s | seconds of CPU, start and all |\n|---|---:|---:|---:|---:|",
            flush=True,
        )
        for processes in (1, 2):
            environment = {**os.environ, "OMP_NUM_THREADS": str((os.cpu_count() or 2) // processes)}
            for way in ("listing", "tars"):
                out = f"{folder}/{way}-{processes}"
                before = cpu_seconds()
                command = [sys.executable, __file__, "one", way, folder, out, args.model, str(processes)]
                running = [
                    subprocess.Popen(
                        [*command, str(rank)], stdout=subprocess.PIPE, text=True, env=environment
                    )
                    for rank in range(processes)
                ]
                seconds = max(float(process.communicate()[0].split()[-1]) for process in running)
                rate, cpu = args.images / seconds, cpu_seconds() - before
                print(f"| {way} | {processes} | {seconds:.1f} | {rate:.0f} | {cpu:.0f} |", flush=True)


def cpu_seconds() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compare_training(args: argparse.Namespace) -> None:
    """The table of training."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, args.pairs, args.shards)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e9
        print(f"{args.pairs:,} pairs in {args.shards} shards, {size:.2f} GB, on {os.cpu_count()} cores\n")
        print(
            "| path | pairs | read, pairs/s (a second of CPU) | trained, pairs/s (a second of CPU) | "
            "largest memory, MB |\n|---|---:|---:|---:|---:|",
            flush=True,
        )
        for way in ("in memory", "shards"):
            subprocess.run(
                [sys.executable, __file__, "measure", way, folder, str(args.in_memory)], check=True
            )


def compare_sums(args: argparse.Namespace) -> None:
    """The table of sums."""
    logging.disable_progress_bar()
    towers = sample_towers()
    data: Any = load_image_text_dataset(str(ROOT / "examples" / "sample"), languages=["en"])
    train = data["train"].cast_column("image", Image(decode=False))
    files = (
        (row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes(), row["captions"]) for row in train
    )
    with tempfile.TemporaryDirectory() as folder:
        write_tars(Path(folder), files, len(train), args.tars)
        out = f"{folder}/features"
        processor = CustomClipProcessor.from_vision_text_pretrained(*towers)
        extract_features(create_model(*towers), processor, open_tars(Path(folder)), out, show_progress=False)
        print("| training data | " + " | ".join(SUMS) + " |\n|---|" + "---:|" * len(SUMS), flush=True)
        for name, source in (("listing", data["train"]), (f"{args.tars} tars", FeatureShards(out))):
            splits: Any = {**data, "train": source}
            runs = [measure({}, {}, seed, splits, towers, folder) for seed in range(args.seeds)]
            print("| " + " | ".join([name, *(cell(runs, column) for column in SUMS)]) + " |", flush=True)


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["measure"]:  # one way, in a process of its own
        return measure_training(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    if sys.argv[1:2] == ["one"]:
        way, folder, out, model, processes, rank = sys.argv[2:]
        return print(extract(way, Path(folder), out, model, int(rank), int(processes)))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train")
    train.set_defaults(run=compare_training)
    train.add_argument("--pairs", type=int, default=1_000_000)
    train.add_argument("--shards", type=int, default=100)
    train.add_argument("--in-memory", type=int, default=100_000)
    extraction = commands.add_parser("extract")
    extraction.set_defaults(run=compare_extraction)
    extraction.add_argument("folder", type=Path)
    extraction.add_argument("--model", default="outputs/sample")
    extraction.add_argument("--images", type=int, default=10_000)
    extraction.add_argument("--tars", type=int, default=20)
    sums = commands.add_parser("sums")
    sums.set_defaults(run=compare_sums)
    sums.add_argument("--seeds", type=int, default=3)
    sums.add_argument("--tars", type=int, default=4)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
