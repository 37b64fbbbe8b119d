"""What each lever of the feature pass is worth by itself: CPU time on one thread, with and without it.

    python benchmarks/pass_levers.py [--compile] [--output benchmarks/pass_levers.md]

The two sides of a lever are run in turns and the fastest of each is taken. The images, captions and towers
are those of training_cost.py.
"""

from __future__ import annotations

import argparse
import copy
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tr
from torch.fx.experimental.optimization import fuse
from torchvision.io import ImageReadMode, decode_jpeg
from training_cost import CPU, LENGTH, make_data, make_model, make_processor, table

from hf_customclip.data.images import decode_image, to_rgb
from hf_customclip.data.preparation import image_inputs
from hf_customclip.features.extraction import storage_order
from hf_customclip.features.items import distinct_captions
from hf_customclip.features.tower_pass import TowerPass, resolve_precision
from hf_customclip.inference.loading import TextInputs

IMAGES = 16
Work = Callable[[], Any]


def cpu_milliseconds(without: Work, with_it: Work, count: int, repeats: int = 4) -> tuple[float, float]:
    """The fastest of each, in turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for work, taken in zip((without, with_it), seconds, strict=True):
            started = time.process_time()
            work()
            taken.append(time.process_time() - started)
    return min(seconds[0][1:]) / count * 1e3, min(seconds[1][1:]) / count * 1e3


class Levers:
    """Each method is one lever: without it, with it, and how many items they do."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.dtype, self.processor = dtype, make_processor()
        self.dataset, self.model = make_data(folder, 96), make_model()
        paths = sorted(folder.glob("*.jpg"))
        self.files = [path.read_bytes() for path in paths[: 2 * IMAGES]]
        self.images = [to_rgb(decode_image(file)) for file in self.files]
        self.pixels = image_inputs(self.processor, self.images[:IMAGES])["pixel_values"].to(dtype)
        captions = distinct_captions(self.dataset)
        self.captions = TextInputs(self.processor, captions, LENGTH)
        self.by_length = storage_order(captions, self.processor, LENGTH)
        self.network = copy.deepcopy(self.model.vision_model.network).to(dtype).eval()
        self.channels_last = copy.deepcopy(self.network).to(memory_format=torch.channels_last)
        self.pixels_last = self.pixels.to(memory_format=torch.channels_last)

    def channels_last_layout(self) -> tuple[Work, Work, int]:
        return lambda: self.network(self.pixels), lambda: self.channels_last(self.pixels_last), IMAGES

    def batchnorm_folded_into_convolutions(self) -> tuple[Work, Work, int]:
        folded = fuse(self.channels_last)
        return lambda: self.channels_last(self.pixels_last), lambda: folded(self.pixels_last), IMAGES

    def torch_compile(self) -> tuple[Work, Work, int]:
        compiled = torch.compile(self.channels_last)
        return lambda: self.channels_last(self.pixels_last), lambda: compiled(self.pixels_last), IMAGES

    def images_in_batches_of_16_not_64(self) -> tuple[Work, Work, int]:
        many = self.pixels_last.repeat(4, 1, 1, 1).to(memory_format=torch.channels_last)
        parts = [part.contiguous(memory_format=torch.channels_last) for part in many.split(16)]
        return lambda: self.channels_last(many), lambda: [self.channels_last(p) for p in parts], 64

    def captions_sorted_by_length(self) -> tuple[Work, Work, int]:
        shuffled = np.random.default_rng(0).permutation(self.by_length)
        return self._text(shuffled, 64), self._text(self.by_length, 64), len(self.by_length)

    def captions_in_batches_of_64_not_16(self) -> tuple[Work, Work, int]:
        return self._text(self.by_length, 16), self._text(self.by_length, 64), len(self.by_length)

    def _text(self, order: np.ndarray, size: int) -> Work:
        run = TowerPass(self.model, "text", self.dtype, CPU)
        batches = [self.captions(part.tolist()).inputs for part in np.array_split(order, len(order) // size)]
        return lambda: [run(batch) for batch in batches]

    def images_resized_8_at_a_time(self) -> tuple[Work, Work, int]:
        whole = lambda: self.processor(images=self.images, return_tensors="pt")  # noqa: E731
        return whole, lambda: image_inputs(self.processor, self.images), len(self.images)

    def jpeg_decoded_by_torchvision(self) -> tuple[Work, Work, int]:
        raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in self.files]
        ours = [decode_jpeg(data, mode=ImageReadMode.RGB) for data in raw]
        theirs = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in self.images]
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), "other pixels"
        return (
            lambda: image_inputs(self.processor, [to_rgb(decode_image(file)) for file in self.files]),
            lambda: image_inputs(self.processor, [decode_jpeg(data, mode=ImageReadMode.RGB) for data in raw]),
            len(self.files),
        )

    def jpeg_draft_mode_where_the_image_is_4_times_as_large(self) -> tuple[Work, Work, int]:
        large = []
        for image in self.images[:8]:
            buffer = io.BytesIO()
            image.resize((2000, 1500)).save(buffer, "JPEG", quality=90)
            large.append(buffer.getvalue())

        def drafted(file: bytes) -> Any:
            import PIL.Image

            image = PIL.Image.open(io.BytesIO(file))
            image.draft("RGB", (512, 512))
            return to_rgb(image)

        return (
            lambda: image_inputs(self.processor, [to_rgb(decode_image(file)) for file in large]),
            lambda: image_inputs(self.processor, [drafted(file) for file in large]),
            len(large),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes a minute")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--output", type=Path, help="also write the table there, as Markdown")
    args = parser.parse_args()
    tr.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        levers = Levers(Path(name), resolve_precision(args.precision, CPU))
        for lever, method in vars(Levers).items():
            if lever.startswith("_") or (lever == "torch_compile" and not args.compile):
                continue
            without, with_it, count = method(levers)
            before, after = cpu_milliseconds(without, with_it, count)
            rows.append([lever.replace("_", " "), f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}"])
            print(*rows[-1], flush=True)
    head = ["lever", "without, ms an item", "with it", "times faster"]
    text = table(head, rows) + f"\nprecision: {str(levers.dtype).removeprefix('torch.')}, one thread.\n"
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
