"""Time and peak memory of one training step: plain, accumulated and cached batches, both towers trained.

python benchmarks/gradient_caching.py --batches 32 128 --modes plain accumulated cached
python benchmarks/gradient_caching.py --batches 4096 --modes cached

ResNet-34 and multilingual DistilBERT with random weights, random pixels and tokens, AdamW. Each row is a process
of its own, so that its peak is its own, under a memory limit. Every step is `CustomClipTrainer.training_step`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

MODES = ("plain", "accumulated", "cached")
TOKENS, VOCABULARY = 32, 119_547
MIB = 2**20
COLUMNS = (
    "mode", "pairs", "pixels", "negatives of each", "wall s", "CPU s", "CPU ms a pair", "pairs/s", "steps/s",
    "before, MiB", "the batch, MiB", "peak, MiB", "step's own, MiB",
)  # fmt: skip


def make_model(pixels: int):
    """Both towers unfrozen, in the shapes of the tutorial's."""
    from transformers import DistilBertConfig

    from hf_customclip import CustomClipConfig, CustomClipModel

    vision = {"model_type": "torchvision_backbone", "architecture": "resnet34", "image_size": pixels}
    text = DistilBertConfig(vocab_size=VOCABULARY)
    model = CustomClipModel(CustomClipConfig(vision_config=vision, text_config=text))
    model.unfreeze()
    return model


def make_batch(pairs: int, pixels: int):
    """Random images and captions."""
    import torch

    return {
        "pixel_values": torch.randn(pairs, 3, pixels, pixels),
        "input_ids": torch.randint(1000, VOCABULARY, (pairs, TOKENS)),
        "attention_mask": torch.ones(pairs, TOKENS, dtype=torch.long),
        "image_ids": torch.arange(pairs),
    }


def memory(field: str) -> float:
    """VmRSS or VmHWM (the peak) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def measure(mode: str, pairs: int, pixels: int, chunk: int, limit_gib: float) -> dict[str, float]:
    """One step of one mode, after a step of two pairs that brings gradients and the optimizer's state."""
    import torch

    from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments

    torch.manual_seed(0)
    cached = chunk if mode == "cached" else None
    args = CustomClipTrainingArguments(
        output_dir="unused", use_cpu=True, report_to="none", gradient_cache_chunk_size=cached
    )
    trainer = CustomClipTrainer(make_model(pixels), args)
    optimizer = trainer.create_optimizer()

    def step(micro_batches: list) -> None:
        trainer.current_gradient_accumulation_steps = len(micro_batches)
        for micro_batch in micro_batches:
            trainer.training_step(trainer.model, micro_batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    step([make_batch(2, pixels)])
    before = memory("VmRSS")
    batch = make_batch(pairs, pixels)
    with_batch = memory("VmRSS")
    # From here on: what is there, and no more than the limit.
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gib * 2**30),) * 2)
    parts = -(-pairs // chunk) if mode == "accumulated" else 1
    shares = [{name: rows.tensor_split(parts)[i] for name, rows in batch.items()} for i in range(parts)]
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        step(shares)
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        return {"reached": memory("VmHWM"), "before": before, "batch": with_batch - before}
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "before": before,
        "batch": with_batch - before,
        "peak": memory("VmHWM"),
    }


def row(mode: str, pairs: int, found: dict[str, float], options: argparse.Namespace) -> list[str]:
    """A measurement as a line of the table."""
    compared = min(pairs, options.chunk) if mode == "accumulated" else pairs
    start = [mode, f"{pairs:,}", str(options.pixels), f"{compared - 1:,}"]
    memories = [f"{found['before']:,.0f}", f"{found['batch']:,.0f}"]
    if "reached" in found:
        return [*start, *["-"] * 5, *memories, f"stopped at {options.limit_gib:g} GiB", "-"]
    wall, cpu = found["wall"], found["cpu"]
    times = [
        f"{wall:.1f}",
        f"{cpu:.1f}",
        f"{1000 * cpu / pairs:.0f}",
        f"{pairs / wall:.2f}",
        f"{1 / wall:.4f}",
    ]
    own = found["peak"] - found["before"] - found["batch"]
    return [*start, *times, *memories, f"{found['peak']:,.0f}", f"{own:,.0f}"]


def main() -> None:
    """Every row in its own process; the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--chunk", type=int, default=32, help="pairs of a chunk, or of a micro-batch")
    parser.add_argument("--limit-gib", type=float, default=12.0, help="memory that a step may have")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = (options.pixels, options.chunk, options.limit_gib)
    if options.row:
        mode, pairs = options.row
        print(json.dumps(measure(mode, int(pairs), *settings)))
        return
    print("| " + " | ".join(COLUMNS) + " |\n|---" + "|---:" * (len(COLUMNS) - 1) + "|", flush=True)
    shared = [
        f"--{name}={value}" for name, value in zip(("pixels", "chunk", "limit-gib"), settings, strict=True)
    ]
    for pairs in options.batches:
        for mode in options.modes:
            command = [sys.executable, __file__, "--row", mode, str(pairs), *shared]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print("| " + " | ".join(row(mode, pairs, found, options)) + " |", flush=True)


if __name__ == "__main__":
    main()
