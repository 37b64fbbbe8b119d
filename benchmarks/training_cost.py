"""What training costs: the tutorial's way, and this package with and without cached features, side by side.

    python benchmarks/training_cost.py [--images 256] [--output benchmarks/training_cost.md]

resnet34 and DistilBERT-multilingual's shape with random weights, 500 x 375 JPEGs cropped from scikit-learn's
two photographs, two captions each as long as Flickr30k's, batch 128, 3 epochs. Every way gets the same files.
CPU seconds are those of the process and its workers: on a busy machine they are what can be compared.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
import transformers as tr
from datasets import Dataset, Features, Image, List, Value
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from hf_customclip import (
    CustomClipConfig,
    CustomClipModel,
    CustomClipProcessor,
    CustomClipTrainer,
    CustomClipTrainingArguments,
)
from hf_customclip.features.extraction import storage_order
from hf_customclip.features.items import distinct_captions, distinct_images
from hf_customclip.features.tower_pass import TowerPass, has_fast_bfloat16, resolve_precision
from hf_customclip.inference.loading import ImageInputs, TextInputs
from hf_customclip.training.recipe import MEASURED_HEADS

CPU = torch.device("cpu")
WORDS, BATCH, EPOCHS, CAPTIONS, LENGTH = 3000, 128, 3, 2, 32
# Multiply-adds: resnet34 of one 224 x 224 image; DistilBERT of one token (6 layers, 768 wide, 3072 inside).
IMAGE_MACS, TOKEN_MACS = 3.66e9, 6 * (4 * 768 * 768 + 2 * 768 * 3072)


# ---- The same images, captions and towers for everybody ----


def make_data(folder: Path, count: int) -> Dataset:
    """`count` JPEG files of 500 x 375, and two captions each with 12.3 +- 5.2 words, as in Flickr30k."""
    rng = np.random.default_rng(0)
    photographs = [PIL.Image.fromarray(array) for array in load_sample_images().images]
    paths, captions = [], []
    for number in range(count):
        photograph = photographs[number % 2]
        width = int(rng.integers(200, photograph.height * 4 // 3))
        left, top = (
            rng.integers(0, photograph.width - width),
            rng.integers(0, photograph.height - width * 3 // 4),
        )
        box = (int(left), int(top), int(left) + width, int(top) + width * 3 // 4)
        paths.append(str(folder / f"{number:05d}.jpg"))
        photograph.resize((500, 375), PIL.Image.Resampling.LANCZOS, box).save(paths[-1], quality=90)
        lengths = np.clip(rng.gamma((12.3 / 5.2) ** 2, 5.2**2 / 12.3, CAPTIONS), 4, 60).astype(int)
        captions.append([" ".join(f"w{word}" for word in rng.integers(0, WORDS, n)) for n in lengths])
    features = Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("int64")})
    return Dataset.from_dict(
        {"image": paths, "captions": captions, "image_id": list(range(count))}, features=features
    )


def make_tokenizer() -> Any:
    """Cuts three words in ten into two pieces, as a multilingual vocabulary does with English."""
    words = [f"w{n}" for n in range(WORDS) if n % 10 > 2] + [f"##{n}" for n in range(WORDS)]
    return tr.DistilBertTokenizer(
        vocab={
            token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w", *words])
        }
    )


def make_model() -> CustomClipModel:
    """The default recipe's heads on towers with random weights, the same in every call."""
    torch.manual_seed(0)
    text = tr.DistilBertConfig(vocab_size=119547)
    vision = {"model_type": "torchvision_backbone", "architecture": "resnet34"}
    config = CustomClipConfig(vision_config=vision, text_config=text, text_pooling="mean", **MEASURED_HEADS)
    return CustomClipModel(config)


def make_processor() -> CustomClipProcessor:
    """resnet34's own: shorter side to 256, the middle 224 x 224, ImageNet's mean and deviation."""
    images = tr.CLIPImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=2,
    )
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = LENGTH
    return CustomClipProcessor(images, tokenizer)


# ---- The tutorial's way, as it is published ----


class TutorialDataset(torch.utils.data.Dataset):
    """One example a caption; the row is looked up for the image and again for the caption."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.transform = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.dataset) * CAPTIONS

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.transform(self.dataset[index // CAPTIONS]["image"].convert("RGB"))
        return {"image": image, "caption": self.dataset[index // CAPTIONS]["captions"][index % CAPTIONS]}


class TutorialProjection(nn.Module):
    def __init__(self, d_in: int, d_out: int = 512, p: float = 0.5) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_in, d_out, bias=False)
        self.linear2 = nn.Linear(d_out, d_out, bias=False)
        self.layer_norm, self.drop = nn.LayerNorm(d_out), nn.Dropout(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        embed1 = self.linear1(x)
        return self.layer_norm(embed1 + self.drop(self.linear2(F.gelu(embed1))))


class Tutorial(nn.Module):
    """Two frozen towers, contiguous, in train mode, without an attention mask and without a temperature."""

    def __init__(self, vision: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.vision, self.text = vision, text
        self.image_head, self.text_head = TutorialProjection(512), TutorialProjection(768)
        for tower in (vision, text):
            tower.requires_grad_(False)

    def forward(self, images: torch.Tensor, input_ids: torch.Tensor, times: dict[str, float]) -> torch.Tensor:
        with part(times, "image tower"):
            image = self.vision(images).flatten(1)
        with part(times, "text tower"):
            text = self.text(input_ids)[0][:, 0, :]
        image = F.normalize(self.image_head(image), dim=-1)
        text = F.normalize(self.text_head(text), dim=-1)
        logits = image @ text.T
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def train_tutorial(towers: CustomClipModel, dataset: Dataset, times: dict[str, float]) -> None:
    """Three epochs; `times` receives the seconds of each part."""
    model = Tutorial(towers.vision_model.network, towers.text_model).train()
    tokenizer = make_tokenizer()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    loader = DataLoader(TutorialDataset(dataset), batch_size=BATCH, shuffle=True, num_workers=2)
    for _ in range(EPOCHS):
        batches = iter(loader)
        while True:
            with part(times, "waiting for images"):
                batch = next(batches, None)
            if batch is None:
                break
            tokens = tokenizer(
                batch["caption"],
                padding="max_length",
                truncation=True,
                max_length=LENGTH,
                return_tensors="pt",
            )
            with part(times, "all steps"):
                loss = model(batch["image"], tokens["input_ids"], times)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


# ---- This package ----


class Clock(tr.TrainerCallback):
    """When the first step began, and when each epoch began and ended."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_step: float | None = None
        self.epochs: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.first_step = self.first_step or time.perf_counter() - self.started

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.epochs.append(-time.perf_counter())

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.epochs[-1] += time.perf_counter()


def train_package(
    dataset: Dataset, folder: Path, mode: str, precision: str, model: Any, processor: Any
) -> Clock:
    """Three epochs by CustomClipTrainer."""
    clock = Clock()
    trainer = CustomClipTrainer(
        model=model,
        args=CustomClipTrainingArguments(
            output_dir=str(folder / "out"),
            feature_cache=mode,
            feature_cache_dir=str(folder / "features"),
            feature_precision=precision,
            per_device_train_batch_size=BATCH,
            num_train_epochs=EPOCHS,
            dataloader_num_workers=2 if mode == "never" else 0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=1000,
        ),
        train_dataset=dataset,
        processing_class=processor,
        callbacks=[clock],
    )
    trainer.remove_callback(tr.PrinterCallback)
    trainer.train()
    return clock


# ---- Measuring ----


@contextmanager
def part(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times[name] = times.get(name, 0.0) + time.perf_counter() - started


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measured(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds, and what it gave."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = run()
    return time.perf_counter() - wall, cpu_seconds() - cpu, result


def best(run: Callable[[], Any], repeats: int = 3) -> float:
    """Wall seconds of the fastest of some calls, after one to warm up."""
    run()
    return min(measured(run)[0] for _ in range(repeats))


def multiply_rate(dtype: torch.dtype) -> float:
    """Multiply-adds a second in a matrix product on all threads."""
    size = 1024 if dtype == torch.float32 or has_fast_bfloat16(CPU) else 256
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return size**3 / best(lambda: a @ b, 10)


def pass_parts(
    dataset: Dataset, folder: Path, dtype: torch.dtype, model: Any, processor: Any
) -> dict[str, float]:
    """Seconds an image of the pass's parts, one by one in this process: loading on one thread, towers on all."""
    images, captions = distinct_images(dataset, folder), distinct_captions(dataset)
    loaders = {"vision": ImageInputs(processor, images), "text": TextInputs(processor, captions, LENGTH)}
    by_length = storage_order(captions, processor, LENGTH)
    seconds: dict[str, float] = {}
    for tower, items, each in (("vision", np.arange(len(images)), 1), ("text", by_length, CAPTIONS)):
        groups = np.array_split(items, max(1, len(items) // 16))
        groups = groups[:: max(1, len(groups) // 4)]
        load, run = loaders[tower], TowerPass(model, tower, dtype, CPU)
        batches = [load(group.tolist()).inputs for group in groups]
        count = sum(map(len, groups)) / each
        seconds[f"{tower} tower"] = best(lambda r=run, b=batches: [r(x) for x in b]) / count
        if tower == "vision":
            seconds["decode and resize"] = best(lambda g=groups, f=load: [f(x.tolist()) for x in g]) / count
    return seconds


def mean_tokens(dataset: Dataset) -> float:
    """Tokens of a caption, cut at 32."""
    captions = [caption for captions in dataset["captions"] for caption in captions]
    tokens = make_tokenizer()(captions, truncation=True, max_length=LENGTH)["input_ids"]
    return float(np.mean([len(ids) for ids in tokens]))


# ---- Tables ----


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def compare(count: int, precision: str) -> str:
    """Everything in one run, as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset, model, processor = make_data(folder, count), make_model(), make_processor()
        dtype = resolve_precision(precision, CPU)
        float_rate, half_rate = multiply_rate(torch.float32), multiply_rate(torch.bfloat16)
        parts = pass_parts(dataset, folder, dtype, model, processor)
        runs, clocks = {}, {}
        times: dict[str, float] = {}
        for name, mode in (
            ("cached features, cold", "always"),
            ("cached features, warm", "always"),
            ("cache off", "never"),
        ):
            again = make_model()
            wall, cpu, clocks[name] = measured(
                lambda mode=mode, model=again: train_package(
                    dataset, folder, mode, precision, model, processor
                )
            )
            runs[name] = wall, cpu
            print(f"{name}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)
        wall, cpu, _ = measured(lambda: train_tutorial(model, dataset, times))
        runs = {"the tutorial's way": (wall, cpu), "cache off": runs.pop("cache off"), **runs}

    tokens = mean_tokens(dataset)
    macs = IMAGE_MACS + CAPTIONS * tokens * TOKEN_MACS
    cold, warm = (clocks[f"cached features, {state}"].first_step for state in ("cold", "warm"))
    pass_wall = (cold - warm) / count
    epoch = min(clocks["cached features, warm"].epochs[1:])
    tutorial_epoch = runs["the tutorial's way"][0] / EPOCHS
    whole, whole_cpu = runs["the tutorial's way"]
    steps, towers = times["all steps"], times["image tower"] + times["text tower"]
    passes = count * CAPTIONS * EPOCHS

    def ms(seconds: float) -> str:
        return f"{seconds * 1e3:.2f}"

    text = table(
        ["3 epochs, 2 captions", "wall s", "CPU s", "wall ms an image", "times less wall", "times less CPU"],
        [
            [name, f"{w:.1f}", f"{c:.1f}", ms(w / count), f"{whole / w:.1f}", f"{whole_cpu / c:.1f}"]
            for name, (w, c) in runs.items()
        ],
    )
    text += "\n" + table(
        ["part", "tutorial, ms each of its 6 passes", "cached features, ms an image, once"],
        [
            ["waiting for images (2 workers)", ms(times["waiting for images"] / passes), "hidden"],
            ["decode and resize, one thread", "", ms(parts["decode and resize"])],
            ["image tower", ms(times["image tower"] / passes), ms(parts["image tower"])],
            ["text tower", ms(times["text tower"] / passes), ms(parts["text tower"]) + " (2 captions)"],
            ["heads, an epoch", ms((steps - towers) / passes), ms(epoch / count)],
        ],
    )
    text += "\n" + table(
        ["against the targets", "measured", "target"],
        [
            ["whole recipe: times less wall time", f"{whole / runs['cached features, cold'][0]:.1f}", "20"],
            ["whole recipe: times less CPU time", f"{whole_cpu / runs['cached features, cold'][1]:.1f}", ""],
            [
                f"the pass, ms an image ({dtype})".replace("torch.", ""),
                ms(pass_wall),
                f"{ms(1.3 * macs / half_rate)} (1.3 times the bfloat16 floor)",
            ],
            ["the pass over the float32 floor", f"{pass_wall * float_rate / macs:.2f}", ""],
            ["the pass over the bfloat16 floor", f"{pass_wall * half_rate / macs:.2f}", "1.3"],
            ["a further epoch, of the tutorial's", f"{epoch / tutorial_epoch:.2%}", "0.5%"],
            ["warm store: seconds to the first step", f"{warm:.2f}", "2"],
        ],
    )
    text += (
        f"\n{count} images, {tokens:.1f} tokens a caption, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__.split('+')[0]}; matrix products here: float32 {2 * float_rate / 1e9:.0f} "
        f"GFLOP/s, bfloat16 {2 * half_rate / 1e9:.0f} GFLOP/s; floors: {ms(macs / float_rate)} and "
        f"{ms(macs / half_rate)} ms an image.\n"
    )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--output", type=Path, help="also write the tables there, as Markdown")
    args = parser.parse_args()
    tr.utils.logging.set_verbosity_error()
    text = compare(args.images, args.precision)
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
