"""What smaller embeddings cost: recall at 512, 256, 128 and 64 numbers, with and without training for it.

    python benchmarks/small_embeddings.py --seeds 3

The sample's own recipe (examples/configs/sample.yaml), measured on its test split with the English captions. Cut
embeddings are normalised anew. Cached features make a run take seconds after the first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import disable_progress_bars
from transformers import set_seed

from hf_customclip import (
    CustomClipTrainer,
    CustomClipTrainingArguments,
    create_model,
    load_image_text_dataset,
)
from hf_customclip.evaluation.retrieval import retrieval_metrics
from hf_customclip.training.config import load_config
from hf_customclip.training.progress_table import show_progress_table
from hf_customclip.training.run import build_processor

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = [512, 256, 128, 64]
# Fields of the model's configuration, and training arguments.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "matryoshka_dims": ({"matryoshka_dims": WIDTHS}, {}),
    "matryoshka_dims, CCA alone": ({"matryoshka_dims": WIDTHS}, {"learning_rate": 1e-12}),
}
METRICS = ("t2i_recall@1", "t2i_recall@10", "i2t_recall@1", "i2t_recall@10")
Embeds = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def test_embeddings(model_options: dict[str, Any], arguments: dict[str, Any], seed: int) -> Embeds:
    """Train; the test split's image and text embeddings, and the image of each row of both."""
    config = load_config(ROOT / "examples" / "configs" / "sample.yaml", ["training.report_to=none"])
    del config.data["eval_languages"]
    test = load_image_text_dataset(config.data["source"], split="test", languages=["en"])
    splits: Any = load_image_text_dataset(**config.data)
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = {**config.training, "output_dir": folder, "seed": seed, "disable_tqdm": True, **arguments}
        trainer = CustomClipTrainer(
            create_model(**config.model, **model_options),
            CustomClipTrainingArguments(**settings),
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            processing_class=build_processor(config),
        )
        show_progress_table(trainer)
        trainer.train()
        predicted: Any = trainer.predict(test)
    return (*predicted.predictions, *predicted.label_ids)


def cut(embeds: np.ndarray, width: int) -> np.ndarray:
    """The first `width` numbers, of length 1."""
    return embeds[:, :width] / np.linalg.norm(embeds[:, :width], axis=1, keepdims=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    disable_progress_bars()
    rows = []
    for name, options in VARIANTS.items():
        runs = [test_embeddings(*options, seed) for seed in seeds]
        for width in WIDTHS:
            found = [
                retrieval_metrics(cut(images, width), cut(texts, width), *ids) for images, texts, *ids in runs
            ]
            values = [statistics.mean(each[metric] for each in found) for metric in METRICS]
            rsums = [each["rsum"] for each in found]
            means = " | ".join(f"{value:.3f}" for value in values)
            rsum = f"{statistics.mean(rsums):.1f} ± {statistics.stdev(rsums):.1f}"
            rows.append(f"| {name} | {width} | {means} | {rsum} |")
    print(f"| trained | width | {' | '.join(METRICS)} | rsum |\n|{'---|' * (len(METRICS) + 3)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
