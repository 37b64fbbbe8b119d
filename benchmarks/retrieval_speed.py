"""Time and extra memory of retrieval metrics, both directions, on random 512-wide embeddings.

python benchmarks/retrieval_speed.py            # the 1K protocol and COCO's 5K protocol
python benchmarks/retrieval_speed.py --large    # also all of Flickr30k: 31,000 images, 155,000 captions
"""

import argparse
import threading
import time

import psutil
import torch
import torch.nn.functional as F

from hf_customclip.evaluation.retrieval import retrieval_metrics

CAPTIONS, WIDTH = 5, 512


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="also 31,000 x 155,000 (minutes)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    measure(100, arguments.device)  # the first call pays for starting threads
    print(f"{torch.get_num_threads()} threads, {arguments.device}, {WIDTH} wide, float32 embeddings")
    names = ("images", "captions", "seconds", "CPU seconds", "extra MB", "embeddings MB", "rsum")
    print("  ".join(f"{name:>11}" for name in names))
    for images in (1_000, 5_000, 31_000)[: 3 if arguments.large else 2]:
        seconds, cpu, extra, own, rsum = measure(images, arguments.device)
        counts = f"{images:>11,}  {CAPTIONS * images:>11,}"
        print(f"{counts}  {seconds:>11.2f}  {cpu:>11.2f}  {extra:>11.0f}  {own:>13.0f}  {rsum:>11.1f}")


def measure(images: int, device: str) -> tuple[float, float, float, float, float]:
    """Seconds, CPU seconds of all threads, peak memory above the embeddings in MB, theirs in MB, and rsum."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(images)
    image_embeds = F.normalize(torch.randn(images, WIDTH, generator=generator), dim=-1)
    noise = torch.randn(CAPTIONS * images, WIDTH, generator=generator)
    text_embeds = F.normalize(noise.mul_(0.3).add_(image_embeds.repeat_interleave(CAPTIONS, 0)), dim=-1)
    del noise
    rows = (image_embeds, text_embeds, ids, ids.repeat_interleave(CAPTIONS))
    with PeakMemory(device) as peak:
        start, cpu = time.perf_counter(), time.process_time()
        metrics = retrieval_metrics(*(row.to(device) for row in rows))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return seconds, cpu, peak.megabytes, CAPTIONS * images * 6 / 5 * WIDTH * 4 / 1e6, metrics["rsum"]


class PeakMemory:
    """The most memory used inside, above what was used at the start: of the GPU, else of this process."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.process, self.done = device != "cpu", psutil.Process(), threading.Event()

    def __enter__(self) -> "PeakMemory":
        self.start = self.peak = self._used()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watcher.join()
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else self.peak
        self.megabytes = (peak - self.start) / 1e6

    def _used(self) -> int:
        return torch.cuda.memory_allocated() if self.on_gpu else self.process.memory_info().rss

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, self._used())


if __name__ == "__main__":
    main()
