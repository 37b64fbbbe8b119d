"""What the measured recipe and each part of it are worth on the sample: few images, few captions, seeds.

python benchmarks/sample_recipe.py --seeds 5                  # English captions, all-MiniLM-L6-v2
python benchmarks/sample_recipe.py --seeds 5 --multilingual   # as examples/configs/sample.yaml: five languages, e5

Choices are made by the validation split alone; the test columns are there to see how far that carries. The last
epoch counts, features are cached, so a run takes seconds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from datasets import DatasetDict, disable_progress_bars
from transformers import PrinterCallback, logging, set_seed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from sample.towers import ENGLISH, MULTILINGUAL, build_towers  # noqa: E402

from hf_customclip import (  # noqa: E402
    CustomClipProcessor,
    CustomClipTrainer,
    CustomClipTrainingArguments,
    create_model,
)
from hf_customclip.data import load_image_text_dataset  # noqa: E402

POOLED = {f"{tower}_feature_{kind}": [] for tower in ("vision", "text") for kind in ("layers", "poolings")}
# Name, fields of the model, training arguments: the recipe with one part taken away.
PARTS = (
    ("default, pooled outputs alone", POOLED, {}),
    ("default, mirror images not averaged", {"average_mirrored": False}, {}),
    ("default, features not dropped", {"feature_dropout": 0.0}, {}),
    ("default, features standardised", {"standardize_features": True}, {}),
    ("default, heads start at random", {}, {"head_init": None}),
    ("default, weights not averaged", {}, {"ema_decay": None}),
    ("default, batches of pairs", {}, {"batch_of": "pairs"}),
    ("default, 16 epochs", {}, {"num_train_epochs": 16}),
)
RECIPES = (
    ("closed form, no training", {}, {"method": "closed_form"}),
    ("default", {}, {}),
    *PARTS,
    ("default, four views", {}, {"image_views": 4}),
    ("default, batches of 128 images", {}, {"per_device_train_batch_size": 128}),
)
COLUMNS = (
    "eval_rsum", "eval_csls_rsum", "test_rsum", "test_csls_rsum", "test_t2i_recall@1", "test_t2i_recall@10",
    "test_i2t_recall@1", "test_i2t_recall@10",
)  # fmt: skip


def measure(
    config: dict, arguments: dict, seed: int, data: DatasetDict, towers: tuple[Path, Path], cache: str
) -> dict[str, float]:
    """Train with one seed; metrics of both splits and seconds."""
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        args = CustomClipTrainingArguments(
            folder, seed=seed, save_strategy="no", eval_strategy="no", report_to="none", disable_tqdm=True,
            logging_strategy="no", feature_cache_dir=cache, **arguments,
        )  # fmt: skip
        model, processor = (
            create_model(*towers, **config),
            CustomClipProcessor.from_vision_text_pretrained(*towers),
        )
        trainer = CustomClipTrainer(model, args, None, data["train"], data["validation"], processor)
        trainer.remove_callback(PrinterCallback)
        trainer.get_train_dataloader()
        begin = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - begin
        metrics = trainer.evaluate() | trainer.evaluate(data["test"], metric_key_prefix="test")
    return metrics | {"seconds": seconds}


def sample_towers(text: str = ENGLISH) -> tuple[Path, Path]:
    """The folders of EfficientNet-Lite0 and of this text tower."""
    return build_towers(ROOT / "outputs" / "sample-towers", text)


def cell(runs: list[dict[str, float]], column: str) -> str:
    """Mean and standard deviation."""
    values = [run[column] for run in runs]
    digits = 1 if column.endswith("rsum") else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main() -> None:
    """Print a table, a row a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a recipe's name")
    parser.add_argument(
        "--multilingual", action="store_true", help="five languages and multilingual-e5-small"
    )
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    languages = ["en", "de", "es", "ja", "zh"] if options.multilingual else ["en"]
    towers = sample_towers(MULTILINGUAL if options.multilingual else ENGLISH)
    data = load_image_text_dataset(str(ROOT / "examples" / "sample"), languages=languages)
    print({name: len(rows) for name, rows in data.items()}, f"images, captions in {', '.join(languages)}\n")
    print(
        "| recipe | "
        + " | ".join(column.replace("eval_", "val ").replace("test_", "test ") for column in COLUMNS)
        + " | training, s |"
    )
    print("|---|" + "---:|" * (1 + len(COLUMNS)))
    with tempfile.TemporaryDirectory() as cache:
        for name, config, arguments in RECIPES:
            if options.only not in name:
                continue
            seeds = 1 if arguments.get("method") == "closed_form" else options.seeds  # nothing is drawn
            runs = [measure(config, arguments, seed, data, towers, cache) for seed in range(seeds)]
            cells = [name, *(cell(runs, column) for column in COLUMNS)]
            print(
                "| " + " | ".join([*cells, f"{statistics.mean(run['seconds'] for run in runs):.0f}"]) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
