"""Load on `hf-customclip serve` over loopback: requests a second, latencies, wrong answers, memory.

    python benchmarks/serve.py outputs/sample my-images/ --requests 200

Eight clients ask at once, each checking its answer against the model's embedding; then malformed, oversized and
bomb-like requests are sent among right ones, while the server's memory is watched.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from hf_customclip import load_model
from hf_customclip.inference import encode_images, encode_texts

CLIENTS = 8
TEXTS = [
    f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("heart", "car", "bird", "hat")
]
Case = tuple[Any, np.ndarray | None]  # the body, and the right embedding; None where it is to be refused


@contextmanager
def serving(model: str) -> Iterator[tuple[str, psutil.Process]]:
    """The server's address and process, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hf_customclip.cli", "serve", model, "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            try:
                httpx.get(f"{address}/health")
                break
            except httpx.TransportError:
                time.sleep(0.5)
        yield address, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def load(address: str, cases: list[Case]) -> tuple[float, list[float], int, int]:
    """Seconds in all, seconds of each, wrong answers, refused ones."""

    def ask(case: Case) -> tuple[float, bool, bool]:
        body, right = case
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        begun = time.perf_counter()
        answer = httpx.post(f"{address}/v1/embeddings", timeout=300, **content)
        seconds = time.perf_counter() - begun
        if answer.status_code != 200:
            return seconds, right is not None and answer.status_code != 503, True
        found = np.array(answer.json()["data"][0]["embedding"])
        return seconds, right is None or not np.allclose(found, right, atol=1e-4), False

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        seconds, wrong, refused = zip(*pool.map(ask, cases), strict=True)
    return time.perf_counter() - begun, list(seconds), sum(wrong), sum(refused)


class Watched:
    """The greatest resident memory of a process inside the block, in MB."""

    def __init__(self, process: psutil.Process) -> None:
        self.process, self.peak, self.stopped = process, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.stopped.wait(0.02):
            self.peak = max(self.peak, self.process.memory_info().rss / 1e6)

    def __enter__(self) -> Watched:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()


def hostile() -> list[Case]:
    """Malformed, oversized and bomb-like bodies."""
    file = io.BytesIO()
    Image.new("RGB", (7000, 7000)).save(file, "PNG")
    bomb = base64.b64encode(file.getvalue()).decode()
    bodies = [
        b"{",
        b"[" * 1_000_000,
        b" " * 40_000_000,
        {"input": ["x"] * 300},
        {"input": [{"image": "A" * 30_000_000}]},
    ]
    return [(body, None) for body in bodies] + [({"input": [{"image": bomb}] * 60 + [{"image": "no"}]}, None)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--requests", type=int, default=200)
    given = parser.parse_args()
    files = sorted(Path(given.images).iterdir())[:12]
    loaded = load_model(given.model)
    texts, images = encode_texts(*loaded, TEXTS).numpy(), encode_images(*loaded, files).numpy()
    encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
    of_texts: list[Case] = [({"input": text}, right) for text, right in zip(TEXTS, texts, strict=True)]
    of_images: list[Case] = [
        ({"input": [{"image": e}]}, right) for e, right in zip(encoded, images, strict=True)
    ]
    attacks = hostile()
    mixed = [case for pair in zip(of_texts, itertools.cycle(attacks), strict=False) for case in pair]

    def take(cases: list[Case]) -> list[Case]:
        return list(itertools.islice(itertools.cycle(cases), given.requests))

    rows: dict[str, Callable[[], list[Case]]] = {
        "a text each": lambda: take(of_texts),
        "an image each": lambda: take(of_images),
        "texts among malformed and oversized requests": lambda: take(mixed)[: given.requests // 4],
    }
    print(
        "| requests | a second | p50 | p99 | refused | wrong | peak memory |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    with serving(given.model) as (address, process):
        load(address, of_texts + of_images)
        for name, cases in rows.items():
            with Watched(process) as watched:
                total, seconds, wrong, refused = load(address, cases())
            p50, p99 = 1000 * np.percentile(seconds, [50, 99])
            print(f"| {len(seconds)}: {name} | {len(seconds) / total:.1f} | {p50:.0f} ms | {p99:.0f} ms "
                  f"| {refused} | {wrong} | {watched.peak:,.0f} MB |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
