"""What training in several languages gives, and what a text tower that knows them does: tables for languages.md.

    python benchmarks/languages.py sample --cache FOLDER
    python benchmarks/languages.py flickr8k CAPTIONS.jsonl --images FOLDER --cache FOLDER

The first runs on the bundled sample with its own recipe, as `make train` does; the second on Flickr8k with the default
recipe for frozen towers and rankings corrected for hubs, the last epoch's model: captions as JSON lines,
`{"file_name", "split", "en": [...], "de": [...]}`. Numbers are of the test split; every choice was made elsewhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from sample.towers import ENGLISH, MULTILINGUAL, build_towers  # noqa: E402
from transformers import set_seed  # noqa: E402

from hf_customclip import (  # noqa: E402
    CustomClipProcessor,
    CustomClipTrainer,
    CustomClipTrainingArguments,
    create_model,
)
from hf_customclip.data import load_image_text_dataset  # noqa: E402
from hf_customclip.evaluation.corrected import PREFIX  # noqa: E402
from hf_customclip.evaluation.reports import languages_of  # noqa: E402
from hf_customclip.training.config import load_config  # noqa: E402
from hf_customclip.training.run import run_training  # noqa: E402

FIVE = ["en", "de", "es", "ja", "zh"]
FOUR = ["en", "zh", "de", "pt"]
RUNS = {"sample": [(ENGLISH, ["en"]), (MULTILINGUAL, ["en"]), (MULTILINGUAL, FIVE)],
        "flickr8k": [(ENGLISH, ["en"]), (MULTILINGUAL, ["en"]), (MULTILINGUAL, FOUR)]}  # fmt: skip


def sample(tower: str, languages: list[str], cache: Path) -> dict[str, float]:
    """Metrics of the test split, as `make train` reports them."""
    config = load_config(ROOT / "examples" / "configs" / "sample.yaml")
    config.model |= towers(tower, cache)
    config.data["languages"] = languages
    with tempfile.TemporaryDirectory() as folder:
        config.training |= {"output_dir": folder, "feature_cache_dir": str(cache / "features")}
        found = run_training(config)
    return {name.removeprefix("test_"): value for name, value in found.items() if name.startswith("test_")}


def flickr8k(tower: str, languages: list[str], cache: Path, captions: str, images: str) -> dict[str, float]:
    """Metrics of the test split, corrected for hubs, from cached features."""
    names = towers(tower, cache)
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = CustomClipTrainingArguments(
            folder, seed=0, feature_cache_dir=str(cache / "features"), save_strategy="no", report_to="none"
        )
        trainer = CustomClipTrainer(
            create_model(**names),
            arguments,
            train_dataset=load_image_text_dataset(captions, "train", images=images, languages=languages),
            processing_class=CustomClipProcessor.from_vision_text_pretrained(**names),
        )
        trainer.train()
        measured = load_image_text_dataset(captions, "test", images=images, languages="all")
        found = trainer.evaluate(measured, metric_key_prefix="test")
    prefix = f"test_{PREFIX}"
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def towers(text: str, cache: Path) -> dict[str, str]:
    """Folders of the vision tower and of this text tower."""
    folders = build_towers(cache / "towers", text)
    return dict(zip(("vision", "text"), map(str, folders), strict=True))


def row(metrics: dict[str, float], trained: list[str]) -> dict[str, str]:
    """Text to image R@1 / R@10 and the sum of six recalls, by language and as means of trained and other ones."""
    names = languages_of(metrics)
    cells = {name: cell(metrics, [name]) for name in names}
    groups = {
        "trained": [name for name in names if name in trained],
        "not trained": [name for name in names if name not in trained],
    }
    return cells | {f"mean, {title}": cell(metrics, group) for title, group in groups.items() if group}


def cell(metrics: dict[str, float], names: list[str]) -> str:
    values = [
        np.mean([metrics[f"{key}_{name}"] for name in names])
        for key in ("t2i_recall@1", "t2i_recall@10", "rsum")
    ]
    return f"{100 * values[0]:.0f} / {100 * values[1]:.0f} / {values[2]:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=RUNS)
    parser.add_argument("captions", nargs="?")
    parser.add_argument("--images")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", type=int, help="one of the runs, from 0")
    given = parser.parse_args()
    rows: dict[str, dict[str, str]] = {}
    for number, (tower, languages) in enumerate(RUNS[given.data]):
        if given.only in (None, number):
            options = {"captions": given.captions, "images": given.images}
            measure = sample if given.data == "sample" else partial(flickr8k, **options)
            rows[f"{', '.join(languages)}; {tower}"] = row(measure(tower, languages, given.cache), languages)
            print_table(rows)


def print_table(rows: dict[str, dict[str, str]]) -> None:
    """Runs as columns, languages as rows; T>I R@1 / T>I R@10 / sum, in per cent."""
    names: Any = dict.fromkeys(name for cells in rows.values() for name in cells)
    print("| | " + " | ".join(rows) + " |\n|---|" + "---|" * len(rows))
    for name in names:
        print(f"| {name} | " + " | ".join(cells.get(name, "") for cells in rows.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
