"""What training in several languages gives, and what a text tower that knows them does: tables for languages.md.

    python benchmarks/languages.py sample --cache FOLDER
    python benchmarks/languages.py flickr8k CAPTIONS.jsonl --images FOLDER --cache FOLDER

The first runs on the bundled sample with its own recipe, the second on Flickr8k with the default recipe for frozen
towers: captions as JSON lines, `{"file_name", "split", "en": [...], "de": [...]}`. Numbers are of the test split,
corrected for hubs where the recipe saves a bank of training embeddings; every choice was made elsewhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from sample.towers import ENGLISH, MULTILINGUAL, build_towers  # noqa: E402

from hf_customclip.evaluation.corrected import PREFIX  # noqa: E402
from hf_customclip.evaluation.reports import languages_of  # noqa: E402
from hf_customclip.training.config import TrainConfig, load_config  # noqa: E402
from hf_customclip.training.run import run_training  # noqa: E402

FIVE = ["en", "de", "es", "ja", "zh"]
FOUR = ["en", "zh", "de", "pt"]
RUNS = {"sample": [(ENGLISH, ["en"]), (MULTILINGUAL, ["en"]), (MULTILINGUAL, FIVE)],
        "flickr8k": [(ENGLISH, ["en"]), (MULTILINGUAL, ["en"]), (MULTILINGUAL, FOUR)]}  # fmt: skip


def test_metrics(config: TrainConfig, tower: str, languages: list[str], cache: Path) -> dict[str, float]:
    """Train and measure on the test split: metrics without a prefix, corrected ones where there are any."""
    vision, text = build_towers(cache / "towers", tower)
    config.model |= {"vision": str(vision), "text": str(text)}
    config.data |= {"languages": languages, "eval_languages": "all"}
    with tempfile.TemporaryDirectory() as folder:
        config.training |= {
            "output_dir": folder,
            "feature_cache_dir": str(cache / "features"),
            "report_to": "none",
        }
        found = run_training(config)
    prefix = f"test_{PREFIX}" if f"test_{PREFIX}rsum" in found else "test_"
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


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
            config = load_config(ROOT / "examples" / "configs" / CONFIGS[given.data])
            if given.data == "flickr8k":
                config.data.clear()
                config.data |= {"source": given.captions, "images": given.images}
            rows[f"{', '.join(languages)}; {tower}"] = row(
                test_metrics(config, tower, languages, given.cache), languages
            )
            print_table(rows)


CONFIGS = {"sample": "sample.yaml", "flickr8k": "flickr8k.yaml"}


def print_table(rows: dict[str, dict[str, str]]) -> None:
    """Runs as columns, languages as rows; T>I R@1 / T>I R@10 / sum, in per cent."""
    names: Any = dict.fromkeys(name for cells in rows.values() for name in cells)
    print("| | " + " | ".join(rows) + " |\n|---|" + "---|" * len(rows))
    for name in names:
        print(f"| {name} | " + " | ".join(cells.get(name, "") for cells in rows.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
