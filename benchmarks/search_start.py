"""From the start of `hf-customclip search INDEX "words"` to its answer, with and without a stored text encoder.

    python benchmarks/search_start.py outputs/sample my-images/

Indexes the images twice, then starts each search five times, one after another, files in the page cache; the wall's
seconds stand beside those of CPU, which other processes do not lengthen.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

COMMAND = [sys.executable, "-m", "hf_customclip.cli"]
RUNS = 5


def seconds_of(index: str) -> tuple[list[float], list[float]]:
    """Of each run after the first: on the wall, of CPU."""
    walls, cpus = [], []
    for _ in range(RUNS + 1):
        before, begun = os.times(), time.perf_counter()
        subprocess.run([*COMMAND, "search", index, "a red heart", "-k", "5"], check=True, capture_output=True)
        walls.append(time.perf_counter() - begun)
        after = os.times()
        cpus.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    return walls[1:], cpus[1:]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("images")
    given = parser.parse_args()
    print("| text queries by | median, wall | best, wall | median, CPU |\n|---|---:|---:|---:|")
    for name, options in (("the model (torch)", []), ("the stored encoder (ONNX, int8)", ["--text-encoder"])):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*COMMAND, "index", given.model, given.images, folder, *options], check=True)
            walls, cpus = seconds_of(folder)
        numbers = statistics.median(walls), min(walls), statistics.median(cpus)
        print(f"| {name} | " + " | ".join(f"{number:.2f} s" for number in numbers) + " |", flush=True)


if __name__ == "__main__":
    main()
