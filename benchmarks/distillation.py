"""What a teacher gives a smaller student on the bundled sample, at several weights.

    python benchmarks/distillation.py --seeds 3

The teacher is the sample's own recipe (examples/configs/sample.yaml: features of several image layers, a multilingual
text tower), trained here on the same images. The students have the pooled outputs of the image tower alone and a
smaller English text tower, and are trained on the English captions. All are measured in English, the validation split
to choose a weight by. Then the same with the captions of a few images only: the others are shown as images without
captions, which the teacher has seen with theirs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from sample_recipe import ROOT, sample_towers
from transformers import set_seed

from hf_customclip import (
    CustomClipTrainer,
    CustomClipTrainingArguments,
    create_model,
    load_image_text_dataset,
)
from hf_customclip.training.config import TrainConfig, load_config
from hf_customclip.training.run import build_processor

STUDENT = {
    **dict(zip(("vision", "text"), map(str, sample_towers()), strict=True)),
    "text_pooling": "mean",
    **dict.fromkeys(
        f"{tower}_feature_{kind}" for tower in ("vision", "text") for kind in ("layers", "poolings")
    ),
    "average_mirrored": False,
}
WEIGHTS = (None, 0.3, 1.0, 3.0, 10.0)
FEW = 300
SHOWN = ("t2i_recall@1", "i2t_recall@1", "rsum")
Metrics = dict[str, dict[str, float]]


def train(
    folder: str,
    config: TrainConfig,
    languages: list[str],
    seed: int,
    rows: int | None = None,
    **arguments: Any,
) -> Metrics:
    """Train on the first so many rows and save; the English metrics of the splits held out."""
    source = config.data["source"]
    data = load_image_text_dataset(source, split="train", languages=languages)
    set_seed(seed)
    trainer = CustomClipTrainer(
        create_model(**config.model),
        CustomClipTrainingArguments(
            **{**config.training, "output_dir": folder, "seed": seed, "disable_tqdm": True, **arguments}
        ),
        train_dataset=data.select(range(rows or len(data))),
        eval_dataset=load_image_text_dataset(source, split="validation", languages=["en"]),
        processing_class=build_processor(config),
    )
    trainer.train()
    trainer.save_model()
    splits = {
        "validation": trainer.eval_dataset,
        "test": load_image_text_dataset(source, split="test", languages=["en"]),
    }
    return {name: trainer.evaluate(split) for name, split in splits.items()}


def write_images(folder: Path, source: str, first: int) -> str:
    """Files of the training images from that row on."""
    folder.mkdir()
    images = load_image_text_dataset(source, split="train")["image"][first:]
    for number, image in enumerate(images):
        image.save(folder / f"{number:04d}.png")
    return str(folder)


def row(name: str, runs: list[Metrics]) -> str:
    """Means over the seeds, and by how much the sums differ."""
    cells = [name]
    for split in ("validation", "test"):
        for metric in SHOWN:
            values = [run[split][f"eval_{metric}"] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if metric == "rsum" and len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{1 if metric == 'rsum' else 3}f}{spread}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", nargs="*", type=float, default=WEIGHTS, help="of the first rows")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    disable_progress_bars()
    config = load_config(ROOT / "examples" / "configs" / "sample.yaml")
    student = TrainConfig(STUDENT, config.data, config.training)
    heads = [f"{split} {metric}" for split in ("validation", "test") for metric in SHOWN]
    print(f"| model | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        teacher = f"{folder}/teacher"
        print(row("the teacher", [train(teacher, config, config.data["languages"], 0)]), flush=True)
        for weight in arguments.weights:
            options = {} if weight is None else {"teacher": teacher, "distillation_weight": weight}
            runs = [train(f"{folder}/student", student, ["en"], seed, **options) for seed in seeds]
            print(row("student alone" if weight is None else f"student, weight {weight}", runs), flush=True)
        taught = {"teacher": teacher, "distillation_weight": 1.0}
        others = write_images(Path(folder, "unpaired"), student.data["source"], FEW)
        for name, options in (
            (f"student, captions of {FEW} images", {}),
            ("the same, weight 1.0", taught),
            ("the same, and the other images", {**taught, "unpaired_images": others}),
        ):
            runs = [train(f"{folder}/few", student, ["en"], seed, rows=FEW, **options) for seed in seeds]
            print(row(name, runs), flush=True)


if __name__ == "__main__":
    main()
